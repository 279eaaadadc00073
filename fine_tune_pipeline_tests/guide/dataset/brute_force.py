"""References that share nothing with the code under test: every row against every row, sets of tuples."""

from collections.abc import Sequence


def tuples(text: str, words: int) -> list[tuple[str, ...]]:
    """Runs of a text of small letters, digits and blanks."""
    split = text.split(" ") if text else []
    return [tuple(split[start : start + words]) for start in range(len(split) - words + 1)]


def own(row: Sequence[str], counted: Sequence[Sequence[str]], words: int, most: int) -> set[tuple[str, ...]]:
    """Runs of a row that overlap none which stands in more than `most` rows."""
    found = set()
    for text in row:
        runs = tuples(text, words)
        common = [sum(any(run in tuples(other, words) for other in each) for each in counted) > most for run in runs]
        found |= {run for place, run in enumerate(runs) if not any(common[max(0, place - words + 1) : place + words])}
    return found


def sharing(
    train: Sequence[Sequence[str]], other: Sequence[Sequence[str]], *, counted: Sequence[Sequence[str]], words: int, most: int
) -> set[int]:
    """Places in `train` of rows that hold an own run of a row of `other`."""
    theirs = set().union(*(own(row, counted, words, most) for row in other))
    return {place for place, row in enumerate(train) if any(theirs.intersection(tuples(text, words)) for text in row)}
