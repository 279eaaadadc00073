"""Requests as the traffic log gives them, made by hand."""

from collections.abc import Sequence
from typing import Any

from fine_tune_pipeline.artifacts.traffic import Feedback, Logged, ServedRequest


def logged(number: int = 0, *, feedback: Sequence[Feedback] = (), **fields: Any) -> Logged:
    """One request: answered, valid, fast, unless `fields` say otherwise."""
    values: dict[str, Any] = {"id": f"r{number}", "ts": 1000.0 + number, "use_case": "bank", "version": "1", "arm": "champion"}
    values |= {"prompt_scrubbed": f"question {number}", "answer_scrubbed": "yes", "prompt_tokens": 3, "new_tokens": 1}
    values |= {"latency_ms": 100.0, "status": 200, "valid": True}
    return Logged(ServedRequest(**{**values, **fields}), tuple(feedback))


def arm(count: int, *, bad: int = 0, **fields: Any) -> list[Logged]:
    """`count` requests, the first `bad` of which are as `fields` say."""
    return [logged(number, **(fields if number < bad else {})) for number in range(count)]
