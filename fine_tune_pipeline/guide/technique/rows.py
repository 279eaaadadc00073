"""The rows that step 4 looks at."""

import random
from dataclasses import dataclass

from fine_tune_pipeline.artifacts.examples import Example, read_examples
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.spec.use_case import UseCaseSpec


@dataclass(frozen=True)
class Data:
    """What the systems see: training examples to learn or quote from, validation rows to answer."""

    train: list[Example]
    rows: list[Example]


def read_data(dataset: Artifact, spec: UseCaseSpec) -> Data:
    """The training set, and at most `evaluation.validation_rows` validation rows, drawn by the split's seed."""
    rows = read_examples(dataset.file("validation.jsonl"))
    limit = spec.evaluation.validation_rows
    drawn = random.Random(spec.dataset.split.seed).sample(rows, limit) if len(rows) > limit else rows
    return Data(train=read_examples(dataset.file("train.jsonl")), rows=drawn)
