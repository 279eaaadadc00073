"""The reference page of a use case's fields, written from the spec itself so that it cannot go stale."""

import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fine_tune_pipeline.spec.use_case import UseCaseSpec

INTRODUCTION = """# Fields of a use case

Made from `fine_tune_pipeline/spec` by `fine-tune-pipeline schema --markdown`.
Everything with a default may be left out; unknown fields are refused.
"""


def markdown() -> str:
    """One table per section, in the order of the guide."""
    tables = [_table("attributes", UseCaseSpec)]
    tables += [_table(f"{path} · type: {_tag(model)}" if _tag(model) else path, model) for path, model in _sections(UseCaseSpec, "")]
    return INTRODUCTION + "\n" + "\n".join(tables)


def _sections(model: type[BaseModel], prefix: str) -> Iterable[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        for inner in _models_in(field.annotation):
            yield path, inner
            yield from _sections(inner, f"{path}.")


def _table(title: str, model: type[BaseModel]) -> str:
    rows = [
        f"| `{field.alias or name}` | {_type(field)} | {_default(field)} | {field.description or ''} |"
        for name, field in model.model_fields.items()
    ]
    said = (model.__doc__ or "").strip().split("\n")[0]
    return "\n".join([f"## {title}", "", said, "", "| field | type | default | |", "|---|---|---|---|", *rows, ""])


def _tag(model: type[BaseModel]) -> str:
    field = model.model_fields.get("type")
    values = typing.get_args(field.annotation) if field else ()
    return str(values[0]) if len(values) == 1 else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _type(field: FieldInfo) -> str:
    return _named(field.annotation).replace("|", "or")


def _named(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(f"`{part}`" for part in parts)
    if origin is list:
        return f"list of {_named(parts[0])}"
    if origin is typing.Annotated:
        return _named(parts[0])
    if parts:
        return " | ".join(_named(part) for part in parts if part is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"`{_tag(annotation)}`" if _tag(annotation) else "section"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    if isinstance(field.default, BaseModel):
        return "its own defaults"
    return "none" if field.default is None else f"`{field.default}`"
