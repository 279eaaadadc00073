"""Made rows come into training after the rows of the sources have been split, so that they move none of those."""

from collections.abc import Sequence
from dataclasses import replace

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.sequences import Joined, each
from fine_tune_pipeline.guide.dataset.likeness.contamination import Benchmark, benchmarks_in_training, held_out_in_training, written
from fine_tune_pipeline.guide.dataset.likeness.duplicates import LEAK_JACCARD, LEAK_MISSED, near_pairs
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap, runs_of
from fine_tune_pipeline.guide.dataset.more.balance import capped
from fine_tune_pipeline.guide.dataset.more.made_rows import placed
from fine_tune_pipeline.guide.dataset.publishing.split import Split
from fine_tune_pipeline.guide.dataset.steps import Why
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.more import MoreSpec


def with_made(
    parts: Split,
    made_rows: Sequence[Example],
    *,
    spec: MoreSpec | None,
    task: Task,
    overlap: Overlap | None = None,
    benchmarks: Sequence[Benchmark] = (),
) -> Split:
    """The parts with made rows in training, where their origins are, and with large classes cut to size if the spec says so.

    A made row that is like a row of validation, test or a benchmark, or shares words with one, goes to the quarantine.
    """
    if spec is None:
        assert not made_rows, "rows were made, and the use case asks for none"
        return parts
    seen = _seen_elsewhere(parts, made_rows, overlap=overlap or Overlap(), benchmarks=benchmarks)
    held = Joined(parts.validation, parts.test, parts.fresh)
    result = placed(made_rows, train=parts.train, held=held, most_share=spec.most_share, leaking=seen)
    train: Sequence[Example] = Joined(parts.train, result.kept)
    quarantine: Sequence[Quarantined] = Joined(parts.quarantine, result.quarantine)
    if spec.balance is not None and spec.balance.by == "cap":
        cut = capped(train, ratio=spec.balance.ratio, task=task)
        train, quarantine = cut.kept, Joined(quarantine, cut.quarantine)
    return replace(parts, train=train, quarantine=quarantine)


def _seen_elsewhere(parts: Split, made_rows: Sequence[Example], *, overlap: Overlap, benchmarks: Sequence[Benchmark]) -> dict[str, Why]:
    """Id -> why a made row must not be trained on. All rows count where it is asked which words stand in many."""
    if not made_rows:
        return {}
    held = each(Joined(parts.validation, parts.test, parts.fresh), lambda example: replace(example, held_out=True))
    others = Joined(parts.train, each(parts.quarantine, lambda row: Example(**row.original)))
    rows = Joined(held, others, made_rows)
    pairs = near_pairs((example.question for example in rows), LEAK_JACCARD, missed=LEAK_MISSED)
    gone = benchmarks_in_training(rows, benchmarks, overlap=overlap)
    gone |= held_out_in_training(rows, pairs, runs_of(each(rows, written), overlap), overlap=overlap)
    first = len(rows) - len(made_rows)
    return {rows[place].id: why for place, why in gone.items() if place >= first}
