"""The task of a use case: which answers are valid, which classes there are, and how an untrained model is told what to do."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.guide.objective.own_metrics import OwnScore, own_metrics
from fine_tune_pipeline.spec.objective import Classification, Extraction, StyleRule
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

TaskType = Literal["classification", "extraction", "question_answering", "generation", "preference"]

OPEN: tuple[TaskType, ...] = ("question_answering", "generation", "preference")
"""Tasks whose answers are free text."""

SHOWN_CHARACTERS = 80
"""So much of a wrong answer is quoted."""


class UnreadableTask(ValueError):
    """The file of labels or the JSON Schema is missing or not JSON."""


class UnusableLabels(ValueError):
    """The labels are not at least two distinct, non-empty strings."""


class UnusableSchema(ValueError):
    """The schema is not a JSON Schema of an object with named properties, or it points to another document."""


@dataclass(frozen=True)
class Task:
    """An open task (see `OPEN`): any non-empty text is an answer, and there are no classes.

    `rules` and `own` are what the use case adds to how answers are scored; which answers are valid does not depend on them.
    """

    type: TaskType
    labels: list[str] | None = None
    schema: dict[str, Any] | None = None
    rules: tuple[StyleRule, ...] = ()
    own: tuple[OwnScore, ...] = ()

    @property
    def classes(self) -> list[str]:
        """All classes that an answer can fall in; empty for an open task."""
        return []

    @property
    def enum_fields(self) -> dict[str, list[str]]:
        """Fields of the answer with a closed list of values, as text; the classifier learns one after the other."""
        return {}

    def described(self) -> dict[str, Any]:
        """What decides which answers are valid, as JSON; `task_of` makes the task from it."""
        return {"type": self.type, "labels": self.labels, "schema": self.schema}

    def instruction(self, goal: str) -> str:
        """What an untrained model is told."""
        return f"{goal.strip()}\nAnswer with the answer only."

    def class_of(self, completion: str) -> str:
        """The class of an answer, "" if the task is open or the answer has none."""
        return ""

    def problem(self, completion: str) -> str | None:
        """Why a text is not a valid answer of the task; None if it is."""
        return None if completion.strip() else "the answer is empty; want some text"


@dataclass(frozen=True)
class ClassificationTask(Task):
    """One label out of a closed list. Spelling differences that `normalised_label` removes do not matter."""

    @property
    def classes(self) -> list[str]:
        return list(self.labels or [])

    def instruction(self, goal: str) -> str:
        return f"{goal.strip()}\nAnswer with exactly one of these labels and nothing else: {', '.join(self.classes)}."

    def class_of(self, completion: str) -> str:
        return self._label_of.get(normalised_label(completion), "")

    def problem(self, completion: str) -> str | None:
        if self.class_of(completion):
            return None
        return f"{_quoted(completion)} is not a label of the task; want one of {some(self.classes)}"

    @cached_property
    def _label_of(self) -> dict[str, str]:
        return {normalised_label(label): label for label in self.classes}


@dataclass(frozen=True)
class ExtractionTask(Task):
    """A JSON object after a JSON Schema. Its class is its first property with a closed list of values."""

    @property
    def properties(self) -> dict[str, Any]:
        """Name -> subschema of the answer's fields."""
        assert self.schema is not None
        return self.schema["properties"]

    @property
    def enum_fields(self) -> dict[str, list[str]]:
        return {
            name: [as_text(value) for value in sub["enum"]]
            for name, sub in self.properties.items()
            if isinstance(sub, dict) and "enum" in sub
        }

    @property
    def classes(self) -> list[str]:
        return next(iter(self.enum_fields.values()), [])

    def instruction(self, goal: str) -> str:
        required = set((self.schema or {}).get("required", []))
        lines = [f"- {name}: {_said(sub)}" + ("" if name in required else " (may be left out)") for name, sub in self.properties.items()]
        return "\n".join([goal.strip(), "Answer with JSON only: one object with the keys", *lines])

    def class_of(self, completion: str) -> str:
        field = next(iter(self.enum_fields), None)
        answer = parsed(completion)
        if field is None or not isinstance(answer, dict) or field not in answer:
            return ""
        value = as_text(answer[field])
        return value if value in self.classes else ""

    def problem(self, completion: str) -> str | None:
        answer = parsed(completion)
        if answer is None:
            return f"{_quoted(completion)} is not JSON; want one object with the keys {some(self.properties)}"
        if not isinstance(answer, dict):
            return f"{_quoted(completion)} is a {type(answer).__name__}; want one object with the keys {some(self.properties)}"
        error = next(iter(sorted(self.validator.iter_errors(answer), key=lambda error: list(map(str, error.path)))), None)
        if error is None:
            return None
        place = ".".join(map(str, error.absolute_path)) or "the object"
        return f"{place}: {error.message}"

    @cached_property
    def validator(self) -> "Validator":
        """Checks a parsed answer; it never fetches anything."""
        from jsonschema.validators import validator_for
        from referencing.jsonschema import EMPTY_REGISTRY

        assert self.schema is not None
        return validator_for(self.schema)(self.schema, registry=EMPTY_REGISTRY)


