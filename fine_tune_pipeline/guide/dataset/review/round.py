"""One round with people: what they handed in is remembered, and what is still open is handed out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from fine_tune_pipeline.artifacts.examples import Example, read_rows, write_rows
from fine_tune_pipeline.artifacts.fingerprint import fingerprint
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.reviews import ASKED, HANDOUT, ReviewFolder
from fine_tune_pipeline.guide.dataset.review.files.exchange import FILLED_IN_PLACE, read_hand_in, write_formats
from fine_tune_pipeline.guide.dataset.review.files.unreadable import UnreadableHandIn
from fine_tune_pipeline.guide.dataset.review.sample import Sample, content_of, shown_prompt
from fine_tune_pipeline.guide.dataset.review.verdicts import (
    FILLED,
    Known,
    Settled,
    Verdict,
    invalid_fix,
    known,
    read_verdicts,
    remembered,
    settled,
    shown,
)
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.people.review_queue import FROM_QUEUE
from fine_tune_pipeline.spec.dataset import ReviewSpec


class Queue(Protocol):
    """Another way to people than files."""

    def pull(self) -> list[dict[str, Any]]:
        """Verdicts so far, as lines of a hand-in."""

    def push(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Offer rows that are not there yet."""


@dataclass(frozen=True)
class Round:
    """What people said so far: `verdicts` of every person, oldest first, `settled` by content, and lines that are no verdict."""

    verdicts: list[Verdict]
    settled: dict[str, Settled]
    refused: list[Quarantined]

    def digest(self, examples: Sequence[Example]) -> str | None:
        """A hash of all that is said about these examples; None if nothing is. Other hand-outs of the use case play no part."""
        here = spoken_of(examples, self)
        said = [verdict.row() for verdict in self.verdicts if verdict.content in here]
        return fingerprint({"verdicts": said, "refused": [row.detail for row in self.refused]}) if said or self.refused else None


def spoken_of(examples: Sequence[Example], done: Round) -> set[str]:
    """The contents of these examples of which anybody has said anything."""
    said = {verdict.content for verdict in done.verdicts}
    return {content for example in examples if (content := content_of(example)) in said} if said else set()


NOBODY = Round([], {}, [])


def hold(
    examples: Sequence[Example], sample: Sample, *, spec: ReviewSpec, task: Task, reviews: ReviewFolder, use_case: str, queue: Queue | None
) -> Round:
    """Take in what people handed in, and hand out what is open; nothing of either where nobody is asked.

    Hand-outs are written always: their folder is not the store's, and may be gone.
    """
    if spec.policy == "auto_accept":
        return NOBODY
    if queue is not None and (pulled := queue.pull()):
        reviews.handed_in.mkdir(parents=True, exist_ok=True)
        write_rows(reviews.handed_in / FROM_QUEUE, pulled)
    done = take_in(reviews, task=task)
    rows = open_rows(sample, done.settled)
    hand_out(rows, reviews, formats=spec.formats, use_case=use_case)
    if queue is not None:
        queue.push(rows)
    return done


def take_in(reviews: ReviewFolder, *, task: Task) -> Round:
    """Read all files handed in to this hand-out and to earlier ones, remember what is new in them, and give back all that is known."""
    folders = reviews.siblings()
    everywhere = [row for folder in folders for row in shown(folder.asked())]
    refused = []
    for folder, path in _by_age(folders):
        name = f"{folder.folder.name}/{path.relative_to(folder.folder).as_posix()}"
        verdicts, bad = _read(path, name, known(shown(folder.asked()), everywhere), task)
        reviews.ledger.take(name, [verdict.row() for verdict in verdicts])
        refused += bad
    answers = {row.content: row.completion for row in everywhere}
    valid = []
    for verdict in map(remembered, reviews.ledger.entries()):
        problem = _outdated(verdict, answers, task)
        if problem is None:
            valid.append(verdict)
        else:
            refused.append(Quarantined(verdict.id, "invalid_fix", f"ledger: {verdict.id}: {problem}", verdict.row()))
    return Round(valid, settled(valid), refused)


def open_rows(sample: Sample, settled: Mapping[str, Settled]) -> list[dict[str, Any]]:
    """The rows that still need somebody, each text once."""
    rows = {}
    for example in sample.rows:
        name = content_of(example)
        look, people = _look(settled.get(name), twice=example.id in sample.twice)
        if look and name not in rows:
            rows[name] = {
                "id": example.id,
                "content": name,
                "prompt": shown_prompt(example),
                "completion": example.completion,
                "source": example.source,
                "why": sample.why(example),
                "look": look,
                "people": people,
            }
    return list(rows.values())


def hand_out(rows: list[dict[str, Any]], reviews: ReviewFolder, *, formats: Sequence[str], use_case: str) -> None:
    """Write what is open, in every format; what was handed out before is remembered, since verdicts on it may still come."""
    before = {row.content: row._asdict() for row in shown(reviews.asked())}
    reviews.folder.mkdir(parents=True, exist_ok=True)
    write_rows(reviews.folder / ASKED, (before | {row["content"]: row for row in rows}).values())
    # Written again only when rows come or go: somebody may have the workbook open.
    same = (reviews.folder / HANDOUT).exists() and read_rows(reviews.folder / HANDOUT) == rows
    reviews.hand_out(rows)
    missing = [name for name in formats if not same or not (reviews.folder / f"handout.{name}").exists()]
    write_formats(reviews.folder, rows, formats=missing, use_case=use_case)


def _look(found: Settled | None, *, twice: bool) -> tuple[str, int]:
    """Who has to look at a row, in words ("" if nobody), and how many people that makes in all."""
    if found is None:
        return ("two people", 2) if twice else ("one person", 1)
    if found.verdict is None:
        return f"one more person, since {found.said} disagree", len(found.people) + 1
    if twice and len(found.people) == 1 and found.verdict.private is not False:
        return f"two people, the second: not {found.said}", 2
    return "", len(found.people)


def _by_age(folders: Sequence[ReviewFolder]) -> list[tuple[ReviewFolder, Path]]:
    """Files handed in, oldest first; hand-outs that were filled in where they lie are set aside, and are among them."""
    for folder, name in ((folder, name) for folder in folders for name in FILLED_IN_PLACE):
        if _filled_in(folder.folder / name):
            folder.set_aside(folder.folder / name)
    files = chain.from_iterable(((folder, path) for path in folder.files_handed_in()) for folder in folders)
    return sorted(files, key=lambda found: (found[1].stat().st_mtime_ns, str(found[1])))


def _filled_in(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        lines = read_hand_in(path)
    except UnreadableHandIn:
        return True
    return any(line.broken or any(str(line.fields.get(name) or "").strip() for name in FILLED) for line in lines)


def _read(path: Path, name: str, what: Known, task: Task) -> tuple[list[Verdict], list[Quarantined]]:
    """The verdicts of a file, and what is wrong with it; a file that cannot be read is one refused line."""
    try:
        lines = read_hand_in(path)
    except UnreadableHandIn as error:
        return [], [Quarantined(name, "unreadable_file", str(error), {"file": name})]
    return read_verdicts(lines, what, task)


def _outdated(verdict: Verdict, answers: Mapping[str, str], task: Task) -> str | None:
    """Why a correction of earlier is none for the task as it is now."""
    if verdict.verdict != "fix":
        return None
    return invalid_fix(verdict.completion, answers.get(verdict.content, ""), task)
