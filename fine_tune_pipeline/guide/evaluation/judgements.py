"""What people said about the pairs: read with care, and turned into a win rate."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.pairs import HandOut, Secret
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.statistics import bootstrap_bounds, two_sided, wilson

Choice = Literal["A", "B", "equal", "unusable"]
CHOICES: tuple[str, ...] = get_args(Choice)

SHOWN_LEVEL = 0.95


@dataclass(frozen=True)
class Judgement:
    """One person's answer to one pair."""

    pair: str
    choice: Choice
    by: str


@dataclass(frozen=True)
class Result:
    """What the judgements say; None stands for what cannot be known yet.

    `win_rate` is of the fine-tuned model over items, ties and unusable pairs as one half; `lower` its one-sided bound. `first_side` is
    the share of A among choices of a side: away from one half, people follow the side. `consistent` is the share of repeated pairs that
    the same person judged alike.
    """

    answered: int
    pairs: int
    people: int
    win_rate: Bounds | None
    lower: float | None
    unusable: float | None
    first_side: Bounds | None
    consistent: float | None

    @property
    def waiting(self) -> bool:
        return self.answered < self.pairs


def read_judgements(lines: Iterable[str], *, known: Mapping[str, Secret]) -> tuple[list[Judgement], list[Quarantined]]:
    """Valid judgements, the last one of each person for each pair, and every line that is none, with the reason.

    Args:
        lines: of the verdict file, JSON objects with id, choice (A, B, equal, unusable) and by.
        known: the key of the hand-out.
    """
    kept: dict[tuple[str, str], tuple[Judgement, Quarantined]] = {}
    refused = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row, problem = _row(line, known=known)
        if problem is not None:
            refused.append(Quarantined(f"line {number}", *problem, row))
            continue
        judgement = Judgement(row["id"], row["choice"], row["by"].strip().casefold())
        before = kept.pop((judgement.pair, judgement.by), None)
        if before is not None:
            refused.append(before[1])
        replaced = Quarantined(f"line {number}", "superseded", f"{row['by']} judged {row['id']} again further down", row)
        kept[judgement.pair, judgement.by] = (judgement, replaced)
    return [judgement for judgement, _ in kept.values()], refused


def result(judgements: Sequence[Judgement], handed_out: HandOut, *, level: float, seed: int) -> Result:
    """Win rate with a bootstrap over items (test rows), and how far the judgements can be trusted.

    Args:
        level: of the one-sided lower bound that a demand is judged by.
        seed: of the bootstrap.
    """
    key = handed_out.key
    by_item: dict[str, list[float]] = defaultdict(list)
    for judgement in judgements:
        by_item[key[judgement.pair].example].append(points_of(judgement, key))
    items = [sum(points) / len(points) for points in by_item.values()]
    sides = [judgement.choice for judgement in judgements if judgement.choice in ("A", "B")]
    return Result(
        answered=len({judgement.pair for judgement in judgements}),
        pairs=len(handed_out.pairs),
        people=len({judgement.by for judgement in judgements}),
        win_rate=bootstrap_bounds(items, level=two_sided(SHOWN_LEVEL), seed=seed) if items else None,
        lower=bootstrap_bounds(items, level=level, seed=seed).lower if items else None,
        unusable=sum(judgement.choice == "unusable" for judgement in judgements) / len(judgements) if judgements else None,
        first_side=wilson(sides.count("A"), len(sides), level=two_sided(SHOWN_LEVEL)) if sides else None,
        consistent=_consistent(judgements, key),
    )


def _row(line: str, *, known: Mapping[str, Secret]) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The row, and (reason, detail) if it is not a valid judgement."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return {"line": line}, ("not_json", f"not JSON: {error.msg} at column {error.colno}; want one object a line")
    if not isinstance(row, dict):
        return {"line": line}, ("not_json", f"got {type(row).__name__}, want an object with id, choice and by")
    if not isinstance(row.get("id"), str) or row["id"] not in known:
        return row, (
            "unknown_pair",
            f"id {row.get('id')!r} is not in this hand-out; want one of its ids, such as {next(iter(known), '')!r}",
        )
    if row.get("choice") not in CHOICES:
        return row, ("unknown_choice", f"choice {row.get('choice')!r}; want one of {', '.join(CHOICES)}")
    if not isinstance(row.get("by"), str) or not row["by"].strip():
        return row, ("nobody", f"by {row.get('by')!r}; want the name of the person who judged")
    return row, None


def points_of(judgement: Judgement, key: Mapping[str, Secret]) -> float:
    """1 when the fine-tuned model's answer was chosen, 0 when the other was, one half for neither."""
    if judgement.choice not in ("A", "B"):
        return 0.5
    return float(getattr(key[judgement.pair], judgement.choice) == FINE_TUNED)


def _consistent(judgements: Sequence[Judgement], key: Mapping[str, Secret]) -> float | None:
    points = {(judgement.pair, judgement.by): points_of(judgement, key) for judgement in judgements}
    same = [
        points[first, by] == score
        for (pair, by), score in points.items()
        if (first := key[pair].repeats) is not None and (first, by) in points
    ]
    return sum(same) / len(same) if same else None
