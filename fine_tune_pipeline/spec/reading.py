"""Reading a use case from YAML: strict, all mistakes of a file at once, each with file, line, field, what was seen and what is wanted."""

import difflib
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fine_tune_pipeline.spec.base_model import GgufModel, LocalModel
from fine_tune_pipeline.spec.more import PythonRule
from fine_tune_pipeline.spec.objective import Classification, Extraction
from fine_tune_pipeline.spec.paths import is_there
from fine_tune_pipeline.spec.sources import Files
from fine_tune_pipeline.spec.use_case import UseCaseSpec

COMPONENT_TYPE = "fine_tune_pipeline.use_case.FineTuneUseCase"
Location = tuple[str | int, ...]
"""Keys and indices from `attributes` down to a value; pydantic's own also hold the tags of unions on the way."""


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: where it is, and a sentence that says what was seen, what is wanted, what to do."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}"
        return f"{place}  {self.field}: {self.message}" if self.field else f"{place}  {self.message}"


class InvalidUseCase(Exception):
    """A use case that cannot be read; `problems` are all of its mistakes."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(map(str, self.problems)))


def read_use_case(path: Path, *, files: bool = True, text: str | None = None) -> UseCaseSpec:
    """The use case of one `defs.yaml`, with its folder.

    Args:
        path: the YAML file.
        files: also look whether the files that it names are there.
        text: what would stand in the file, in the place of what does.

    Raises:
        InvalidUseCase: with every mistake of the file.
    """
    root = compose(path, fields="`type` and `attributes`", text=text)
    attributes = _attributes(path, root)
    lines = Lines(attributes)
    try:
        spec = UseCaseSpec.model_validate(data_of(attributes)).at(path.parent)
    except ValidationError as error:
        raise InvalidUseCase(list(_problems(error, path=path, lines=lines))) from error
    if files and (missing := list(_missing_files(spec, path=path, lines=lines))):
        raise InvalidUseCase(missing)
    return spec


def read_all(paths: Iterable[Path], *, files: bool = True) -> tuple[list[UseCaseSpec], list[Problem]]:
    """Use cases of files, and folders searched for `defs.yaml`, beside all problems; two of the same name are one."""
    specs: dict[str, tuple[UseCaseSpec, Path]] = {}
    problems: list[Problem] = []
    for path in _files(paths, problems):
        try:
            spec = read_use_case(path, files=files)
        except InvalidUseCase as error:
            problems.extend(error.problems)
            continue
        if spec.name in specs:
            other = specs[spec.name][1]
            problems.append(
                Problem(
                    str(path), 1, "attributes.name", f"got {spec.name!r}, which {other} has already; give each use case a name of its own"
                )
            )
        specs.setdefault(spec.name, (spec, path))
    return [spec for spec, _ in specs.values()], problems


class Lines:
    """Line numbers of a YAML node's parts, by location."""

    def __init__(self, node: yaml.Node) -> None:
        self._node = node

    def at(self, location: Sequence[str | int]) -> int:
        """1-based line of the deepest part of `location` that the file has."""
        node, line = self._node, self._node.start_mark.line
        for part in location:
            step = _child(node, part)
            if step is None:
                break
            node, line = step
        return line + 1


def _files(paths: Iterable[Path], problems: list[Problem]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.rglob("defs.yaml"))
            if not inside:
                problems.append(
                    Problem(str(path), 1, "", "no defs.yaml in this folder; want a use case's YAML file, or a folder that holds some")
                )
            found.extend(inside)
        elif path.exists():
            found.append(path)
        else:
            problems.append(Problem(str(path), 1, "", "there is no such file"))
    return list(dict.fromkeys(found))


