"""What the test rows must be before anything is answered or judged: there, each once, and with answers that the task allows."""

from collections import Counter

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.objective.task import Task


class NoTestRows(Exception):
    """The dataset has no test set, so nothing can be evaluated."""


class DuplicatedRows(Exception):
    """A test row stands there twice and would count twice."""


class WrongReference(Exception):
    """The right answer of a test row is none that the task allows, so every system would be wrong there."""


def judgeable(rows: list[Example], task: Task, *, where: str) -> list[Example]:
    """The same rows, when they can be judged.

    Args:
        where: what errors begin with.

    Raises:
        NoTestRows: there is none.
        DuplicatedRows: an id stands there twice; names the first.
        WrongReference: a right answer is outside the labels, or does not fit the schema; names the first.
    """
    if not rows:
        raise NoTestRows(f"{where}: the test set is empty; give `dataset.held_out` sources, or set `dataset.split.test` above 0")
    twice = [id for id, times in Counter(row.id for row in rows).items() if times > 1]
    if twice:
        raise DuplicatedRows(f"{where}: {len(twice)} ids stand more than once in the test set, the first is {twice[0]!r}; make ids unique")
    wrong = [(row.id, said) for row in rows if (said := task.problem(row.completion)) is not None]
    if wrong:
        id, said = wrong[0]
        raise WrongReference(f"{where}: {len(wrong)} test rows have an answer that the task does not allow, the first is {id!r}: {said}")
    return rows
