"""Where the fine-tuned model is wrong: by class, by confusion, and in plain examples. Slices are in `analysis`."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.figure import Figure, share_of
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.scoring import Scores
from fine_tune_pipeline.guide.objective.task import Task, as_text, parsed

INVALID = "(not a valid answer)"

EXAMPLES_EACH = 4


@dataclass(frozen=True)
class ClassLine:
    """How often the class was found, per system, among the test rows of that class: the share, and the same as a figure."""

    name: str
    rows: int
    training_rows: int
    found: Mapping[str, float]
    figures: Mapping[str, Figure]

    def row(self) -> dict[str, Any]:
        """As the report keeps it."""
        return {"name": self.name, "rows": self.rows, "training_rows": self.training_rows, "found": dict(self.figures)}


@dataclass(frozen=True)
class Confusion:
    """`wanted` was the right value of the field, `given` was answered, `rows` times; `share` is that of all rows with the right value."""

    field: str
    wanted: str
    given: str
    rows: int
    share: Figure = dataclasses.field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class ExampleLine:
    """One test row with what two systems answered. `kind` is gained, lost or still wrong."""

    kind: str
    id: str
    prompt: str
    wanted: str
    base: str
    fine_tuned: str


def class_lines(
    rows: Sequence[Example],
    answers: Mapping[str, Sequence[str]],
    *,
    task: Task,
    train: Sequence[Example],
    clusters: Sequence[str] | None = None,
) -> list[ClassLine]:
    """Every class with test rows, worst first; empty for a task without classes.

    Args:
        clusters: what each row shares its fate with; None when rows are independent.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[task.class_of(row.completion)].append(place)
    seen = Counter(task.class_of(example.completion) for example in train)

    def found(name: str, texts: Sequence[str]) -> Figure:
        groups = None if clusters is None else [clusters[place] for place in places[name]]
        return share_of([task.class_of(texts[place]) == name for place in places[name]], clusters=groups)

    def line(name: str) -> ClassLine:
        figures = {system: found(name, texts) for system, texts in answers.items()}
        shares = {system: figure["estimate"] for system, figure in figures.items()}
        return ClassLine(name, len(places[name]), seen[name], shares, figures)

    lines = [line(name) for name in task.classes if name in places]
    return sorted(lines, key=lambda line: (line.found[FINE_TUNED], -line.rows, line.name))


def confusions(rows: Sequence[Example], texts: Sequence[str], *, task: Task) -> list[Confusion]:
    """Wrong values of fields with a closed list, most frequent first; for classification the one field is called `label`."""
    counted: Counter[tuple[str, str, str]] = Counter()
    asked: Counter[tuple[str, str]] = Counter()
    for row, text in zip(rows, texts, strict=True):
        found = list(field_values(row.completion, text, task=task))
        asked.update((field, wanted) for field, wanted, _ in found)
        counted.update((field, wanted, given) for field, wanted, given in found if wanted != given)
    return [
        Confusion(field, wanted, given, times, share_of([True] * times + [False] * (asked[field, wanted] - times)))
        for (field, wanted, given), times in counted.most_common()
    ]


def example_lines(scores: Scores, answers: Mapping[str, Sequence[str]], *, metric: str, base: str) -> list[ExampleLine]:
    """Rows that the fine-tuned model gained most on, lost most on, and those it is still wrong on, in the order of the test set."""
    gains = scores.gains(FINE_TUNED, metric, over=base)
    kind = scores.metrics[metric]
    best = kind.low if kind.better == "lower" else kind.high
    places = [place for place, row in enumerate(scores.rows) if kind.counted(row)]
    chosen = {
        "gained": sorted((place for place in places if gains[place] > 0), key=lambda place: -gains[place]),
        "lost": sorted((place for place in places if gains[place] < 0), key=lambda place: gains[place]),
        "still wrong": [place for place in places if gains[place] == 0 and scores.of(FINE_TUNED, metric)[place] != best],
    }
    return [
        ExampleLine(
            kind=name,
            id=scores.rows[place].id,
            prompt=scores.rows[place].prompt,
            wanted=scores.rows[place].completion,
            base=answers[base][place],
            fine_tuned=answers[FINE_TUNED][place],
        )
        for name, found in chosen.items()
        for place in found[:EXAMPLES_EACH]
    ]


def field_values(wanted: str, given: str, *, task: Task) -> Iterator[tuple[str, str, str]]:
    """(field, right value, answered value) of every field with a closed list."""
    if task.type == "classification":
        yield "label", task.class_of(wanted), task.class_of(given) or INVALID
        return
    right, answer = _object(wanted), _object(given)
    for field in task.enum_fields:
        if field in right:
            yield field, as_text(right[field]), as_text(answer[field]) if field in answer else INVALID


def _object(text: str) -> dict[str, Any]:
    """A parsed answer; one that is no JSON object has no field."""
    answer = parsed(text)
    return answer if isinstance(answer, dict) else {}
