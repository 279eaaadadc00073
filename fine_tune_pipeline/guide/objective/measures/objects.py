"""Scores of an answer that is a JSON object: the whole of it, its fields, its form."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from fine_tune_pipeline.guide.objective.measures.item import Item, Score
from fine_tune_pipeline.guide.objective.measures.texts import f1
from fine_tune_pipeline.guide.objective.task import Task, parsed

_ABSENT = object()


def same_object(item: Item) -> float:
    """1 if the objects are equal by value and type, whatever their spelling."""
    answer = parsed(item.prediction)
    return float(answer is not None and _canonical(answer) == _canonical(parsed(item.reference)))


def valid_json(item: Item) -> float:
    """1 if the answer is a JSON object."""
    return float(isinstance(parsed(item.prediction), dict))


def valid_answer(item: Item) -> float:
    """1 if the answer is one of the task: a label, an object after the schema."""
    return float(item.task.problem(item.prediction) is None)


def field_match(path: Sequence[str]) -> Score:
    """1 if one field is right, absent where it must be absent."""

    def score(item: Item) -> float:
        answer = parsed(item.prediction)
        return float(isinstance(answer, dict) and _canonical(_field(answer, path)) == _canonical(_field(parsed(item.reference), path)))

    return score


def field_f1(item: Item) -> float:
    """F1 of the leaves (path and value); lists are compared as bags, since their order seldom means anything in extracted data."""
    answer = parsed(item.prediction)
    if answer is None:
        return 0.0
    right = Counter((path, _canonical(value)) for path, value in leaves(parsed(item.reference)))
    return f1(Counter((path, _canonical(value)) for path, value in leaves(answer)), right)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything that holds nothing else; places in a list are not told apart."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for item in value:
            yield from leaves(item, f"{path}[]")
    else:
        yield path, value


def has_field(task: Task, path: Sequence[str]) -> bool:
    """Whether the schema of the answer names such a field."""
    sub: Any = task.schema
    for name in path:
        properties = sub.get("properties") if isinstance(sub, dict) else None
        if not isinstance(properties, dict) or name not in properties:
            return False
        sub = properties[name]
    return True


def _field(answer: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(answer, dict) or name not in answer:
            return _ABSENT
        answer = answer[name]
    return answer


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
