"""Small things that the tests of this room are made of."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.parts import Gathered, cut, gathered, missing
from fine_tune_pipeline.guide.objective.task import Task, classification, extraction
from fine_tune_pipeline.programs.named_work import do_part
from fine_tune_pipeline.programs.pii.personal_data import Span, merged
from fine_tune_pipeline.spec.use_case import UseCaseSpec

FRUIT = classification(["apple", "pear"])
OPEN = Task(type="generation")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "name": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FORM = extraction(SCHEMA)


def example(id_: str, prompt: str, completion: str = "apple", **more: Any) -> Example:
    return Example(id=id_, prompt=prompt, completion=completion, **more)


def ids(rows: Iterable[Any]) -> list[str]:
    return [row.id for row in rows]


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def use_case(folder: Path, **dataset: Any) -> UseCaseSpec:
    """A use case over apples and pears, with these fields in its section `dataset`."""
    content = {
        "name": "fruit",
        "objective": {
            "goal": "Tell apples from pears",
            "task": {"type": "classification", "labels": ["apple", "pear"]},
            "success": [{"metric": "exact_match", "beats": "majority"}],
        },
        "dataset": {"sources": [{"type": "jsonl", "path": "rows.jsonl"}], **dataset},
    }
    return UseCaseSpec.model_validate(content).at(folder)


class Words:
    """Finds the words it is told, each with its entity: stands for Presidio."""

    name = "words 1.0"

    def __init__(self, score: float = 0.9, **entities: str) -> None:
        self.score = score
        self.entities = entities

    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        return [self.patterns(text) for text in texts]

    def patterns(self, text: str) -> list[Span]:
        spans = []
        for word, entity in self.entities.items():
            start = text.find(word)
            if start >= 0:
                spans.append(Span(start, start + len(word), entity, self.score))
        return merged(spans, text)


def on_parts(function: str, *, settings: Mapping[str, Any], source: Path, folder: Path, rows: int = 3) -> Gathered:
    """Work on parts of a few rows each, here, as the data engine does it with more; those that are done are not done again."""
    parts = cut(source, rows=rows)
    for part in missing(parts, folder):
        do_part(part, function=function, settings=json.dumps(settings), folder=str(folder))
    return gathered(parts, folder)
