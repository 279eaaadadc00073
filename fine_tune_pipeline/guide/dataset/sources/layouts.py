"""Rows in the usual training formats: of a conversation, an instruction, a preference pair each wanted answer becomes one record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fine_tune_pipeline.artifacts.examples import Message, said
from fine_tune_pipeline.guide.dataset.sources.messages import UnfitRow, check_order, conversation, sharegpt, tool_schemas
from fine_tune_pipeline.spec.sources import Layout, Turns


@dataclass(frozen=True)
class Record:
    """One answer and what stands before it: `prompt` is the message that is answered, `role` who wrote it (`user` or `tool`)."""

    prompt: str
    completion: str
    history: list[Message] = field(default_factory=list)
    role: str = "user"
    tools: list[dict[str, Any]] = field(default_factory=list)
    rejected: str | None = None


@dataclass(frozen=True)
class Read:
    """The records of one row, and whether its conversation ends with something that nobody answered, which is left out."""

    records: list[Record]
    unanswered_end: bool = False


def read_row(columns: Mapping[str, Any], *, layout: Layout, names: Mapping[str, str], turns: Turns) -> Read:
    """What a row of a training format holds.

    Args:
        columns: of the row.
        layout: names the format; `columns` is none and is not for here.
        names: what the row calls the columns of the format, where it differs.
        turns: of a conversation, whether every answer is a record or only the last one.

    Raises:
        UnfitRow: with the reason and what was seen.
    """
    own = {name: _column(columns, own) for name, own in names.items()}
    return _READERS[layout]({**columns, **own}, turns)


def resembled(columns: Mapping[str, Any]) -> str | None:
    """What to write in the YAML for a row whose columns look like those of a training format or chat; None if they do not."""
    if columns.get("type") == "message" and {"ts", "text"} <= columns.keys():
        return "type: slack, and as path the export's folder or .zip"
    if {"messageType", "createdDateTime"} <= columns.keys():
        return "type: teams"
    for name, value in columns.items():
        if (
            isinstance(value, list)
            and value
            and isinstance(value[0], Mapping)
            and name not in ("prompt", "completion", "chosen", "rejected")
        ):
            if {"role", "content"} <= value[0].keys():
                return _proposal("messages", "messages", name)
            if {"from", "value"} <= value[0].keys():
                return _proposal("sharegpt", "conversations", name)
    if {"chosen", "rejected"} <= columns.keys():
        return "layout: preference"
    if {"instruction", "output"} <= columns.keys():
        return "layout: alpaca"
    return "layout: prompt_completion" if isinstance(columns.get("prompt"), list) else None


def _proposal(layout: str, wanted: str, name: str) -> str:
    return f"layout: {layout}" if name == wanted else f"layout: {layout} and columns: {{{wanted}: {name}}}"


def _messages(columns: Mapping[str, Any], turns: Turns) -> Read:
    return _answers(conversation(_column(columns, "messages"), "messages"), columns, name="messages", turns=turns)


def _sharegpt(columns: Mapping[str, Any], turns: Turns) -> Read:
    said_first = [{"role": "system", "content": columns["system"]}] if columns.get("system") else []
    messages = sharegpt(_column(columns, "conversations"), "conversations")
    return _answers([*said_first, *messages], columns, name="conversations", turns=turns)


def _alpaca(columns: Mapping[str, Any], _: Turns) -> Read:
    instruction, answer = (_plain_text(_column(columns, name), name) for name in ("instruction", "output"))
    given = _plain_text(columns.get("input"), "input")
    system = _plain_text(columns.get("system"), "system")
    prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
    return Read([Record(prompt, answer, history=[{"role": "system", "content": system}] if system else [])])


def _prompt_completion(columns: Mapping[str, Any], turns: Turns) -> Read:
    before = _before(_column(columns, "prompt"))
    answer = _after(_column(columns, "completion"), "completion")
    return _answers([*before, *answer], columns, name="prompt and completion", turns=turns, first=len(before))


def _preference(columns: Mapping[str, Any], _: Turns) -> Read:
    chosen, rejected = (_after(_column(columns, name), name) for name in ("chosen", "rejected"))
    if chosen[0]["role"] == rejected[0]["role"] == "assistant":
        before = _before(_column(columns, "prompt"))
    else:
        # The prompt is part of both; a column `prompt` beside it says the same again.
        shared = next((place for place, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), len(chosen))
        before, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if chosen == rejected:
        raise UnfitRow("no_preference", "chosen and rejected are the same; want two answers to one prompt")
    if not len(chosen) == len(rejected) == 1 or rejected[0]["role"] != "assistant":
        raise UnfitRow(
            "not_one_answer", f"after what they share chosen has {len(chosen)} messages and rejected {len(rejected)}, want one each"
        )
    read = _answers([*before, *chosen], columns, name="prompt and chosen", turns="last")
    return replace(read, records=[replace(record, rejected=said(rejected[0])) for record in read.records])


_READERS: dict[str, Callable[[Mapping[str, Any], Turns], Read]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "preference": _preference,
}


def _answers(messages: Sequence[Message], columns: Mapping[str, Any], *, name: str, turns: Turns, first: int = 0) -> Read:
    """Records of the answers in a conversation from message `first` on."""
    check_order(messages, name)
    tools = tool_schemas(columns.get("tools"))
    # A weight of 0 is OpenAI's mark of an answer that nothing is to be learnt from.
    places = [place for place, one in enumerate(messages) if place >= first and one["role"] == "assistant" and one.get("weight") != 0]
    if not places:
        raise UnfitRow("no_answer", f"{name}: no message of the assistant to learn from")
    bare = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    records = [
        Record(said(bare[place - 1]), said(bare[place]), history=bare[: place - 1], role=bare[place - 1]["role"], tools=tools)
        for place in (places if turns == "all" else places[-1:])
    ]
    return Read(records, unanswered_end=messages[-1]["role"] != "assistant")


def _before(value: Any) -> list[Message]:
    return conversation(value, "prompt") if isinstance(value, list) else [{"role": "user", "content": _plain_text(value, "prompt")}]


def _after(value: Any, name: str) -> list[Message]:
    return conversation(value, name) if isinstance(value, list) else [{"role": "assistant", "content": _plain_text(value, name)}]


def _plain_text(value: Any, name: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool | int | float):
        return str(value)
    raise UnfitRow("non_text_content", f"{name}: got {type(value).__name__}, want text")


def _column(columns: Mapping[str, Any], name: str) -> Any:
    if name not in columns:
        seen = ", ".join(map(repr, list(columns)[:12])) or "no columns"
        raise UnfitRow("missing_column", f"there is no column {name!r}; the row has {seen}")
    return columns[name]