def read_task(spec: UseCaseSpec) -> Task:
    """The task of a use case, its labels or schema read from their file.

    Raises:
        UnreadableTask, UnusableLabels, UnusableSchema: names the file, what was seen and what is wanted.
    """
    voice = spec.objective.voice
    return replace(_read(spec), rules=tuple(voice.rules) if voice else (), own=own_metrics(spec))


def _read(spec: UseCaseSpec) -> Task:
    task = spec.objective.task
    if isinstance(task, Classification):
        if isinstance(task.labels, list):
            return classification(task.labels)
        path = spec.file(task.labels)
        return classification(_read_json(path, "objective.task.labels"), where=str(path))
    if isinstance(task, Extraction):
        path = spec.file(task.schema_)
        return extraction(_read_json(path, "objective.task.schema"), where=str(path))
    return Task(type=task.type)


def task_of(described: Mapping[str, Any]) -> Task:
    """The task that `Task.described` describes."""
    if described["type"] == "classification":
        return classification(described["labels"])
    return extraction(described["schema"]) if described["type"] == "extraction" else Task(type=described["type"])


def task_files(spec: UseCaseSpec) -> dict[str, Path]:
    """Files that the task is read from, by their place in the YAML; their content belongs to the fingerprint."""
    task = spec.objective.task
    if isinstance(task, Extraction):
        return {"objective.task.schema": spec.file(task.schema_)}
    if isinstance(task, Classification) and isinstance(task.labels, str):
        return {"objective.task.labels": spec.file(task.labels)}
    return {}


def classification(labels: Any, *, where: str = "objective.task.labels") -> ClassificationTask:
    """A classification task.

    Raises:
        UnusableLabels: not a list of at least two strings that stay distinct after `normalised_label`.
    """
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) and label.strip() for label in labels):
        raise UnusableLabels(f"{where}: got {_quoted(json.dumps(labels))}, want a list of at least two non-empty strings")
    twice = [label for label, times in Counter(map(normalised_label, labels)).items() if times > 1]
    if twice:
        raise UnusableLabels(f"{where}: {some(twice)} stands there twice (spelling differences do not count); name each label once")
    return ClassificationTask(type="classification", labels=list(labels))


def extraction(schema: Any, *, where: str = "objective.task.schema") -> ExtractionTask:
    """An extraction task.

    Raises:
        UnusableSchema: not a valid JSON Schema of an object with named properties, or one that needs another document.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    if (
        not isinstance(schema, dict)
        or schema.get("type") != "object"
        or not isinstance(schema.get("properties"), dict)
        or not schema["properties"]
    ):
        raise UnusableSchema(
            f'{where}: want a JSON Schema with "type": "object" and at least one entry in "properties"; got {_quoted(json.dumps(schema))}'
        )
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        place = ".".join(map(str, error.absolute_path)) or "the schema"
        raise UnusableSchema(f"{where}: {place}: {error.message}; correct the JSON Schema") from error
    remote = [reference for reference in _references(schema) if not reference.startswith("#")]
    if remote:
        raise UnusableSchema(
            f"{where}: $ref {remote[0]!r} points to another document, which is never fetched; put it under $defs and refer to #/$defs/…"
        )
    return ExtractionTask(type="extraction", schema=schema)


def normalised_label(text: str) -> str:
    """A label without what does not matter: case, quotes, a final full stop, and the kind of gap between words."""
    bare = text.strip().strip("\"'`").removesuffix(".").strip()
    return "_".join(bare.casefold().replace("-", " ").replace("_", " ").split())


def parsed(text: str) -> Any | None:
    """The JSON value of an answer, None if it is not (strict) JSON. JSON's own `null` is no answer either."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def as_text(value: Any) -> str:
    """A JSON value as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _no_constant(name: str) -> Any:
    # Python's parser would take NaN and Infinity, which are not JSON.
    raise ValueError(f"{name} is not JSON")


def _read_json(path: Path, field: str) -> Any:
    if not path.is_file():
        raise UnreadableTask(f"{field}: {path} is not there; paths begin at the folder of the YAML file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnreadableTask(f"{field}: {path} is not JSON ({error}); correct the file") from error


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _said(sub: Any) -> str:
    """A subschema in words: its closed list of values, else its description, else its type."""
    if not isinstance(sub, dict):
        return "any value"
    values = "one of " + ", ".join(as_text(value) for value in sub["enum"]) if "enum" in sub else None
    kind = sub.get("type")
    words = [sub.get("description"), values or (kind if isinstance(kind, str) else None)]
    return "; ".join(word for word in words if word) or "any value"


def _quoted(text: str) -> str:
    short = text.strip()
    return repr(short if len(short) <= SHOWN_CHARACTERS else short[:SHOWN_CHARACTERS] + "…")
