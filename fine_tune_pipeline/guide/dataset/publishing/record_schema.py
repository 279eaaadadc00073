"""The form of the dataset's files, for programs that are not ours: JSON Schema of both kinds of JSONL, and the columns of Parquet."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.objective.task import Task

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLE_SCHEMA = "example.schema.json"
CHAT_SCHEMA = "chat.schema.json"

_GROUP_ROWS = 10_000
"""Rows of a row group of Parquet."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}

FIELDS: Mapping[str, Mapping[str, Any]] = {
    "id": {"type": "string", "minLength": 1, "description": "Stable over versions: the source row's own id, or a hash of its content."},
    "prompt": {"type": "string", "minLength": 1, "description": "What the model is given."},
    "completion": {"type": "string", "minLength": 1, "description": "The right answer."},
    "source": {"type": "string", "description": "Name of the source."},
    "held_out": {"type": "boolean", "description": "From a source that is kept apart for the test."},
    "metadata": {**_TEXTS, "description": "Columns of the source kept for slices, and marks of the steps."},
    "history": {"type": "array", "items": {"$ref": "#/$defs/message"}, "description": "Turns before the prompt, oldest first."},
    "role": {"enum": ["user", "tool"], "description": "Who wrote the prompt; `tool` where it is the result of a call."},
    "tools": {"type": "array", "items": {"type": "object"}, "description": "What the model may call, as JSON Schema."},
    "rejected": {"type": ["string", "null"], "description": "An answer that people liked less."},
    "licence": {"type": "string", "description": "Terms of the source."},
    "provenance": {**_TEXTS, "description": "Where in the source the row stands."},
}
"""Field of an example -> its JSON Schema."""

ALWAYS = ("id", "prompt", "completion", "source", "held_out", "metadata")
"""Fields that every line has; the others are left out where they say nothing."""

_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"type": ["string", "null"]},
        "tool_calls": {"type": "array", "items": {"type": "object"}},
        "tool_call_id": {"type": "string"},
        "name": {"type": "string"},
    },
}


def write_schemas(folder: Path, task: Task) -> None:
    """Write both schemas beside the files that they describe."""
    for name, schema in {EXAMPLE_SCHEMA: example_schema(task), CHAT_SCHEMA: chat_schema()}.items():
        (folder / name).write_text(json.dumps(schema, indent=2, ensure_ascii=False), encoding="utf-8")


def example_schema(task: Task) -> dict[str, Any]:
    """Of a line of `train.jsonl`; a completion that is JSON carries the schema of the answer (`contentSchema`)."""
    fields = {name: dict(schema) for name, schema in FIELDS.items()}
    if task.schema is not None:
        fields["completion"] |= {"contentMediaType": "application/json", "contentSchema": task.schema}
    return {
        "$schema": _DIALECT,
        "title": "One example",
        "type": "object",
        "required": list(ALWAYS),
        "properties": fields,
        "additionalProperties": False,
        "$defs": {"message": _MESSAGE},
    }


def chat_schema() -> dict[str, Any]:
    """Of a line of `train.chat.jsonl`: the last turn is the answer."""
    return {
        "$schema": _DIALECT,
        "title": "One conversation",
        "type": "object",
        "required": ["messages"],
        "properties": {
            "messages": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/message"}},
            "tools": {"type": "array", "items": {"type": "object"}, "description": "What the model may call, as JSON Schema."},
        },
        "additionalProperties": False,
        "$defs": {"message": _MESSAGE},
    }


def write_parquet(path: Path, examples: Sequence[Example]) -> None:
    """The examples as a table, for tools that read columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _arrow()
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(examples), _GROUP_ROWS):
            rows = [_columns(example) for example in examples[start : start + _GROUP_ROWS]]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _arrow() -> "pa.Schema":
    """Maps of texts are maps; turns and tools, whose keys differ from row to row, are JSON text."""
    import pyarrow as pa

    kinds = {"held_out": pa.bool_(), **dict.fromkeys(("metadata", "provenance"), pa.map_(pa.string(), pa.string()))}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in FIELDS])


def _columns(example: Example) -> dict[str, Any]:
    row = {name: getattr(example, name) for name in FIELDS}
    maps = {name: list(row[name].items()) for name in ("metadata", "provenance")}
    return {**row, **maps, **{name: json.dumps(row[name], ensure_ascii=False) for name in ("history", "tools")}}
