"""Metrics as plain functions of one prediction and its reference: the one registry that fixes each metric's range and direction.

Every metric is a score per example; a report shows their mean. No `evaluate` here: `programs/score.py` averages the same scores with it.
"""

import json
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import Any, Literal

from fine_tune_pipeline.guide.objective.task import ExtractionTask, Task, TaskType, normalised_label, parsed, task_of

Better = Literal["higher", "lower", "neither"]

FIELD_MATCH = "field_match"

Score = Callable[[str, str, Task], float]
"""Prediction, reference, task -> a number in the metric's range."""


class UnknownMetric(ValueError):
    """The metric does not exist, or not for this task; the message lists those that do."""


@dataclass(frozen=True)
class Metric:
    """What a number means.

    `low` and `high` bound a single score (`high` may be infinite). `binary` scores are 0 or 1, so exact intervals for shares apply.
    `validity` says that it looks at the form of an answer only: it can guard, but a wrong answer may have it.
    """

    name: str
    tasks: tuple[TaskType, ...]
    low: float
    high: float
    better: Better
    binary: bool
    validity: bool
    about: str
    score: Score


def metric_named(name: str, task: Task) -> Metric:
    """The metric of that name, for that task; `field_match.<field>` names a field of the answer, nested ones by dots.

    Raises:
        UnknownMetric: lists the metrics of the task.
    """
    family, _, field = name.partition(".")
    metric = METRICS.get(family)
    if metric is None or task.type not in metric.tasks or ("." in name) != (family == FIELD_MATCH):
        raise UnknownMetric(f"metric {name!r} is not one of a {task.type} task; want one of {', '.join(allowed_metrics(task))}")
    if family != FIELD_MATCH:
        return metric
    if not _has_field(task, field.split(".")):
        raise UnknownMetric(f"metric {name!r}: the answer's schema has no field {field!r}; want one of {', '.join(allowed_metrics(task))}")
    return replace(metric, name=name, about=f"{field} is right", score=_field_match(field.split(".")))


def allowed_metrics(task: Task) -> list[str]:
    """Names that a criterion of this task may use, the most telling first."""
    names = [name for name, metric in METRICS.items() if task.type in metric.tasks and name != FIELD_MATCH]
    fields = [f"{FIELD_MATCH}.{name}" for name in task.properties] if isinstance(task, ExtractionTask) else []
    return [*names[:1], *fields, *names[1:]]


def score_one(prediction: str, reference: str, *, task: Task, metrics: Sequence[str]) -> dict[str, float]:
    """Scores of one prediction, by metric name.

    Raises:
        UnknownMetric: a name is not one of the task.
    """
    return {name: metric_named(name, task).score(prediction, reference, task) for name in metrics}


def scorer(settings: Mapping[str, Any]) -> Callable[[str, str], float]:
    """A function of prediction and reference, from settings that fit into JSON: what a program is given to score with.

    Args:
        settings: `task` as `Task.described` says it, and the name of a `metric`.

    Raises:
        UnknownMetric: it is not one of the task.
    """
    task = task_of(settings["task"])
    metric = metric_named(settings["metric"], task)
    return lambda prediction, reference: metric.score(prediction, reference, task)


def _label_match(prediction: str, reference: str, _task: Task) -> float:
    return float(normalised_label(prediction) == normalised_label(reference))


def _exact_match(prediction: str, reference: str, task: Task) -> float:
    if task.type == "classification":
        return _label_match(prediction, reference, task)
    if task.type == "extraction":
        answer = parsed(prediction)
        return float(answer is not None and _canonical(answer) == _canonical(parsed(reference)))
    return float(words(prediction) == words(reference))


def _valid_json(prediction: str, _reference: str, _task: Task) -> float:
    return float(isinstance(parsed(prediction), dict))


def _valid_answer(prediction: str, _reference: str, task: Task) -> float:
    return float(task.problem(prediction) is None)


def _field_match(path: Sequence[str]) -> Score:
    def score(prediction: str, reference: str, _task: Task) -> float:
        answer = parsed(prediction)
        return float(isinstance(answer, dict) and _canonical(_field(answer, path)) == _canonical(_field(parsed(reference), path)))

    return score


