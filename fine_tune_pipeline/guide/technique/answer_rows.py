"""Reading the answers of a system back: every row is answered once, and by nothing else, or the file is refused before it is judged."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fine_tune_pipeline.artifacts.examples import Example, read_rows


class UnusableAnswers(Exception):
    """A prediction file cannot be judged."""


class NoAnswers(UnusableAnswers):
    """It is empty."""


class BadAnswer(UnusableAnswers):
    """A line of it lacks an id or a text."""


class DuplicatedAnswers(UnusableAnswers):
    """It answers a row twice, so one of the answers would be lost."""


class MissingAnswers(UnusableAnswers):
    """It does not answer all rows."""


class UnknownAnswers(UnusableAnswers):
    """It answers rows that were not asked, as when it belongs to another set."""


def read_answers(path: Path, rows: Sequence[Example]) -> list[str]:
    """The answers of a prediction file to these rows, in their order; it may answer others too.

    Raises:
        NoAnswers, BadAnswer, DuplicatedAnswers, MissingAnswers: named with the file and the first place.
    """
    texts = _texts(path)
    missing = [row.id for row in rows if row.id not in texts]
    if missing:
        raise MissingAnswers(f"{path}: no answer for {len(missing)} of {len(rows)} rows, the first is {missing[0]!r}; predict again")
    return [texts[row.id] for row in rows]


def read_all_answers(path: Path, rows: Sequence[Example]) -> list[str]:
    """The answers of a prediction file that was made for these rows and no others, in their order.

    Raises:
        UnknownAnswers: it answers other rows as well.
        NoAnswers, BadAnswer, DuplicatedAnswers, MissingAnswers: as `read_answers`.
    """
    answers = read_answers(path, rows)
    unknown = sorted(_texts(path).keys() - {row.id for row in rows})
    if unknown:
        raise UnknownAnswers(
            f"{path}: {len(unknown)} answers are to rows that were not asked, the first is {unknown[0]!r}; it belongs to another set, so "
            "predict again"
        )
    return answers


def _texts(path: Path) -> dict[str, str]:
    found = read_rows(path)
    if not found:
        raise NoAnswers(f"{path}: holds no answer; the program that answers was cut off, so predict again")
    for number, row in enumerate(found, start=1):
        if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
            raise BadAnswer(f"{path}: answer {number} has the keys {', '.join(row) or 'none'}; want id and text, both text")
    twice = [id for id, times in Counter(row["id"] for row in found).items() if times > 1]
    if twice:
        raise DuplicatedAnswers(f"{path}: {len(twice)} rows are answered more than once, the first is {twice[0]!r}; predict again")
    return {row["id"]: row["text"] for row in found}
