"""Runs of words that two rows share: eight in a row are no chance, unless they come from a template or stand in many rows.

Arrays: G runs of all texts, one after the other. Equal runs have equal hashes in every process, so that parts can be counted apart.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.guide.dataset.likeness.duplicates import plain_text

COMMON_ROWS = 10
COMMON_SHARE = 0.001
"""A run that stands in more rows than both is boilerplate. In banking77 (13,083 rows) none of eight words is, so
456 training rows leak into its test; with 5 it would be 420, without `how long does it take for a transfer`."""

LITERAL_WORDS = 4
"""Shorter literals of a template, such as `Subject:`, also stand in what people write; they are left in the text."""


@dataclass(frozen=True)
class Overlap:
    """What counts as too much in common: so many words in a row; None if nothing does.

    `template`: literals of the prompt templates, which are not the user's own words; see `literals`.
    """

    words: int | None = None
    template: tuple[str, ...] = ()


@dataclass(frozen=True)
class Runs:
    """Runs of equally many words: hash, place of the text, place of the first word in it; and whether it is the user's own."""

    hashes: NDArray[np.uint64]
    owner: NDArray[np.int32]
    place: NDArray[np.int32]
    own: NDArray[np.bool_]

    def where(self, wanted: NDArray[np.bool_]) -> "Runs":
        """Those for which `wanted` is true."""
        return Runs(self.hashes[wanted], self.owner[wanted], self.place[wanted], self.own[wanted])


def most_rows(count: int) -> int:
    """In so many of `count` rows a run may stand before it is boilerplate."""
    return max(COMMON_ROWS, int(COMMON_SHARE * count))


def literals(templates: Iterable[str]) -> tuple[str, ...]:
    """What prompt templates say themselves, as plain text: what is not the user's own. Short ones are left out."""
    from jinja2.nodes import TemplateData
    from jinja2.sandbox import SandboxedEnvironment

    found = [plain_text(part.data) for template in templates for part in SandboxedEnvironment().parse(template).find_all(TemplateData)]
    return tuple(sorted({text for text in found if len(text.split()) >= LITERAL_WORDS}))


def word_lists(text: str, overlap: Overlap) -> list[list[str]]:
    """The words of a text as they are compared, cut where a literal of a template stands."""
    plain = plain_text(text)
    return [piece.split() for piece in (_literal(overlap.template).split(plain) if overlap.template else [plain])]


def run_strings(row: Sequence[str], overlap: Overlap) -> Iterator[tuple[int, str]]:
    """Each run of a row's texts and the number of its first word; no run goes from one text into the next, or over a literal."""
    words, begin = overlap.words, 0
    if words is None:
        return
    for piece in (piece for text in row for piece in word_lists(text, overlap)):
        for start in range(len(piece) - words + 1):
            yield begin + start, " ".join(piece[start : start + words])
        begin += len(piece) + words


def runs_of(rows: Sequence[Sequence[str]], overlap: Overlap) -> Runs:
    """All runs of rows, in order. A run is the user's own unless it overlaps one that stands in many rows.

    Args:
        rows: of each row the texts that belong to it.
    """
    hashes, owner, place = array("Q"), array("i"), array("i")
    for number, row in enumerate(rows):
        for begin, run in run_strings(row, overlap):
            hashes.append(_hash(run))
            owner.append(number)
            place.append(begin)
    # Views of the arrays: copies would double what is the largest thing in memory here.
    arrays = np.frombuffer(hashes, np.uint64), np.frombuffer(owner, np.int32), np.frombuffer(place, np.int32)
    common = rows_with(arrays[0], arrays[1]) > most_rows(len(rows))
    return Runs(*arrays, own=~_overlapped(common, arrays[1], arrays[2], overlap.words or 0))


def rows_with(hashes: NDArray[np.uint64], owner: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each run: in how many rows it stands."""
    if not len(hashes):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort((owner, hashes))
    by_hash, by_owner = hashes[order], owner[order]
    new = np.diff(by_hash, prepend=~by_hash[:1]) != 0
    counted = new | (np.diff(by_owner, prepend=-1) != 0)
    begins = np.flatnonzero(new)
    result = np.empty(len(hashes), dtype=np.int64)
    result[order] = np.repeat(np.add.reduceat(counted, begins, dtype=np.int64), np.diff(begins, append=len(hashes)))
    return result


def links(runs: Runs) -> NDArray[np.int64]:
    """Pairs of rows, in two columns, that connect all which share a run that is the user's own in at least one of them."""
    shared = runs.where(np.isin(runs.hashes, np.unique(runs.hashes[runs.own])))
    order = np.lexsort((shared.owner, shared.hashes))
    hashes, owner = shared.hashes[order], shared.owner[order]
    same = (hashes[1:] == hashes[:-1]) & (owner[1:] != owner[:-1])
    return np.stack([owner[:-1][same], owner[1:][same]], axis=1).astype(np.int64)


def met(runs: Runs, *, apart: NDArray[np.bool_]) -> dict[int, int]:
    """Row -> the first row kept `apart` of whose own runs it holds one."""
    theirs = runs.where(apart[runs.owner] & runs.own)
    order = np.lexsort((theirs.owner, theirs.hashes))
    hashes, owner = theirs.hashes[order], theirs.owner[order]
    mine = runs.where(~apart[runs.owner] & np.isin(runs.hashes, hashes))
    found: dict[int, int] = {}
    for row, other in zip(mine.owner.tolist(), owner[np.searchsorted(hashes, mine.hashes)].tolist(), strict=True):
        found[row] = min(found.get(row, other), other)
    return found


def shared_words(row: Sequence[str], other: Sequence[str], overlap: Overlap) -> str:
    """The first words of `row`, at least a run of them, that stand in `other` too; "" if there are none."""
    theirs = {run for _, run in run_strings(other, overlap)}
    found: list[str] = []
    last = -1
    for begin, run in run_strings(row, overlap):
        if run in theirs and not found:
            found, last = run.split(), begin
        elif run in theirs and begin == last + 1:
            found, last = [*found, run.split()[-1]], begin
    return " ".join(found)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _overlapped(common: NDArray[np.bool_], owner: NDArray[np.int32], place: NDArray[np.int32], words: int) -> NDArray[np.bool_]:
    """Which runs have a word in a common run of their row."""
    result = common.copy()
    for step in range(1, words):
        near = (owner[step:] == owner[:-step]) & (place[step:] - place[:-step] < words)
        result[step:] |= near & common[:-step]
        result[:-step] |= near & common[step:]
    return result


@cache
def _literal(template: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(template, key=lambda text: -len(text))
    return re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, longest_first))})(?!\S)")