def _field_f1(prediction: str, reference: str, _task: Task) -> float:
    """F1 of the leaves (path and value); lists are compared as bags, since their order seldom means anything in extracted data."""
    answer = parsed(prediction)
    if answer is None:
        return 0.0
    return _f1(Counter(_leaves(answer)), Counter(_leaves(parsed(reference))))


def _token_f1(prediction: str, reference: str, _task: Task) -> float:
    return _f1(Counter(words(prediction)), Counter(words(reference)))


def _rouge_l(prediction: str, reference: str, _task: Task) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, with beta 1)."""
    one, other = words(prediction), words(reference)
    if not one or not other:
        return float(one == other)
    common = _longest_common(one, other)
    return 2 * common / (len(one) + len(other))


def _length_ratio(prediction: str, reference: str, _task: Task) -> float:
    return len(prediction.split()) / max(1, len(reference.split()))


def _edit_rate(prediction: str, reference: str, _task: Task) -> float:
    """Levenshtein distance in characters over the longer length: 0 the same, 1 nothing in common."""
    longer = max(len(prediction), len(reference))
    return _edits(prediction, reference) / longer if longer else 0.0


OPEN: tuple[TaskType, ...] = ("question_answering", "generation")

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", ("classification",), 0, 1, "higher", True, False, "the label is right", _label_match),
            Metric(
                "exact_match",
                ("classification", "extraction", "question_answering"),
                0,
                1,
                "higher",
                True,
                False,
                "the whole answer is right",
                _exact_match,
            ),
            Metric(FIELD_MATCH, ("extraction",), 0, 1, "higher", True, False, "one field of the answer is right", _field_match(())),
            Metric("field_f1", ("extraction",), 0, 1, "higher", False, False, "share of fields that are right (F1)", _field_f1),
            Metric("token_f1", OPEN, 0, 1, "higher", False, False, "words shared with the reference (F1)", _token_f1),
            Metric("rouge_l", OPEN, 0, 1, "higher", False, False, "longest common word sequence with the reference (F1)", _rouge_l),
            Metric("edit_rate", OPEN, 0, 1, "lower", False, False, "characters to change to reach the reference", _edit_rate),
            Metric("valid_json", ("extraction",), 0, 1, "higher", True, True, "the answer is a JSON object", _valid_json),
            Metric("schema_valid", ("extraction",), 0, 1, "higher", True, True, "the answer follows the schema", _valid_answer),
            Metric("valid_label", ("classification",), 0, 1, "higher", True, True, "the answer is one of the labels", _valid_answer),
            Metric("length_ratio", OPEN, 0, inf, "neither", False, True, "words of the answer over words of the reference", _length_ratio),
        )
    }
)
"""Name -> metric, the most telling first. `field_match` is a family: use `field_match.<field>`."""


def words(text: str) -> list[str]:
    """Words for comparison: Unicode-normalised, without case, punctuation and extra white space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(
        " " if character in string.punctuation or unicodedata.category(character).startswith("P") else character for character in folded
    ).split()


def _f1(one: Counter[Any], other: Counter[Any]) -> float:
    """2·|overlap| / (|one| + |other|); two empty bags agree."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


_ABSENT = object()


def _field(answer: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(answer, dict) or name not in answer:
            return _ABSENT
        answer = answer[name]
    return answer


def _has_field(task: Task, path: Sequence[str]) -> bool:
    sub: Any = task.schema
    for name in path:
        properties = sub.get("properties") if isinstance(sub, dict) else None
        if not isinstance(properties, dict) or name not in properties:
            return False
        sub = properties[name]
    return True


def _canonical(value: Any) -> str:
    """Equal for equal JSON: key order does not matter, 1 and 1.0 are one number, and `true` is not 1."""
    return "absent" if value is _ABSENT else json.dumps(_whole_numbers(value), sort_keys=True, ensure_ascii=False)


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for item in value:
            yield from _leaves(item, f"{path}[]")
    else:
        yield path, _canonical(value)


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    row = [0] * (len(other) + 1)
    for left in one:
        diagonal = 0
        for place, right in enumerate(other, start=1):
            diagonal, row[place] = row[place], diagonal + 1 if left == right else max(row[place], row[place - 1])
    return row[-1]


def _edits(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for line, left in enumerate(one, start=1):
        diagonal, row[0] = row[0], line
        for place, right in enumerate(other, start=1):
            diagonal, row[place] = row[place], min(diagonal + (left != right), row[place] + 1, row[place - 1] + 1)
    return row[-1]
