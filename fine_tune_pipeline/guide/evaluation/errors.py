"""Where the fine-tuned model is wrong: by class, by confusion, by slice of the data, and in plain examples."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.scoring import Scores
from fine_tune_pipeline.guide.evaluation.statistics import two_sided
from fine_tune_pipeline.guide.objective.task import Task, as_text, parsed

INVALID = "(not a valid answer)"

SMALLEST_SLICE = 50
"""Rows below which a slice says too little to be shown."""

EXAMPLES_EACH = 4


@dataclass(frozen=True)
class ClassLine:
    """How often the class was found, per system, among the test rows of that class."""

    name: str
    rows: int
    training_rows: int
    found: Mapping[str, float]


@dataclass(frozen=True)
class Confusion:
    """`wanted` was the right value of the field, `given` was answered, `rows` times."""

    field: str
    wanted: str
    given: str
    rows: int


@dataclass(frozen=True)
class ExampleLine:
    """One test row with what two systems answered. `kind` is gained, lost or still wrong."""

    kind: str
    id: str
    prompt: str
    wanted: str
    base: str
    fine_tuned: str


@dataclass(frozen=True)
class SliceLine:
    """Rows whose metadata has one value: both means, and the two-sided interval of the gain."""

    slice: str
    rows: int
    base: float
    fine_tuned: float
    gain: Bounds


def class_lines(rows: Sequence[Example], answers: Mapping[str, Sequence[str]], *, task: Task, train: Sequence[Example]) -> list[ClassLine]:
    """Every class with test rows, worst first; empty for a task without classes."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[task.class_of(row.completion)].append(place)
    seen = Counter(task.class_of(example.completion) for example in train)

    def found(name: str, texts: Sequence[str]) -> float:
        return sum(task.class_of(texts[place]) == name for place in places[name]) / len(places[name])

    lines = [
        ClassLine(name, len(places[name]), seen[name], {system: found(name, texts) for system, texts in answers.items()})
        for name in task.classes
        if name in places
    ]
    return sorted(lines, key=lambda line: (line.found[FINE_TUNED], -line.rows, line.name))


def confusions(rows: Sequence[Example], texts: Sequence[str], *, task: Task) -> list[Confusion]:
    """Wrong values of fields with a closed list, most frequent first; for classification the one field is called `label`."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for row, text in zip(rows, texts, strict=True):
        counted.update((field, wanted, given) for field, wanted, given in field_values(row.completion, text, task=task) if wanted != given)
    return [Confusion(field, wanted, given, times) for (field, wanted, given), times in counted.most_common()]


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


def slice_lines(scores: Scores, *, columns: Collection[str], metric: str, base: str, level: float = 0.95) -> list[SliceLine]:
    """Every value of these metadata columns with at least `SMALLEST_SLICE` rows, smallest gain first.

    Args:
        columns: those that the user named; marks of the steps are none.
        level: of the two-sided interval.
    """
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(scores.rows):
        for key, value in row.metadata.items():
            if key in columns:
                places[key, value].append(place)
    lines = []
    for (key, value), members in places.items():
        # A slice that is the whole test set says nothing new.
        if SMALLEST_SLICE <= len(members) < len(scores.rows):
            part = scores.part(members)
            gain = part.gain(FINE_TUNED, metric, over=base, level=two_sided(level))
            lines.append(SliceLine(f"{key} = {value}", len(members), part.mean(base, metric), part.mean(FINE_TUNED, metric), gain))
    return sorted(lines, key=lambda line: (line.gain.estimate, line.slice))


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
