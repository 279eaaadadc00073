"""What people said of answers, as right or wrong, in the order in which it became known: a test that may be looked at at any time needs
a stream that only grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.artifacts.traffic import Logged
from fine_tune_pipeline.guide.objective.task import Task, parsed
from fine_tune_pipeline.programs.requests import Contract

FILE = "labels.jsonl"

LOOKED_THROUGH = 20_000
"""Of the last requests, for new feedback: what is said of older ones comes too late."""

KEPT_LABELS = 10_000


class Label(Contract):
    """One word of one source on one answer; the first word counts, since what was tested cannot be taken back."""

    request: str
    source: str
    version: str
    good: bool
    by: Literal["thumb", "corrected"]


def grown(before: Artifact | None, requests: Sequence[Logged], task: Task, *, sources: Sequence[str]) -> list[Label]:
    """The labels so far and, after them, the new ones.

    Args:
        before: the last artifact of `production_traffic`.
        requests: the last requests with their feedback, oldest first.
        sources: whose feedback counts; everybody's when there are none.
    """
    labels = read_labels(before)
    known = {(label.request, label.source) for label in labels}
    new = [
        label
        for logged in requests
        for label in _labels(logged, task)
        if (label.request, label.source) not in known and (not sources or label.source in sources)
    ]
    return [*labels, *new][-KEPT_LABELS:]


def read_labels(artifact: Artifact | None) -> list[Label]:
    """The labels of an artifact; none of one from before there were any."""
    if artifact is None or FILE not in artifact.manifest.files:
        return []
    return [Label.model_validate(row) for row in read_rows(artifact.file(FILE))]


def write_labels(labels: Sequence[Label], folder: Path) -> None:
    """One a line."""
    write_rows(folder / FILE, (label.model_dump() for label in labels))


def same_answer(task: Task, answer: str, wanted: str) -> bool:
    """Whether an answer says what the right one says: the same JSON value, the same class, or the same text up to white space."""
    one, other = parsed(answer), parsed(wanted)
    if task.type == "extraction" and one is not None and other is not None:
        return bool(one == other)
    if task.type == "classification":
        return task.class_of(answer) == task.class_of(wanted) != ""
    return answer.split() == wanted.split()


def _labels(logged: Logged, task: Task) -> list[Label]:
    """What can be judged: a thumb always, a correction where the answer could be kept."""
    found: list[Label] = []
    for said in logged.feedback:
        good: Any = None if said.thumb is None else said.thumb == "up"
        by: Literal["thumb", "corrected"] = "thumb"
        if said.corrected is not None and logged.request.answer_scrubbed is not None:
            good, by = same_answer(task, logged.request.answer_scrubbed, said.corrected), "corrected"
        if good is not None:
            found.append(Label(request=logged.request.id, source=said.source, version=logged.request.version, good=good, by=by))
    return found
