"""Values of a use case by their dotted names, such as `training.epochs` or `dataset.sources.0.sample`."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from fine_tune_pipeline.spec.reading import models_at
from fine_tune_pipeline.spec.use_case import UseCaseSpec


def parts_of(path: str) -> tuple[str | int, ...]:
    """Keys and indices of a dotted name."""
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))


def has_field(path: str) -> bool:
    """Whether a use case can say it, in one of the forms that its sections may take."""
    *above, last = parts_of(path)
    return any(last in names_of(model) for model in models_at(tuple(above)))


def value_at(spec: UseCaseSpec, path: str) -> Any:
    """What the use case says there, defaults included, as YAML would; None below a section that is not given."""
    value: Any = spec
    for part in parts_of(path):
        if value is None:
            return None
        value = _entry(value, part) if isinstance(part, int) else _field(value, part)
    return _plain(value)


def fields_at(spec: UseCaseSpec, parts: Sequence[str | int]) -> list[str]:
    """Names of the fields beside which a part of the use case stands, in the order of the documentation; empty if it has none."""
    value: Any = spec
    for part in parts:
        value = None if value is None else _entry(value, part) if isinstance(part, int) else _field(value, part)
    return names_of(type(value)) if isinstance(value, BaseModel) else []


def names_of(model: type[BaseModel]) -> list[str]:
    """Fields of a section, as YAML names them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _field(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    if not isinstance(value, BaseModel):
        return None
    return next((getattr(value, name) for name, field in type(value).model_fields.items() if part in (name, field.alias)), None)


def _entry(value: Any, part: int) -> Any:
    return value[part] if isinstance(value, list) and part < len(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
