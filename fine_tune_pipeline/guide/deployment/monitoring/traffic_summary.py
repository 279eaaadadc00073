"""Numbers of some requests to the endpoint: how many, how well, how fast, what people said of them."""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fine_tune_pipeline.artifacts.traffic import Logged

PERCENTILES = (50, 95, 99)


def summary(window: Sequence[Logged]) -> dict[str, Any]:
    """Numbers of one window; the shares and times are None where there is nothing to take them of."""
    answered = [logged.request for logged in window if logged.request.status == 200]
    judged = [request for request in answered if request.valid is not None]
    said = [feedback for logged in window for feedback in logged.feedback]
    times = sorted(request.latency_ms for request in answered)
    return {
        "requests": len(window),
        "from": _time(window[0].request.ts) if window else None,
        "to": _time(window[-1].request.ts) if window else None,
        "answered": len(answered),
        "errors": _counts(str(logged.request.status) for logged in window if logged.request.status != 200),
        "valid_share": sum(bool(request.valid) for request in judged) / len(judged) if judged else None,
        **{f"latency_p{percent}_ms": percentile(times, percent) for percent in PERCENTILES},
        "new_tokens": sum(request.new_tokens for request in answered),
        "thumbs_up": sum(feedback.thumb == "up" for feedback in said),
        "thumbs_down": sum(feedback.thumb == "down" for feedback in said),
        "corrections": sum(feedback.corrected is not None for feedback in said),
        "not_scrubbed": sum(logged.request.prompt_scrubbed is None for logged in window),
        "versions": _counts(logged.request.version for logged in window),
    }


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """The smallest value that `percent` of the values do not exceed; None of nothing.

    Args:
        ordered: ascending.
    """
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1] if ordered else None


def _counts(values: Any) -> str:
    return ", ".join(f"{count} x {value}" for value, count in sorted(Counter(values).items())) or "none"


def _time(ts: float) -> str:
    return datetime.fromtimestamp(ts, tz=UTC).isoformat(timespec="seconds")
