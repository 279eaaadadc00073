"""Rows and prompts as messages of the chat API: the one place, so that training, prediction and serving send the same."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fine_tune_pipeline.artifacts.examples import Asked, Message, said
from fine_tune_pipeline.programs.prompts import all_shots, documents
from fine_tune_pipeline.programs.requests import PromptFormat, Shot

FEWEST_ROWS = 10
"""Rows that the provider wants at least."""

MOST_BYTES = 512 * 1024 * 1024
"""Of one uploaded file."""

BYTES_PER_TOKEN = 3.5
"""English messages have about four bytes a token, JSON answers about three."""

FRAME_TOKENS = 3
"""Of each message, beside its words."""


def messages(asked: Asked, *, format: PromptFormat, shots: Sequence[Shot] = ()) -> list[Message]:
    """All that stands before the answer."""
    before = [{"role": "system", "content": format.instruction}] if format.instruction else []
    for shot in all_shots(asked, shots):
        before += [{"role": "user", "content": shot.prompt}, {"role": "assistant", "content": shot.completion}]
    return [*before, *asked.history, {**_role(asked), "content": documents(asked) + asked.prompt}]


def training_row(row: Mapping[str, Any], *, format: PromptFormat) -> dict[str, Any]:
    """A row of the dataset as the provider's JSONL wants it."""
    asked = Asked.of(row)
    turns = [*messages(asked, format=format), {"role": "assistant", "content": row["completion"]}]
    return {"messages": turns, **({"tools": list(asked.tools)} if asked.tools else {})}


def problem_of(row: Mapping[str, Any]) -> str | None:
    """Why the provider would refuse a training row; None if it would not."""
    turns = row["messages"]
    unknown = sorted({turn["role"] for turn in turns} - {"system", "developer", "user", "assistant", "tool"})
    if unknown:
        return f"role {', '.join(unknown)}: want system, user, assistant or tool"
    if not said(turns[-1]).strip():
        return "the answer is empty: nothing could be learned from it"
    if not any(turn["role"] in ("user", "tool") and said(turn).strip() for turn in turns):
        return "the prompt is empty"
    return None


def likely_tokens(turns: Iterable[Message]) -> int:
    """About how many tokens the messages take; the provider's tokenizer is not asked."""
    return sum(FRAME_TOKENS + math.ceil(len(said(turn).encode("utf-8")) / BYTES_PER_TOKEN) for turn in turns)


def as_jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A file for the provider; the same rows give the same bytes."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def _role(asked: Asked) -> dict[str, Any]:
    """A tool's result names the call that it answers: the last one made."""
    if asked.role != "tool":
        return {"role": asked.role}
    calls = [call for message in asked.history for call in message.get("tool_calls") or []]
    return {"role": "tool", "tool_call_id": calls[-1]["id"]} if calls and "id" in calls[-1] else {"role": "tool"}
