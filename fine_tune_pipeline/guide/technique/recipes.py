"""Data recipes: which rows of the training set are learned from, by the marks that step 3 has left on them."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field

from fine_tune_pipeline.artifacts.examples import Example, read_examples
from fine_tune_pipeline.guide.dataset.chance import by_hash
from fine_tune_pipeline.guide.dataset.more.made_rows import SYNTHETIC
from fine_tune_pipeline.guide.dataset.steps import MARK
from fine_tune_pipeline.programs.contracts import Contract
from fine_tune_pipeline.spec.search import DataSpace

CONFIRMED = ("accept", "fix")
"""Metadata `review` of a row that people have looked at and kept."""


class EmptyRecipe(ValueError):
    """A data recipe keeps no row."""


class Recipe(Contract):
    """Which rows are kept: a share of the made ones, those without a mark, and of what is left then a share. Drawn by hash, so that a
    smaller share is a part of a larger one."""

    share_of_augmentation: float = Field(default=1.0, ge=0, le=1)
    drop_suspects: bool = False
    rows_share: float = Field(default=1.0, gt=0, le=1)

    def __str__(self) -> str:
        made = [] if self.share_of_augmentation == 1 else [f"{self.share_of_augmentation:.0%} of the made rows"]
        marked = ["no row that is marked as worth a look"] if self.drop_suspects else []
        some = [] if self.rows_share == 1 else [f"{self.rows_share:.0%} of what is left"]
        return "; ".join([*made, *marked, *some]) or "all rows"


ALL = Recipe()


def kept(rows: Sequence[Example], recipe: Recipe) -> list[Example]:
    """The rows of a recipe, in their order; at least one, if there is one."""
    made = _drawn([row for row in rows if SYNTHETIC in row.metadata], recipe.share_of_augmentation)
    left = [row for row in rows if SYNTHETIC not in row.metadata or row.id in made]
    if recipe.drop_suspects:
        left = [row for row in left if not suspect(row)]
    some = _drawn(left, recipe.rows_share, least=1)
    return [row for row in left if row.id in some]


def suspect(row: Example) -> bool:
    """Whether a step has marked it, and nobody has confirmed it since."""
    return MARK in row.metadata and row.metadata.get("review") not in CONFIRMED


def left_out(train: Path, recipe: Recipe | None) -> tuple[str, ...]:
    """Ids of the rows of a training set that a recipe does not want."""
    if recipe is None:
        return ()
    rows = read_examples(train)
    wanted = {row.id for row in kept(rows, recipe)}
    return tuple(row.id for row in rows if row.id not in wanted)


def told_apart(rows: Sequence[Example], space: DataSpace) -> dict[str, list[Any]]:
    """By field of a recipe, the values that each keep other rows, that of all rows among them."""
    wanted = {name: sorted({getattr(ALL, name), *getattr(space, name)}, reverse=name != "drop_suspects") for name in Recipe.model_fields}
    found: dict[str, list[Any]] = {}
    for name, values in wanted.items():
        seen: dict[tuple[str, ...], Any] = {}
        for value in values:
            seen.setdefault(tuple(row.id for row in kept(rows, Recipe(**{name: value}))), value)
        found[name] = list(seen.values())
    return found


def recipes(rows: Sequence[Example], values: Mapping[str, Sequence[Any]]) -> dict[Recipe, list[Example]]:
    """Every combination of the values of `told_apart`, and the rows that it keeps.

    Raises:
        EmptyRecipe: one keeps no row.
    """
    combined = [Recipe(**dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]
    found = {recipe: kept(rows, recipe) for recipe in combined}
    empty = next((recipe for recipe, left in found.items() if not left), None)
    if empty is not None:
        raise EmptyRecipe(
            f"training.search.space.data: {empty} keeps none of {len(rows)} training rows, want at least one; leave a value out"
        )
    return found


def _drawn(rows: Sequence[Example], share: float, *, least: int = 0) -> set[str]:
    count = max(min(least, len(rows)), math.floor(share * len(rows) + 1e-9))
    return {row.id for row in sorted(rows, key=lambda row: by_hash(row.id))[:count]}