def compose(path: Path, *, fields: str, text: str | None = None) -> yaml.Node:
    """The YAML of a file, with line numbers: a mapping that gives no key twice.

    Args:
        fields: those that the file should have, for the message when it is no mapping.
        text: as of `read_use_case`.

    Raises:
        InvalidUseCase: the file is not text, not YAML, not a mapping, or names a key twice.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8") if text is None else text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise InvalidUseCase([Problem(str(path), 1, "", f"not UTF-8 text (byte {error.start}); save it as UTF-8")]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error)
        raise InvalidUseCase([Problem(str(path), 1 if mark is None else mark.line + 1, "", f"not readable as YAML: {said}")]) from error
    if not isinstance(node, yaml.MappingNode):
        raise InvalidUseCase([Problem(str(path), 1, "", f"empty, or not a mapping; want the fields {fields}")])
    if twice := list(_repeated_keys(node, str(path))):
        raise InvalidUseCase(twice)
    return node


def _attributes(path: Path, root: yaml.Node) -> yaml.Node:
    problems = []
    kind = _child(root, "type")
    if kind is None:
        problems.append(Problem(str(path), 1, "type", f"missing; want {COMPONENT_TYPE}"))
    elif data_of(kind[0]) != COMPONENT_TYPE:
        problems.append(Problem(str(path), kind[1] + 1, "type", f"got {data_of(kind[0])!r}, want {COMPONENT_TYPE}"))
    attributes = _child(root, "attributes")
    if attributes is None:
        problems.append(Problem(str(path), 1, "attributes", "missing; want the use case's fields: name, objective, dataset, ..."))
    for key, line in _keys(root):
        if key not in ("type", "attributes", "template_vars_module", "requirements", "post_processing"):
            problems.append(Problem(str(path), line, str(key), "unknown field; allowed here: type, attributes"))
    if problems or attributes is None:
        raise InvalidUseCase(problems)
    return attributes[0]


def _problems(error: ValidationError, *, path: Path, lines: Lines) -> Iterable[Problem]:
    """One problem per place: the members of a union that all refused the same value are told together."""
    by_place: dict[Location, list[ErrorDetails]] = {}
    for detail in _telling(error.errors(include_url=False)):
        by_place.setdefault(_without_tags(detail["loc"]), []).append(detail)
    for location, details in by_place.items():
        field = ".".join(str(part) for part in ("attributes", *location))
        yield Problem(str(path), lines.at(location), field, _message(details[0]) if len(details) == 1 else _joined(details))


def _telling(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without what a union's other branch says of a value whose branch is plain: of a mapping, that it is no string."""
    return [detail for detail in details if not (detail["type"] == "string_type" and isinstance(detail["input"], dict))]


def _message(detail: ErrorDetails) -> str:
    kind, context, location = detail["type"], detail.get("ctx", {}), detail["loc"]
    if kind == "missing":
        return f"missing; want {_described(location) or 'a value'}"
    if kind == "extra_forbidden":
        return _unknown(location)
    if kind == "union_tag_not_found":
        return f"`type` is missing; want one of {_tags(location)}"
    if kind == "union_tag_invalid":
        allowed = context["expected_tags"].replace("'", "")
        return f"type got {context['tag']!r}, want one of {allowed}{_near(context['tag'], allowed)}"
    if kind == "value_error":
        return str(context["error"])
    return f"got {_short(detail['input'])}, want {_want(detail)}.{_hint(location)}"


def _joined(details: Sequence[ErrorDetails]) -> str:
    wants = " or ".join(dict.fromkeys(_want(detail) for detail in details))
    return f"got {_short(details[0]['input'])}, want {wants}.{_hint(_without_tags(details[0]['loc']))}"


def _want(detail: ErrorDetails) -> str:
    if detail["type"] in ("model_type", "model_attributes_type"):
        return "a mapping of fields"
    if detail["type"] == "string_pattern_mismatch":
        return f"text like {detail.get('ctx', {})['pattern']}"
    text = detail["msg"].removeprefix("Input should be ").removeprefix("String should ").removeprefix("List should ")
    return text[:1].lower() + text[1:]


def _unknown(location: Location) -> str:
    model = _model_at(location[:-1])
    names = [field.alias or name for name, field in model.model_fields.items()] if model else []
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown field; allowed here: {', '.join(names)}{hint}" if names else "unknown field"


