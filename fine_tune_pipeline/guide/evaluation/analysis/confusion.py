"""Which value is taken for which: pairs with their share, and the matrix of the field with the most confusions."""

from collections import Counter, defaultdict
from dataclasses import asdict
from typing import Any

from fine_tune_pipeline.guide.evaluation.analysis.given import Given, NotAvailable
from fine_tune_pipeline.guide.evaluation.errors import INVALID, confusions, field_values

MOST_CLASSES = 20
"""Of a matrix that can still be read; of more, those that take part in the most confusions."""

OTHER = "(other)"


def confusion(given: Given) -> dict[str, Any]:
    """Pairs of right and answered value, most frequent first; of each, the share of the rows that should have had the right value.

    Raises:
        NotAvailable: the task has no closed list of values, or the test set holds none of them.
    """
    counted: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for row, text in zip(given.test, given.own, strict=True):
        for field, wanted, answered in field_values(row.completion, text, task=given.task):
            counted[field][wanted, answered] += 1
    if not counted:
        raise NotAvailable(f"a {given.task.type} task without a closed list of values has nothing to confuse")
    pairs = [asdict(pair) for pair in confusions(given.test, given.own, task=given.task)]
    worst = max(counted, key=lambda field: sum(times for (wanted, answered), times in counted[field].items() if wanted != answered))
    return {"pairs": pairs, "matrix": _matrix(worst, counted[worst])}


def _matrix(field: str, cells: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Counts: a row for each right value, a column for each of them as answered, then for all others and for invalid answers."""
    wrong = Counter[str]()
    for (wanted, answered), times in cells.items():
        wrong[wanted] += times * (wanted != answered)
        wrong[answered] += times * (wanted != answered)
    names = sorted({wanted for wanted, _ in cells}, key=lambda name: (-wrong[name], name))[:MOST_CLASSES]
    columns = [*names, OTHER, INVALID]
    place = {name: number for number, name in enumerate(columns)}
    counts = [[0] * len(columns) for _ in names]
    for (wanted, answered), times in cells.items():
        if wanted in names:
            counts[place[wanted]][place.get(answered, place[OTHER])] += times
    used = [number for number, name in enumerate(columns) if name in names or any(row[number] for row in counts)]
    return {
        "field": field, "rows": names, "columns": [columns[number] for number in used],
        "counts": [[row[number] for number in used] for row in counts], "classes": len({wanted for wanted, _ in cells}),
    }  # fmt: skip
