"""Made rows come into training after the rows of the sources have been split, so that they move none of those."""

from collections.abc import Sequence
from dataclasses import replace

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.balance import capped
from fine_tune_pipeline.guide.dataset.made_rows import placed
from fine_tune_pipeline.guide.dataset.split import Split
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.more import MoreSpec


def with_made(parts: Split, made_rows: Sequence[Example], *, spec: MoreSpec | None, task: Task) -> Split:
    """The parts with made rows in training, where their origins are, and with large classes cut to size if the spec says so."""
    if spec is None:
        assert not made_rows, "rows were made, and the use case asks for none"
        return parts
    result = placed(made_rows, train=parts.train, held=[*parts.validation, *parts.test], most_share=spec.most_share)
    train, quarantine = [*parts.train, *result.kept], [*parts.quarantine, *result.quarantine]
    if spec.balance is not None and spec.balance.by == "cap":
        cut = capped(train, ratio=spec.balance.ratio, task=task)
        train, quarantine = cut.kept, [*quarantine, *cut.quarantine]
    return replace(parts, train=train, quarantine=quarantine)
