"""Rows that training must not see, since the test set or a benchmark holds them: near duplicates, and rows that share a run of words."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.artifacts.examples import Example, said
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.sequences import Joined, each, where
from fine_tune_pipeline.guide.dataset.likeness.duplicates import LEAK_JACCARD, LEAK_MISSED, Pair, Pairs, near_pairs
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap, Runs, met, runs_of, shared_words
from fine_tune_pipeline.guide.dataset.steps import Why

BENCHMARK_REASONS = ("duplicate_of_benchmark", "shares_words_with_benchmark")


@dataclass(frozen=True)
class Benchmark:
    """Texts of a benchmark that the tuned model will be judged on elsewhere, with the name of each row; `unreadable` rows gave none."""

    name: str
    texts: Sequence[str]
    rows: Sequence[str]
    unreadable: int = 0


def held_out_in_training(examples: Sequence[Example], pairs: Pairs, runs: Runs, *, overlap: Overlap) -> dict[int, Why]:
    """Places of examples for training that a held-out one resembles or shares words with; which one is said.

    Args:
        pairs: near duplicates among the prompts of the examples.
        runs: their runs of words.
    """
    apart = np.array([example.held_out for example in examples], dtype=bool)
    found = {}
    for place, other in met(runs, apart=apart).items():
        words = shared_words(written(examples[place]), written(examples[other]), overlap)
        said = f"shares `{words}` with {examples[other].id}, which is kept apart for the test"
        found[place] = Why("shares_words_with_held_out", said)
    for place, other, alike in _across(pairs, apart):
        said = f"{alike:.2f} like {examples[other].id} after personal data was replaced"
        found[place] = Why("duplicate_of_held_out", said)
    return found


def benchmarks_in_training(examples: Sequence[Example], benchmarks: Sequence[Benchmark], *, overlap: Overlap) -> dict[int, Why]:
    """Places of examples whose prompt is a near duplicate of a benchmark's text, or whose prompt or answer shares words with one.

    Held-out examples are left alone: what is not trained on contaminates nothing.
    """
    texts = [(benchmark.name, row, text) for benchmark in benchmarks for row, text in zip(benchmark.rows, benchmark.texts, strict=True)]
    if not texts:
        return {}
    train = where(examples, lambda example: not example.held_out)
    free = train.places.tolist()
    apart = np.arange(len(free) + len(texts)) >= len(free)
    found = {}
    rows = Joined(each(train, record), [[text] for _, _, text in texts])
    for number, other in met(runs_of(rows, overlap), apart=apart).items():
        name, row, text = texts[other - len(free)]
        said = f"shares `{shared_words(rows[number], [text], overlap)}` with {row} of the benchmark {name}"
        found[free[number]] = Why("shares_words_with_benchmark", said)
    questions = Joined(each(train, lambda example: example.question), [text for _, _, text in texts])
    for number, other, alike in _across(near_pairs(questions, LEAK_JACCARD, missed=LEAK_MISSED), apart):
        name, row, _ = texts[other - len(free)]
        said = f"{alike:.2f} like {row} of the benchmark {name}"
        found[free[number]] = Why("duplicate_of_benchmark", said)
    return found


def written(example: Example) -> list[str]:
    """What the user wrote: neither the instruction of a system, nor answers before, nor the result of a tool."""
    before = [said(message) for message in example.history if message.get("role") == "user"]
    return [*before, example.prompt] if example.role == "user" else before


def record(example: Example) -> list[str]:
    """What the user wrote and the answer that training learns."""
    return [*written(example), example.completion]


def contamination(benchmarks: Sequence[Benchmark], quarantine: Iterable[Quarantined]) -> list[dict[str, Any]]:
    """The card's table: of each benchmark the rows that were read, and the training rows that were taken out for it, by reason."""
    gone = [(row.reason, row.detail) for row in quarantine if row.reason in BENCHMARK_REASONS]
    return [
        {
            "benchmark": benchmark.name,
            "rows": len(benchmark.texts),
            "unreadable": benchmark.unreadable,
            **{
                reason: sum(why == reason and detail.endswith(f" of the benchmark {benchmark.name}") for why, detail in gone)
                for reason in BENCHMARK_REASONS
            },
        }
        for benchmark in benchmarks
    ]


def _across(pairs: Pairs, apart: NDArray[np.bool_]) -> Iterator[Pair]:
    """Of the pairs with one side kept `apart`: the other side first; of several for one row, the most similar last."""
    crossing = pairs.where(apart[pairs.first] != apart[pairs.second])
    for pair in sorted(crossing, key=lambda pair: pair.jaccard):
        yield pair if apart[pair.second] else Pair(pair.second, pair.first, pair.jaccard)
