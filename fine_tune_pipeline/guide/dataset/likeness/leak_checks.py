"""The blocking checks that training sees neither the test nor a benchmark; computed anew, see `leakage.py`."""

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.manifest import Check
from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.artifacts.sequences import Joined, each, where
from fine_tune_pipeline.guide.dataset.chance import by_hash
from fine_tune_pipeline.guide.dataset.likeness.contamination import Benchmark, record, written
from fine_tune_pipeline.guide.dataset.likeness.duplicates import LEAK_JACCARD
from fine_tune_pipeline.guide.dataset.likeness.leakage import leaks, shared
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap
from fine_tune_pipeline.guide.dataset.publishing.split import Split

MOST_ROWS = 5_000
"""So many validation and test rows are compared with all of training, chosen by hash: time then grows with the rows, not with their
square. If one row in a thousand leaked, none of 5,000 would show it in 7 of 1,000 runs."""


class _Leak(NamedTuple):
    mine: str
    theirs: str
    how: str

    def said(self) -> str:
        return f"{self.mine} ~ {self.theirs} ({self.how})"


class _Side(NamedTuple):
    """Rows to compare: how each is called, its text as a whole, and the texts whose runs of words count."""

    names: Sequence[str]
    texts: Sequence[str]
    rows: Sequence[Sequence[str]]


def no_leakage(parts: Split, overlap: Overlap) -> Check:
    """No test or validation prompt is like a training prompt, or shares a run of words with one."""
    counted = each(_everything(parts), written)
    train = _side(parts.train, written)
    apart = Joined(parts.validation, parts.test, parts.fresh)
    looked_at = heapq.nsmallest(MOST_ROWS, apart, key=lambda example: by_hash(example.id))
    found = _leaks(train, _side(looked_at, written), counted, overlap)
    rows = len({leak.theirs for leak in found})
    share = f", of {len(looked_at):,} looked at out of {len(apart):,}," if len(looked_at) < len(apart) else ""
    text = f"{rows} test or validation prompts{share} are near duplicates of a training prompt"
    text += f" (Jaccard of 5-character shingles >= {LEAK_JACCARD})"
    text += f" or share {overlap.words} words in a row with one." if overlap.words else "."
    if rows:
        text += f" Pairs: {some(map(_Leak.said, found))}. Take one of each pair out of its source."
    metadata = {"rows": rows, "looked_at": len(looked_at), "jaccard": LEAK_JACCARD} | (
        {"shared_words": overlap.words} if overlap.words else {}
    )
    return Check(name="no_leakage", passed=not rows, description=text, metadata=metadata)


def no_contamination(parts: Split, benchmarks: Sequence[Benchmark], overlap: Overlap) -> Check:
    """No training row is like a text of a benchmark, or shares a run of words with one."""
    names = [f"{row} of {benchmark.name}" for benchmark in benchmarks for row in benchmark.rows]
    texts = [text for benchmark in benchmarks for text in benchmark.texts]
    theirs = _Side(names, texts, [[text] for text in texts])
    counted = Joined(each(where(_everything(parts), lambda example: not example.held_out), record), theirs.rows)
    found = _leaks(_side(parts.train, record), theirs, counted, overlap)
    rows = len({leak.mine for leak in found})
    text = f"{rows} training rows are like a text of {', '.join(benchmark.name for benchmark in benchmarks)} ({len(texts)} texts)."
    if rows:
        text += f" Pairs: {some(map(_Leak.said, found))}. Take these rows out of their source."
    return Check(name="no_contamination", passed=not rows, description=text, metadata={"rows": rows, "benchmark_texts": len(texts)})


def _everything(parts: Split) -> Sequence[Example]:
    """All that the split was given: what is boilerplate was counted there."""
    return Joined(parts.together(), each(parts.quarantine, lambda row: Example(**row.original)))


def _side(examples: Sequence[Example], texts: Callable[[Example], list[str]]) -> _Side:
    return _Side(each(examples, lambda example: example.id), each(examples, lambda example: example.question), each(examples, texts))


def _leaks(train: _Side, other: _Side, counted: Sequence[Sequence[str]], overlap: Overlap) -> list[_Leak]:
    near = leaks(train.texts, other.texts)
    same = shared(train.rows, other.rows, counted=counted, overlap=overlap)
    found = [(pair.first, pair.second, f"{pair.jaccard:.2f}") for pair in near]
    found += [(one.first, one.second, f"`{one.words}`") for one in same]
    return [_Leak(train.names[first], other.names[second], how) for first, second, how in found]
