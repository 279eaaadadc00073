"""Labelling rules of the YAML as functions: columns of a row in, a label or nothing out."""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import regex

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.dataset.more.labelling import Voter
from fine_tune_pipeline.guide.objective.task import Task, as_text
from fine_tune_pipeline.spec.more import Equals, Keywords, LabellingSpec, Pattern, PythonRule, Rule

Columns = Mapping[str, str]


class UnknownLabel(ValueError):
    """A rule says a label that the task does not have, or speaks of a field without a closed list."""


class MissingFunction(ValueError):
    """The file or the function of a Python rule is not there."""


class BrokenRule(ValueError):
    """A Python rule failed, or gave something that is neither a label nor None."""


def voters(spec: LabellingSpec, *, task: Task, folder: Path) -> list[Voter]:
    """The rules, ready to vote.

    Args:
        folder: of the use case, where files of Python rules lie.

    Raises:
        UnknownLabel, MissingFunction: names the rule.
    """
    fields = labelled_fields(task)
    if not fields:
        raise UnknownLabel(f"dataset.more.labelling: the task {task.type} has no closed list of answers to label with; leave it out")
    return [_voter(rule, f"dataset.more.labelling.rules[{number}] ({rule.name})", fields, folder) for number, rule in enumerate(spec.rules)]


def labelled_fields(task: Task) -> dict[str, list[str]]:
    """Field -> its values, as text; a classification has one field, `label`."""
    return {"label": task.classes} if task.type == "classification" else dict(task.enum_fields)


def code_sha256(spec: LabellingSpec, folder: Path) -> dict[str, str]:
    """File -> hash of the Python that the rules call, for the fingerprint."""
    names = sorted({rule.function.split(":")[0] for rule in spec.rules if isinstance(rule, PythonRule)})
    return {name: file_sha256(path) for name in names if (path := folder / f"{name}.py").is_file()}


def columns_of(example: Example) -> dict[str, str]:
    """What a rule may look at: the prompt and the columns that the source keeps. The answer is not among them."""
    return {**example.metadata, "prompt": example.prompt}


def _voter(rule: Rule, place: str, fields: Mapping[str, Sequence[str]], folder: Path) -> Voter:
    field = rule.field or next(iter(fields))
    if field not in fields:
        raise UnknownLabel(f"{place}.field: got {field!r}, want one of {', '.join(fields)}")
    if isinstance(rule, PythonRule):
        return Voter(rule.name, field, _called(_function(rule, place, folder), place, fields[field]), rule.accuracy)
    if rule.label not in fields[field]:
        raise UnknownLabel(f"{place}.label: got {rule.label!r}, want one of {', '.join(fields[field])}")
    holds, label, column = _test(rule), rule.label, rule.column

    def vote(example: Example) -> str | None:
        value = _at(columns_of(example), column)
        return label if value is not None and holds(value) else None

    return Voter(rule.name, field, vote, rule.accuracy)


def _test(rule: Keywords | Pattern | Equals) -> Callable[[str], bool]:
    if isinstance(rule, Equals):
        values = set(rule.values)
        return lambda text: text in values
    if isinstance(rule, Pattern):
        pattern = regex.compile(rule.pattern)
    else:
        words = "|".join(regex.escape(word) for word in sorted(rule.words, key=len, reverse=True))
        pattern = regex.compile(rf"(?i)(?<!\w)(?:{words})(?!\w)")
    return lambda text: pattern.search(text) is not None


def _at(columns: Columns, path: str) -> str | None:
    """The column of this name, or what a dotted path finds in the JSON of a column; None if there is nothing."""
    if path in columns:
        return columns[path]
    name, *rest = path.split(".")
    if name not in columns or not rest:
        return None
    try:
        value: Any = json.loads(columns[name])
    except ValueError:
        return None
    for part in rest:
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return None
    return as_text(value)


def _called(function: Callable[[Columns], Any], place: str, labels: Sequence[str]) -> Callable[[Example], str | None]:
    def vote(example: Example) -> str | None:
        try:
            label = function(columns_of(example))
        # Whatever a function of the user's raises, the row says why.
        except Exception as error:
            raise BrokenRule(
                f"{place}: failed on row {example.id} ({type(error).__name__}: {error}); return None for what it does not know"
            ) from error
        if label is not None and label not in labels:
            raise BrokenRule(f"{place}: gave {label!r} for row {example.id}, want None or one of {', '.join(labels)}")
        return label

    return vote


def _function(rule: PythonRule, place: str, folder: Path) -> Callable[[Columns], Any]:
    name, wanted = rule.function.split(":")
    path = folder / f"{name}.py"
    if not path.is_file():
        raise MissingFunction(f"{place}.function: {path} is not there; Python rules lie beside the YAML file")
    function = getattr(_module(name, path), wanted, None)
    if not callable(function):
        raise MissingFunction(f"{place}.function: {path} has no function {wanted}")
    return function


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_labelling_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
