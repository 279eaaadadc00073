"""Catalogue files of a use case: they add models, licences and prices to the shipped catalogue, or replace rows of the same id."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fine_tune_pipeline.guide.base_model.catalogue import Catalogue, Entry, Price, Priced, UnknownModel, catalogue, model_named
from fine_tune_pipeline.spec.base_model import ModelSource
from fine_tune_pipeline.spec.reading import InvalidUseCase, Lines, Problem, compose, data_of
from fine_tune_pipeline.spec.use_case import UseCaseSpec

FIELDS = "licences, models, hosted, prices"

Row = TypeVar("Row", bound=Entry)


def catalogue_of(spec: UseCaseSpec) -> Catalogue:
    """The shipped catalogue with the rows of the use case's own files.

    Raises:
        InvalidUseCase: with every mistake of every file.
    """
    known, problems = catalogue(), []
    for name in spec.base_model.catalogue:
        try:
            known = extended(known, read_catalogue(spec.file(name), known))
        except InvalidUseCase as error:
            problems.extend(error.problems)
    if problems:
        raise InvalidUseCase(problems)
    return known


def candidate_problems(spec: UseCaseSpec) -> list[Problem]:
    """What only the catalogue can see of a use case: mistakes of its files, and candidates that it does not have."""
    try:
        known = catalogue_of(spec)
    except InvalidUseCase as error:
        return list(error.problems)
    named = [entry if isinstance(entry, str) else entry.id for entry in spec.base_model.candidates if _of_the_catalogue(entry)]
    return [Problem(str(spec.folder), 1, "", said) for id in named if (said := _unknown(id, known))]


def read_catalogue(path: Path, known: Catalogue) -> Catalogue:
    """The rows of one file.

    Args:
        known: the catalogue that it adds to, whose models it may price.

    Raises:
        InvalidUseCase: with every mistake of the file, each with its entry and field.
    """
    try:
        node = compose(path, fields=FIELDS)
    except OSError as error:
        raise InvalidUseCase([Problem(str(path), 1, "", f"cannot be read ({error.strerror}); name a YAML file")]) from error
    data, lines = data_of(node), Lines(node)
    try:
        found = Catalogue.model_validate(data)
    except ValidationError as error:
        raise InvalidUseCase([_problem(detail, data, path, lines) for detail in error.errors(include_url=False)]) from error
    if wrong := [*_repeated(found, path, lines), *_unknown_prices(found, known, path, lines)]:
        raise InvalidUseCase(wrong)
    return found


def extended(known: Catalogue, more: Catalogue) -> Catalogue:
    """`known` with the rows of `more`, which replace those of the same id; prices go to the models that they are of."""
    prices = {price.id: Price(**price.model_dump(exclude={"id"})) for price in more.prices}
    models, hosted = _replaced(known.models, more.models), _replaced(known.hosted, more.hosted)
    return Catalogue(
        licences=_replaced(known.licences, more.licences),
        models=tuple(row.model_copy(update={"price": prices.get(row.id, row.price)}) for row in models),
        hosted=tuple(row.model_copy(update={"price": prices.get(row.id, row.price)}) for row in hosted),
    )


def _of_the_catalogue(entry: str | ModelSource) -> bool:
    return isinstance(entry, str) or entry.type == "catalogue"


def _unknown(id: str, known: Catalogue) -> str:
    try:
        model_named(id, known)
    except UnknownModel as error:
        return str(error)
    return ""


def _replaced(rows: Sequence[Row], more: Sequence[Row]) -> tuple[Row, ...]:
    found = {row.id: row for row in (*rows, *more)}
    return tuple(found.values())


def _problem(detail: ErrorDetails, data: Any, path: Path, lines: Lines) -> Problem:
    location = detail["loc"]
    return Problem(str(path), lines.at(location), _field(location, data), _message(detail))


def _field(location: Sequence[str | int], data: Any) -> str:
    """`models[3] (qwen3-4b).architecture.hidden`: entries are told by number and, if they have one, by id."""
    said, node = "", data
    for part in location:
        if isinstance(part, int):
            node = node[part]
            name = node.get("id") if isinstance(node, dict) else None
            said += f"[{part}]" + (f" ({name})" if name else "")
        else:
            node = node.get(part) if isinstance(node, dict) else None
            said += f".{part}" if said else part
    return said


def _message(detail: ErrorDetails) -> str:
    kind, said = detail["type"], detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if kind == "missing":
        return "missing; every row needs it, so that it can be judged and its source be looked up"
    if kind == "extra_forbidden":
        known = f"; allowed at the top: {FIELDS}" if len(detail["loc"]) == 1 else ""
        return f"unknown field{known}"
    if kind == "value_error":
        return said
    return f"got {detail['input']!r}, want {said[:1].lower()}{said[1:]}"


def _repeated(found: Catalogue, path: Path, lines: Lines) -> Iterable[Problem]:
    """Two rows of one id; open and hosted models share their ids, since a candidate is named by its id alone."""
    parts: dict[str, Sequence[Entry]] = {"models": found.models, "hosted": found.hosted, "licences": found.licences, "prices": found.prices}
    seen: dict[tuple[str, str], str] = {}
    for part, rows in parts.items():
        for number, row in enumerate(rows):
            key, field = ("models" if part == "hosted" else part, row.id), f"{part}[{number}] ({row.id})"
            if key in seen:
                said = f"the id stands at {seen[key]} too; give each row an id of its own"
                yield Problem(str(path), lines.at((part, number, "id")), field, said)
            seen.setdefault(key, field)


def _unknown_prices(found: Catalogue, known: Catalogue, path: Path, lines: Lines) -> Iterable[Problem]:
    ids = {row.id for rows in (known.models, known.hosted, found.models, found.hosted) for row in rows}
    for number, price in enumerate(found.prices):
        if price.id not in ids:
            said = "no model of this id in the catalogue; price one that is there, or add it under `models` or `hosted`"
            yield Problem(str(path), lines.at(("prices", number, "id")), _price_field(number, price), said)


def _price_field(number: int, price: Priced) -> str:
    return f"prices[{number}] ({price.id}).id"
