"""Examples and predictions as JSONL: one record a line, in order, written atomically."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Message = dict[str, Any]
"""A turn of a conversation as OpenAI's chat API writes it: `role` (system, user, assistant or tool), `content`, `tool_calls`, …"""


Passage = dict[str, str]
"""Something that was looked up: `text` of a document, or `prompt` and `completion` of an example."""


@dataclass(frozen=True)
class Asked:
    """What stands before an answer: the prompt, the turns before it (oldest first), who wrote the prompt (`user`, or `tool` where it is
    the result of a call), and what the model may call, as JSON Schema. `context` is what was looked up for it, the nearest last."""

    prompt: str
    history: Sequence[Message] = ()
    role: str = "user"
    tools: Sequence[Mapping[str, Any]] = ()
    context: Sequence[Passage] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Asked":
        """What a row of a JSONL file asks."""
        return cls(row["prompt"], **{name: row[name] for name in ("history", "role", "tools", "context") if name in row})

    @property
    def text(self) -> str:
        """All that was said: the prompt alone where nothing stands before it."""
        return "\n".join([*(words for message in self.history if (words := said(message))), self.prompt])

    def beside(self) -> dict[str, Any]:
        """History, role and tools as JSON, without those that say nothing."""
        found = {"history": list(self.history), "role": self.role, "tools": list(self.tools)}
        return {name: value for name, value in found.items() if value != _NOTHING[name]}


@dataclass(frozen=True)
class Example:
    """One thing to learn: what the model is given and the right answer.

    `id` is stable over runs (content of the source row, or its own id); `source` names where it came from;
    `held_out` marks rows of the sources kept apart for the test; `metadata` holds columns for slices,
    and marks of the steps (such as `cluster`). `history` are the turns before the prompt, oldest first; `role` is who wrote the prompt,
    `user` or, where it is the result of a call, `tool`; `tools` is what the model may call, as JSON Schema. `rejected` is an answer that
    people liked less. `licence` are the terms of the source, `provenance` says where in it the row stands (such as `file` and `row`).
    `context` is what was looked up for the row; no row of a dataset has any.
    """

    id: str
    prompt: str
    completion: str
    source: str = ""
    held_out: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    history: list[Message] = field(default_factory=list)
    role: str = "user"
    tools: list[dict[str, Any]] = field(default_factory=list)
    rejected: str | None = None
    licence: str = ""
    provenance: dict[str, str] = field(default_factory=dict)
    context: list[Passage] = field(default_factory=list)

    @property
    def question(self) -> str:
        """All that was said before the answer: the prompt alone where nothing stands before it."""
        return self.asked.text

    @property
    def asked(self) -> Asked:
        """What a model is given."""
        return Asked(self.prompt, history=self.history, role=self.role, tools=self.tools, context=self.context)

    def without_answer(self) -> dict[str, Any]:
        """What a program that answers may see: id and all that stands before the answer."""
        looked_up = {"context": self.context} if self.context else {}
        return {"id": self.id, "prompt": self.prompt, **self.asked.beside(), **looked_up}

    def row(self) -> dict[str, Any]:
        """The example as JSON, without the later fields where they say nothing; what is in it is the example's own, not a copy."""
        return {name: value for name, value in vars(self).items() if name in _ALWAYS or value != _NOTHING[name]}


_ALWAYS = ("id", "prompt", "completion", "source", "held_out", "metadata")
_NOTHING: dict[str, Any] = {"history": [], "role": "user", "tools": [], "rejected": None, "licence": "", "provenance": {}, "context": []}


def said(message: Message) -> str:
    """The words of a turn; a call of a tool as JSON."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or []]
    return "\n".join(filter(None, [message.get("content") or "", *(json.dumps(call, ensure_ascii=False) for call in calls)]))


class BrokenLine(Exception):
    """A line of a JSONL file is not a JSON object."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSONL file.

    Raises:
        BrokenLine: names file, line and what was seen.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BrokenLine(f"{path}:{number}: not JSON ({error.msg} at column {error.colno}); want one object a line") from error
        if not isinstance(row, dict):
            raise BrokenLine(f"{path}:{number}: got {type(row).__name__}, want an object")
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSONL; a reader sees all of them or the old file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, path)


def read_examples(path: Path) -> list[Example]:
    """Examples of a JSONL file that a step wrote."""
    return [Example(**row) for row in read_rows(path)]


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as JSONL: id, prompt, completion, source, held_out, metadata, and what else they have."""
    write_rows(path, (example.row() for example in examples))
