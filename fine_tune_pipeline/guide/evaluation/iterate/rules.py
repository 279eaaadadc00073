"""What to try next: every rule asked, in the order of what costs least for what it may bring."""

from collections.abc import Callable, Iterator, Sequence

from fine_tune_pipeline.guide.evaluation.iterate.data_rules import confused_values, data_limited, label_noise, more_held_out, weak_slices
from fine_tune_pipeline.guide.evaluation.iterate.findings import Findings
from fine_tune_pipeline.guide.evaluation.iterate.steps import NextStep
from fine_tune_pipeline.guide.evaluation.iterate.system_rules import (
    answers_cut,
    capacity_unused,
    cheaper_base_suffices,
    format_failures,
    other_base,
    plain_system_does_it,
    retrieval_adds,
    retrieval_does_it,
    retrieval_unused,
)
from fine_tune_pipeline.guide.evaluation.iterate.training_rules import overfit, rank_too_small, search, underfit

RULES: Sequence[Callable[[Findings], Iterator[NextStep]]] = (
    label_noise,  # no figure can be believed before
    format_failures,  # no training
    answers_cut,
    plain_system_does_it,  # cheaper than tuning
    retrieval_does_it,
    retrieval_unused,  # one training
    overfit,
    underfit,
    rank_too_small,
    retrieval_adds,
    weak_slices,  # rows
    confused_values,
    data_limited,
    more_held_out,
    capacity_unused,
    cheaper_base_suffices,
    search,  # several trainings
    other_base,
)
"""A rule without its evidence says nothing."""


def next_steps(found: Findings) -> list[NextStep]:
    """What to try next, the first thing first; empty when nothing stands out. No two have the same id."""
    steps = [step for rule in RULES for step in rule(found)]
    return list({step.id: step for step in reversed(steps)}.values())[::-1]
