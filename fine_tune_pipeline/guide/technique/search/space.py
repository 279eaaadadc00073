"""The search space as numbers: what the use case says, around the plan, and only what the model, the data and the hardware allow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.technique.plan import Job, Option, Place, option_of
from fine_tune_pipeline.guide.technique.recipes import ALL, Recipe, recipes, told_apart
from fine_tune_pipeline.programs.requests import Hyperparameters, Technique
from fine_tune_pipeline.programs.search_requests import BASE_MODEL, TECHNIQUE, Dimension
from fine_tune_pipeline.spec.search import RateRange, SearchSpace, SearchSpec

AUTO_FACTOR = 3
"""A range by itself goes from the plan's rate divided by this to as many times of it."""

HIGHEST_RATE = 0.1


@dataclass(frozen=True)
class Space:
    """`dimensions` with more than one value; `recipes` are the rows of each data recipe; `notes` say what was left out."""

    dimensions: tuple[Dimension, ...]
    techniques: dict[str, Technique]
    recipes: dict[Recipe, list[Example]]
    notes: tuple[str, ...]

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to look for."""
        return not self.dimensions


def space_of(spec: SearchSpace, option: Option, *, job: Job, place: Place, train: Sequence[Example], bases: Sequence[str] = ()) -> Space:
    """The space around a planned technique.

    Args:
        option: the plan's own.
        train: the training rows.
        bases: ids of the base models that trials may start from, the chosen one first.
    """
    notes: list[str] = []
    wanted = option.hyperparameters
    named = _techniques(spec, option, job=job, place=place, notes=notes)
    data, of_recipes = _data(spec, train, notes)
    dimensions = [
        _rate(spec, wanted.learning_rate, notes),
        _choice("rank", option.technique.rank, _ranks(spec, option, job=job, place=place, notes=notes)),
        _choice("epochs", float(wanted.epochs), [float(value) for value in spec.epochs]),
        _choice("effective_batch", wanted.effective_batch, spec.effective_batch),
        _choice(TECHNIQUE, option.technique.label, list(named)),
        _choice(BASE_MODEL, bases[0] if bases else "", list(bases)),
        *data,
    ]
    told = tuple(one for one in dimensions if one.low is not None or len(one.values) > 1)
    return Space(told, named if len(named) > 1 else {}, of_recipes, tuple(notes))


def trained_shares(spec: SearchSpec) -> float:
    """How many whole trainings a search is, at the most of the plan's length."""
    first, further = spec.trials * spec.rungs[0], math.ceil(spec.keep * spec.trials) + 1
    return first + further * sum(spec.rungs[1:])


def _rate(spec: SearchSpace, default: float, notes: list[str]) -> Dimension:
    wanted, name = spec.learning_rate, "learning_rate"
    if isinstance(wanted, list):
        return _choice(name, default, wanted)
    if isinstance(wanted, RateRange):
        low, high = min(wanted.low, default), max(wanted.high, default)
        if (low, high) != (wanted.low, wanted.high):
            notes.append(f"learning_rate: the range was widened to hold the plan's {default:g}")
        return Dimension(name=name, default=default, low=low, high=high, log=wanted.log)
    low, high = float(f"{default / AUTO_FACTOR:.3g}"), min(float(f"{default * AUTO_FACTOR:.3g}"), HIGHEST_RATE)
    return Dimension(name=name, default=default, low=low, high=max(high, default))


def _choice(name: str, default: Any, values: Sequence[Any]) -> Dimension:
    together = {default, *values}
    return Dimension(name=name, default=default, values=tuple(sorted(together)))


def _ranks(spec: SearchSpace, option: Option, *, job: Job, place: Place, notes: list[str]) -> list[int]:
    technique, found = option.technique, []
    if technique.type == "full" or technique.expert_rank:
        what = "all weights learn" if technique.type == "full" else "adapters of experts have a rank of their own"
        if spec.rank and "rank" in spec.model_fields_set:
            notes.append(f"rank: not searched, since {what}")
        return []
    for rank in spec.rank:
        if rank > min(job.model.hidden, job.model.key_width):
            notes.append(f"rank {rank}: larger than the smallest matrix of the model ({min(job.model.hidden, job.model.key_width)})")
        elif not option_of(job, technique.model_copy(update={"rank": rank}), place).fits:
            notes.append(f"rank {rank}: does not fit the memory")
        else:
            found.append(rank)
    return found


def _techniques(spec: SearchSpace, option: Option, *, job: Job, place: Place, notes: list[str]) -> dict[str, Technique]:
    own = option.technique
    found = {own.label: own}
    if not spec.technique:
        return found
    if own.type == "full" or own.expert_rank:
        notes.append(f"technique: not searched, since the plan is {own.label}")
        return found
    plain: dict[str, Any] = {"use_dora": False, "use_rslora": False, "use_pissa": False, "lora_plus_ratio": None}
    kinds: dict[str, dict[str, Any]] = {
        "lora": {"type": "lora"},
        "qlora": {"type": "qlora"},
        "dora": {"use_dora": True},
        "rslora": {"use_rslora": True},
    }
    for label in spec.technique:
        technique = own.model_copy(update={**plain, "type": "lora", **kinds[label]})
        found_option = option_of(job, technique, place)
        if found_option.fits:
            found.setdefault(technique.label, technique)
        else:
            notes.append(f"technique {label}: {found_option.refused or 'does not fit the memory'}")
    return found


def _data(spec: SearchSpace, train: Sequence[Example], notes: list[str]) -> tuple[list[Dimension], dict[Recipe, list[Example]]]:
    found = told_apart(train, spec.data)
    for name, values in found.items():
        missing = sorted({*getattr(spec.data, name)} - {*values})
        if missing:
            notes.append(f"data.{name} {', '.join(map(str, missing))}: would keep the same rows as another value")
    return [_choice(name, getattr(ALL, name), values) for name, values in found.items()], recipes(train, found)


def numbers_of(parameters: dict[str, Any]) -> dict[str, Any]:
    """Those that are fields of `training`."""
    return {name: value for name, value in parameters.items() if name in Hyperparameters.model_fields}


def with_numbers(job: Job, parameters: dict[str, Any]) -> Job:
    """The job with a trial's numbers as if they were written."""
    return replace(job, training=job.training.model_copy(update=numbers_of(parameters)))
