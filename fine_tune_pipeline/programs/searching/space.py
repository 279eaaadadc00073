"""A point of the search space, and the training that it stands for."""

import math
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.requests import Hyperparameters, TrainRequest
from fine_tune_pipeline.programs.search_requests import BASE_MODEL, RECIPE, TECHNIQUE, Dimension, Parameters, SearchRequest

RANK = "rank"


def defaults(space: Sequence[Dimension]) -> Parameters:
    """Those of trial 0: the plan."""
    return {one.name: one.default for one in space}


def size(space: Sequence[Dimension]) -> float:
    """How many different points there are; infinity with a range."""
    return math.prod(len(one.values) or math.inf for one in space)


def points(space: Sequence[Dimension], *, seed: int) -> list[Parameters]:
    """All points of a space without ranges, in an order drawn by `seed`."""
    found = [dict(zip([one.name for one in space], values, strict=True)) for values in product(*(one.values for one in space))]
    random.Random(seed).shuffle(found)
    return found


def training(request: SearchRequest, parameters: Parameters, *, share: float, output: Path) -> TrainRequest:
    """The training of a point for a share of its steps, with a whole schedule in them."""
    plan = request.plan
    technique = request.techniques[str(parameters[TECHNIQUE])] if TECHNIQUE in parameters else plan.technique
    if RANK in parameters:
        technique = technique.model_copy(update={RANK: parameters[RANK]})
    numbers: dict[str, Any] = {name: value for name, value in parameters.items() if name in Hyperparameters.model_fields}
    wanted = plan.hyperparameters.model_copy(update=numbers)
    wanted = wanted.model_copy(update={"epochs": float(wanted.epochs) * share})
    return plan.model_copy(
        update={
            "output": str(output),
            "model": model(request, parameters),
            "train": rows_file(request, parameters),
            "technique": technique,
            "hyperparameters": wanted,
            "checkpoints": request.checkpoints,
            "stall_seconds": request.stall_seconds,
        }
    )


def model(request: SearchRequest, parameters: Parameters) -> str:
    """Folder of the base model of a point."""
    return next((base.model for base in request.bases if base.id == parameters.get(BASE_MODEL)), request.plan.model)


def rows_file(request: SearchRequest, parameters: Parameters) -> str:
    """The training rows of a point."""
    wanted = {name: parameters[name] for name in RECIPE if name in parameters}
    return next((recipe.train for recipe in request.recipes if recipe.parameters == wanted), request.plan.train)


def epochs(request: SearchRequest, parameters: Parameters) -> float:
    """Passes over the rows of a point."""
    return float(parameters.get("epochs", request.plan.hyperparameters.epochs))
