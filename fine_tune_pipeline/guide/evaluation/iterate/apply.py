"""Writing next steps into the YAML of a use case: the text that would stand there, checked before anything is written."""

import difflib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fine_tune_pipeline.guide.base_model.catalogue_files import candidate_problems
from fine_tune_pipeline.guide.evaluation.iterate.steps import Change, NextStep
from fine_tune_pipeline.spec.editing import Location, with_value
from fine_tune_pipeline.spec.fields import fields_at, parts_of, value_at
from fine_tune_pipeline.spec.reading import InvalidUseCase, read_use_case
from fine_tune_pipeline.spec.use_case import UseCaseSpec

ATTRIBUTES = "attributes"


class UnknownStep(Exception):
    """A step is named that the evaluation does not propose."""


class NothingToWrite(Exception):
    """A step is done by people: no field of the use case says it."""


class ChangedSince(Exception):
    """The use case says something else by now than when it was evaluated."""


@dataclass(frozen=True)
class Applied:
    """A file with the text that it has and the one that it would have."""

    path: Path
    before: str
    after: str

    @property
    def diff(self) -> str:
        """Unified, with the file's name."""
        before, after = (text.splitlines(keepends=True) for text in (self.before, self.after))
        found = difflib.unified_diff(before, after, fromfile=str(self.path), tofile=f"{self.path} (changed)")
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in found)

    def write(self) -> None:
        """Whole or not at all; a link stays a link."""
        place = self.path.resolve()
        partial = place.with_name(f".{place.name}.{uuid4().hex[:8]}.partial")
        try:
            with partial.open("w", encoding="utf-8", newline="") as stream:
                stream.write(self.after)
            shutil.copymode(place, partial)
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)


def chosen(steps: Sequence[NextStep], ids: Sequence[str]) -> list[NextStep]:
    """The steps of these ids, in that order.

    Raises:
        UnknownStep: names those that there are.
        NothingToWrite: names what people are to do.
    """
    by_id = {step.id: step for step in steps}
    if unknown := [id for id in ids if id not in by_id]:
        raise UnknownStep(f"got {', '.join(unknown)}, want one of {', '.join(by_id) or 'none: the evaluation proposes nothing'}")
    found = [by_id[id] for id in dict.fromkeys(ids)]
    if people := [step for step in found if not step.patch]:
        said = "; ".join(f"{step.id}: {step.title} ({step.cost})" for step in people)
        raise NothingToWrite(f"no field of a use case says this, people do it: {said}")
    return found


def applied(path: Path, steps: Sequence[NextStep]) -> Applied:
    """The use case of a file with the changes of these steps. Nothing is written.

    Raises:
        InvalidUseCase: the file has mistakes, or would have; all of them.
        ChangedSince: fields say something else than when they were evaluated, or two steps change the same; all of them.
        NotEditable: a value cannot be set without touching something else.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        before = stream.read()
    spec = read_use_case(path, text=before)
    changes = [(step.id, change) for step in steps for change in step.patch]
    if wrong := [*_stale(spec, changes), *_twice(changes)]:
        raise ChangedSince("\n".join(wrong))
    after = before
    for _, change in changes:
        location = (ATTRIBUTES, *parts_of(change.path))
        after = with_value(after, location, change.after, order=lambda above: _order(spec, above))
    new = read_use_case(path, text=after)
    if problems := candidate_problems(new):
        raise InvalidUseCase(problems)
    return Applied(path, before, after)


def _stale(spec: UseCaseSpec, changes: Sequence[tuple[str, Change]]) -> list[str]:
    found = []
    for id, change in changes:
        now = value_at(spec, change.path)
        if now == change.after:
            found.append(f"{change.path}: is {now!r} already, as {id} wants it; evaluate again to see what it did")
        elif now != change.before:
            found.append(
                f"{change.path}: is {now!r} now, and was {change.before!r} when {id} was proposed; evaluate again, or change it by hand"
            )
    return found


def _twice(changes: Sequence[tuple[str, Change]]) -> list[str]:
    """Steps that change the same field, or one a part of what the other changes."""
    found = []
    for place, (id, change) in enumerate(changes):
        for other, earlier in changes[:place]:
            if f"{change.path}.".startswith(f"{earlier.path}.") or f"{earlier.path}.".startswith(f"{change.path}."):
                found.append(f"{change.path}: {other} and {id} both change it; apply one of them, and evaluate")
    return found


def _order(spec: UseCaseSpec, above: Location) -> Sequence[str]:
    return fields_at(spec, above[1:]) if above[:1] == (ATTRIBUTES,) else (ATTRIBUTES,)