def _near(seen: str, expected: str) -> str:
    near = difflib.get_close_matches(str(seen), expected.split(", "), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _hint(location: Location) -> str:
    described = _described(location)
    return f" {described}" if described else ""


def _described(location: Location) -> str:
    """What the spec says of a field."""
    model = _model_at(location[:-1])
    if model is None or not location:
        return ""
    for name, field in model.model_fields.items():
        if location[-1] in (name, field.alias):
            return field.description or ""
    return ""


def _tags(location: Location) -> str:
    return ", ".join(sorted(str(tag) for model in models_at(location) for tag in _tag_of(model)))


def _tag_of(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("type")
    return typing.get_args(field.annotation) if field else ()


def _model_at(location: Location) -> type[BaseModel] | None:
    models = models_at(location)
    return models[0] if len(models) == 1 else None


def models_at(location: Location) -> list[type[BaseModel]]:
    """Models that may stand at a location; a tag in it (`jsonl`), or the name of a union's branch, chooses among them."""
    models: list[type[BaseModel]] = [UseCaseSpec]
    for part in location:
        if isinstance(part, int) or "[" in part:
            continue
        if chosen := [model for model in models if part in (*_tag_of(model), model.__name__)]:
            models = chosen
            continue
        fields = [field for model in models for name, field in model.model_fields.items() if part in (name, field.alias)]
        models = list(dict.fromkeys(model for field in fields for model in _models_in(field.annotation)))
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _without_tags(location: Sequence[str | int]) -> Location:
    """The location as a user sees it: pydantic's union tags and branch names are left out."""
    kept: list[str | int] = []
    for part in location:
        if isinstance(part, int):
            kept.append(part)
            continue
        known = any(part in (name, field.alias) for model in models_at(tuple(kept)) for name, field in model.model_fields.items())
        if known or (part == location[-1] and not _is_branch(part, tuple(kept))):
            kept.append(part)
    return tuple(kept)


def _is_branch(part: str, location: Location) -> bool:
    """Whether a part names a branch of a union (`float`, `literal['auto']`, `LocalModel`, `constrained-str`) or a tag of one."""
    names = {model.__name__ for model in models_at(location)}
    tags = {tag for model in models_at(location) for tag in _tag_of(model)}
    return part in names | tags | {"str", "int", "float", "bool"} or "[" in part or part.startswith("constrained-")


def _missing_files(spec: UseCaseSpec, *, path: Path, lines: Lines) -> Iterable[Problem]:
    for location, name in _named_files(spec):
        if is_there(spec.place(name)):
            continue
        field = ".".join(str(part) for part in ("attributes", *location))
        if "${" in str(spec.file(name)):
            message = f"got {name!r}, but that variable is not set; export it before you start"
        else:
            message = f"got {name!r}, but there is no {spec.file(name)}; relative paths begin at {path.parent}"
        yield Problem(str(path), lines.at(location), field, message)


def _named_files(spec: UseCaseSpec) -> Iterable[tuple[Location, str]]:
    task = spec.objective.task
    if isinstance(task, Extraction):
        yield ("objective", "task", "schema"), task.schema_
    if isinstance(task, Classification) and isinstance(task.labels, str):
        yield ("objective", "task", "labels"), task.labels
    for number, metric in enumerate(spec.objective.metrics):
        yield ("objective", "metrics", number, "name"), f"metrics/{metric.name}/{metric.name}.py"
    for number, candidate in enumerate(spec.base_model.candidates):
        if isinstance(candidate, LocalModel | GgufModel):
            yield ("base_model", "candidates", number, "path"), candidate.path
    for number, name in enumerate(spec.base_model.catalogue):
        yield ("base_model", "catalogue", number), name
    for part, sources in (("sources", spec.dataset.sources), ("held_out", spec.dataset.held_out)):
        for number, source in enumerate(sources):
            if isinstance(source, Files):
                yield ("dataset", part, number, "path"), source.path
    for number, documents in enumerate(spec.dataset.documents):
        yield ("dataset", "documents", number, "path"), documents.path
    for number, benchmark in enumerate(spec.dataset.benchmarks):
        yield ("dataset", "benchmarks", number, "path"), benchmark.path
    for number, reviewed in enumerate(spec.dataset.pii.adapt.reviewed if spec.dataset.pii.adapt else []):
        yield ("dataset", "pii", "adapt", "reviewed", number, "path"), reviewed.path
        if reviewed.findings is not None:
            yield ("dataset", "pii", "adapt", "reviewed", number, "findings"), reviewed.findings
    labelling = spec.dataset.more.labelling if spec.dataset.more else None
    for number, rule in enumerate(labelling.rules if labelling else []):
        if isinstance(rule, PythonRule):
            yield ("dataset", "more", "labelling", "rules", number, "function"), f"{rule.function.split(':')[0]}.py"


def _repeated_keys(node: yaml.Node, file: str) -> Iterable[Problem]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield Problem(
                    file, key.start_mark.line + 1, str(key.value), "given twice in the same mapping; YAML would silently keep the last"
                )
            seen.add(str(key.value))
            yield from _repeated_keys(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item, file)


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, int] | None:
    """The node under a key or index, and the 0-based line where it is named."""
    if isinstance(node, yaml.MappingNode):
        return next(((value, key.start_mark.line) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line
    return None


def _keys(node: yaml.Node) -> list[tuple[str, int]]:
    return [(key.value, key.start_mark.line + 1) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []


def data_of(node: yaml.Node) -> Any:
    """The plain values of a node."""
    constructor = yaml.constructor.SafeConstructor()
    return constructor.construct_document(node)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
