"""What there is to learn from compared answers, in rows and tokens."""

from collections.abc import Sequence
from dataclasses import replace

from fine_tune_pipeline.artifacts.comparisons import check_compared
from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.technique.workload import Workload, workload
from fine_tune_pipeline.spec.training import TrainingSpec


def work_of(train: Sequence[Example], validation: Sequence[Example], *, training: TrainingSpec) -> Workload:
    """The figures of a training set as it will be learned from: a pair is one row with the tokens of both, for kto each answer is one.

    Raises:
        NoComparisons: answers are to be compared, and training or validation rows have none.
    """
    wanted = training.preference
    if wanted is None:
        return workload(train, validation, loss_on=training.loss_on)
    for name, examples in (("training rows", train), ("validation rows", validation)):
        check_compared(len(compared(examples)), of=len(examples), source=name, wanted=wanted.type)
    preferred = train if wanted.type == "kto" else compared(train)
    unwanted = rejected(train)
    both = workload([*preferred, *unwanted], [*validation, *rejected(validation)], loss_on=training.loss_on)
    return replace(both, rows=both.rows if wanted.type == "kto" else len(preferred), unwanted=len(unwanted))


def compared(examples: Sequence[Example]) -> list[Example]:
    """Those with two answers."""
    return [example for example in examples if example.rejected is not None]


def rejected(examples: Sequence[Example]) -> list[Example]:
    """The answers that people liked less, as examples."""
    return [replace(example, completion=example.rejected) for example in examples if example.rejected is not None]


def said(train: Sequence[Example]) -> str:
    """How many rows can be compared, for people."""
    return f"{len(compared(train))} of {len(train)} training rows have a rejected answer"
