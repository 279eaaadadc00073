"""How many steps a range test has. Nothing here imports torch: a plan counts them too."""

import math

from fine_tune_pipeline.programs.requests import Hyperparameters

FEWEST_STEPS, MOST_STEPS = 30, 100

SHARE = 0.1
"""Of the steps of the training, as far as that lies between the two."""


def training_steps(numbers: Hyperparameters, *, rows: int) -> int:
    """Optimizer steps of the training."""
    return math.ceil(numbers.epochs * math.ceil(rows / numbers.effective_batch))


def range_steps(numbers: Hyperparameters, *, rows: int) -> int:
    """Optimizer steps of its range test, at most."""
    return min(MOST_STEPS, max(FEWEST_STEPS, round(SHARE * training_steps(numbers, rows=rows))))
