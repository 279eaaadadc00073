"""Rows that no source holds, or that rules labelled: how they are marked, what they must not resemble, and where they may stand.

Rows of the sources never depend on them: made rows are compared with those that were kept, and placed after those were split.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.sequences import Joined, chosen
from fine_tune_pipeline.guide.dataset.chance import by_hash
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import CLUSTER
from fine_tune_pipeline.guide.dataset.likeness.duplicates import LEAK_JACCARD, near_pairs, plain_text
from fine_tune_pipeline.guide.dataset.steps import Sifted, Why, out

SYNTHETIC = "synthetic"
"""Metadata: how a row was made (`typos`, `question`, …)."""

MADE_FROM = "made_from"
"""Metadata: id of the row or of the part of a document that it was made from."""

LABELLED_BY = "labelled_by"
"""Metadata: the rules whose vote gave a row of a source its answer."""

LABEL_PROBABILITY = "label_probability"

QUESTION = "question"
"""Kind of the rows that were made from documents; all other kinds come from a row."""


def is_made(example: Example) -> bool:
    """Made, or labelled by rules: only for training."""
    return SYNTHETIC in example.metadata or LABELLED_BY in example.metadata


def origin_of(example: Example) -> str | None:
    """Id of the row that it was made from; None if it was made from a document, or not at all."""
    return None if example.metadata.get(SYNTHETIC) == QUESTION else example.metadata.get(MADE_FROM)


def apart(examples: Sequence[Example]) -> tuple[Sequence[Example], Sequence[Example]]:
    """Rows as the sources hold them, and the others."""
    own = np.array([not is_made(example) for example in examples], dtype=bool)
    return (examples, []) if own.all() else (chosen(examples, np.flatnonzero(own)), chosen(examples, np.flatnonzero(~own)))


def unlike_others(made: Sequence[Example], real: Sequence[Example], *, threshold: float) -> Sifted:
    """Made rows that resemble no row but their own origin and its other variants, and whose origin was kept.

    Args:
        real: the rows of the sources that were kept.
        threshold: Jaccard similarity of prompts from which two are near duplicates.
    """
    if not made:
        return Sifted([], [])
    near: dict[int, list[tuple[int, float]]] = {}
    pairs = near_pairs((row.question for row in Joined(real, made)), min(threshold, LEAK_JACCARD))
    for pair in pairs.where(pairs.second >= len(real)):
        near.setdefault(pair.second - len(real), []).append((pair.first, pair.jaccard))
    origins = {origin_of(row) for row in made}
    by_id = {row.id: row for row in real if row.id in origins}
    asked = {plain_text(row.question) for row in made}
    seen = {text: row for row in real if (text := plain_text(row.question)) in asked}
    kept: dict[int, Example] = {}
    quarantine = []
    for place, row in enumerate(made):
        like = [
            (real[first] if first < len(real) else kept[first - len(real)], jaccard)
            for first, jaccard in near.get(place, [])
            if first < len(real) or first - len(real) in kept
        ]
        gone = _origin_gone(row, by_id) or _twin(row, seen) or _alike(row, like, threshold)
        if gone is not None:
            quarantine.append(gone)
            continue
        seen[plain_text(row.question)] = row
        origin = by_id.get(origin_of(row) or "")
        cluster = row.id if origin is None else origin.metadata.get(CLUSTER, origin.id)
        kept[place] = replace(row, metadata={**row.metadata, CLUSTER: cluster})
    return Sifted(list(kept.values()), quarantine)


def placed(
    made: Sequence[Example],
    *,
    train: Sequence[Example],
    held: Sequence[Example],
    most_share: float,
    leaking: Mapping[str, Why] = MappingProxyType({}),
) -> Sifted:
    """Made rows that may stand in training.

    Args:
        train: the rows of the sources that are in training.
        held: validation and test.
        leaking: id -> why a made row must not be trained on.
        most_share: of all training rows, made ones at most; which of them go is decided by hash. Rows that rules labelled are not counted.
    """
    origins = {origin_of(row) for row in made}
    trained, tested = {row.id: row for row in train if row.id in origins}, {row.id for row in held if row.id in origins}
    gone = [_misplaced(row, trained, tested) or _leaks(row, leaking) for row in made]
    fit = [row for row, refused in zip(made, gone, strict=True) if refused is None]
    labelled, synthetic = [row for row in fit if SYNTHETIC not in row.metadata], [row for row in fit if SYNTHETIC in row.metadata]
    most = most_made(len(train) + len(labelled), most_share)
    over = {row.id for row in sorted(synthetic, key=lambda row: by_hash(row.id))[most:]}
    detail = f"{len(synthetic)} made rows, at most {most} may be: {most_share:.0%} of training (dataset.more.most_share)"
    quarantine = [refused for refused in gone if refused is not None] + [
        out(row, "over_most_share", detail) for row in fit if row.id in over
    ]
    return Sifted([row for row in fit if row.id not in over], quarantine)


def most_made(rows: int, most_share: float) -> int:
    """So many rows may be made beside `rows` others."""
    # A little more than the quotient, which may be a hair below a whole number.
    return int(rows * most_share / (1 - most_share) + 1e-9)


def kinds(examples: Iterable[Example]) -> dict[str, int]:
    """Made rows by kind, and those that rules labelled, most frequent first."""
    found = (example.metadata.get(SYNTHETIC) or ("labelled by rules" if is_made(example) else "") for example in examples)
    return dict(Counter(filter(None, found)).most_common())


def _misplaced(row: Example, trained: dict[str, Example], tested: set[str]) -> Quarantined | None:
    origin = origin_of(row)
    if origin is None:
        return None
    if origin in tested:
        return out(row, "origin_held_out", f"it was made from {origin}, which is in validation or test")
    if origin not in trained:
        return out(row, "origin_quarantined", f"it was made from {origin}, which was taken out")
    if trained[origin].metadata.get("review") == "fix" and row.metadata.get("review") not in ("accept", "fix"):
        return out(row, "origin_corrected", f"it was made from {origin}, whose answer an expert has corrected since")
    return None


def _leaks(row: Example, leaking: Mapping[str, Why]) -> Quarantined | None:
    return out(row, *leaking[row.id]) if row.id in leaking else None


def _origin_gone(row: Example, by_id: Mapping[str, Example]) -> Quarantined | None:
    origin = origin_of(row)
    if origin is None or origin in by_id:
        return None
    return out(row, "origin_quarantined", f"it was made from {origin}, which was taken out")


def _twin(row: Example, seen: Mapping[str, Example]) -> Quarantined | None:
    twin = seen.get(plain_text(row.question))
    if twin is None:
        return None
    reason = "duplicate_of_held_out" if twin.held_out else "exact_duplicate"
    return out(row, reason, f"same prompt as {twin.id}, but for case, punctuation or gaps")


def _alike(row: Example, like: Sequence[tuple[Example, float]], threshold: float) -> Quarantined | None:
    own = origin_of(row)
    for other, jaccard in sorted(like, key=lambda pair: -pair[1]):
        if own is not None and own in (other.id, origin_of(other)):
            continue
        if other.held_out:
            return out(row, "duplicate_of_held_out", f"{jaccard:.2f} like {other.id}, which is kept apart for the test")
        if jaccard >= threshold:
            return out(row, "near_duplicate", f"{jaccard:.2f} like {other.id} (5-character shingles), from which it was not made")
    return None
