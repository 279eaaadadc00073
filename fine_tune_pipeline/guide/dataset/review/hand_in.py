"""Handing files in from the command line: told at once what is wrong with them, and how many rows still wait."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.artifacts.reviews import HANDOUT, ReviewFolder
from fine_tune_pipeline.guide.dataset.review.files.exchange import read_hand_in
from fine_tune_pipeline.guide.dataset.review.verdicts import Verdict, known, read_verdicts, remembered, settled, shown
from fine_tune_pipeline.guide.objective.task import Task

_ANY_ANSWER = Task(type="generation")
"""Whether a corrected answer is one of the task is told by the run, which knows the task."""


class NothingHandedOut(Exception):
    """No run has handed anything out yet."""


@dataclass(frozen=True)
class HandedIn:
    """What stands in the files that were handed in, and what the hand-out still waits for.

    `waiting` are rows without a verdict, or on which people disagree; `second_looks` those that only lack a second person.
    """

    folder: Path
    verdicts: int
    refused: list[str]
    waiting: int
    second_looks: int


def latest(kind: Path, *, made_by: str = "reviewed_examples with dataset.review.policy: experts") -> ReviewFolder:
    """The hand-out that was written last, of those below the folder of a use case's kind.

    Args:
        made_by: what hands out, for the message.

    Raises:
        NothingHandedOut: says how to get one.
    """
    found = [path.parent for path in kind.glob(f"*/{HANDOUT}")]
    if not found:
        raise NothingHandedOut(f"{kind}: nothing was handed out; materialize {made_by} first")
    return ReviewFolder(max(found, key=lambda path: (path / HANDOUT).stat().st_mtime_ns))


def hand_in(reviews: ReviewFolder, files: Sequence[Path]) -> HandedIn:
    """Copy files to where the next run looks for them; what the run will refuse is told now.

    Raises:
        UnreadableHandIn: nothing is copied then.
    """
    what = known(shown(reviews.asked()), [row for folder in reviews.siblings() for row in shown(folder.asked())])
    read = [read_verdicts(read_hand_in(path), what, _ANY_ANSWER) for path in files]
    put_in(reviews, files)
    given = [verdict for verdicts, _ in read for verdict in verdicts]
    before = [remembered(entry) for entry in reviews.ledger.entries()]
    waiting, second = _still_open(reviews, [*before, *given])
    return HandedIn(reviews.folder, len(given), [row.detail for _, refused in read for row in refused], waiting, second)


def put_in(reviews: ReviewFolder, files: Sequence[Path]) -> None:
    """Copy files to where the next run looks for them; the same file twice is there once."""
    for path in files:
        reviews.handed_in.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, reviews.handed_in / f"{path.stem}-{file_sha256(path)[:8]}{path.suffix}")


def _still_open(reviews: ReviewFolder, verdicts: Sequence[Verdict]) -> tuple[int, int]:
    said = settled(verdicts)
    waiting = second = 0
    for row in read_rows(reviews.folder / HANDOUT):
        found = said.get(shown([row])[0].content)
        if found is None or found.verdict is None:
            waiting += 1
        elif len(found.people) < row.get("people", 1) and found.verdict.private is not False:
            second += 1
    return waiting, second
