"""Labels of the *test* set that look wrong, and what each criterion would say without these rows. The verdict itself never changes."""

from collections.abc import Sequence
from typing import Any

from fine_tune_pipeline.guide.dataset.cleaning.suspects import (
    FEWEST_ROWS,
    LEARNED_FROM,
    LEAST_AGREEMENT,
    MOST_ROWS,
    agreements,
    disagreements,
    field_values,
    folds_of,
)
from fine_tune_pipeline.guide.evaluation.analysis.given import Given, NotAvailable, share
from fine_tune_pipeline.guide.evaluation.scoring import NoRowCounts, Scores
from fine_tune_pipeline.guide.evaluation.verdicts import Verdict, judged
from fine_tune_pipeline.guide.objective.criteria import criterion_text
from fine_tune_pipeline.spec.objective import ObjectiveSpec


def label_errors(given: Given) -> dict[str, Any]:
    """Doubted values, the least likely first, by cleanlab on probabilities of a classifier that learned from the training rows and the
    other folds of the test set; and each criterion judged again without their rows.

    Raises:
        NotAvailable: no closed list of values, too few rows, one value only, or values that like rows do not show.
    """
    import numpy as np

    if not given.task.enum_fields and not given.task.classes:
        raise NotAvailable(f"a {given.task.type} task without a closed list of values has no labels to doubt")
    if len(given.test) < FEWEST_ROWS:
        raise NotAvailable(f"{len(given.test)} test rows, want at least {FEWEST_ROWS} to tell a wrong label from a rare one")
    room = max(0, MOST_ROWS - len(given.test))
    learned = range(len(given.train)) if given.vectors is None else given.vectors.places
    train = [given.train[place] for place in learned][:room]
    rows = [*train, *given.test]
    vectors = None if given.vectors is None else np.concatenate([given.vectors.train[: len(train)], given.vectors.test])
    folds = np.concatenate([np.full(len(train), LEARNED_FROM), folds_of(given.test)])
    fields = {field: values for field, values in field_values(rows, given.task).items() if len(set(values[len(train) :])) > 1}
    if not fields:
        raise NotAvailable("all test rows have the same label, so none can be told from the others")
    lines: list[dict[str, Any]] = []
    unseen: dict[str, float] = {}
    for field, values in fields.items():
        judged = disagreements([row.question for row in rows], values, vectors=vectors, folds=folds)
        if judged.doubts is None:
            unseen[field] = judged.agreement
        for doubt in judged.doubts or ():
            place = doubt.place - len(train)
            line = {"field": field, "given": values[doubt.place], "suggested": doubt.better, "probability": doubt.quality}
            lines.append({**given.example(place), **line, "place": place})
    if len(unseen) == len(fields):
        raise NotAvailable(
            f"like rows do not show these labels: of those given they have {agreements(unseen)}, want {LEAST_AGREEMENT:.1f} before any is "
            "doubted; only people can say whether they are right"
        )
    lines.sort(key=lambda line: line["probability"])
    places = {line["place"] for line in lines}
    by = "words" if vectors is None else "words and meaning (MiniLM)"
    flagged = share(len(places), len(given.test))
    what_if = [] if given.worn or not places else _what_if(given, places)
    changed = sum(row["verdict"] != row["without"] for row in what_if)
    return {"by": by, "flagged": flagged, "lines": lines, "what_if": what_if, "changed": changed, "unseen": unseen}


def _what_if(given: Given, places: set[int]) -> list[dict[str, Any]]:
    """Each criterion as it was judged, and as it would be judged without the doubted rows. It is the same look at the test rows."""
    kept = given.scores.part([place for place in range(len(given.test)) if place not in places])
    without = _again(given.objective, kept)
    found = []
    for verdict in given.verdicts:
        other = without.get((verdict.kind, verdict.criterion))
        if other is not None:
            found.append(
                {
                    "criterion": verdict.criterion, "level": verdict.level, **_said("", verdict), **_said("without_", other),
                    "without": other.verdict,
                }
            )  # fmt: skip
    return found


def _said(prefix: str, verdict: Verdict) -> dict[str, Any]:
    row = verdict.row()
    shown = {"estimate": row["estimate"], "low": row["lower"], "high": row["upper"], "bound": row["bound"], "n": row["rows"]}
    named = {f"{prefix}{name}": _finite(value) for name, value in shown.items()}
    return named if prefix else {**named, "verdict": verdict.verdict}


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) != float("inf") else None


def _again(objective: ObjectiveSpec, kept: Scores) -> dict[tuple[str, str], Verdict]:
    """Verdicts by kind and text of the criterion; those that no row is left for are missing."""
    found: dict[tuple[str, str], Verdict] = {}
    if not kept.rows:
        return found
    asked: Sequence[tuple[Any, Any]] = [("success", objective.success), ("guard", objective.guards)]
    for kind, criteria in asked:
        for criterion in criteria:
            try:
                found[kind, criterion_text(criterion)] = judged(kind, criterion, kept, evidence=objective.evidence)
            except NoRowCounts:
                # Every row of the label is doubted.
                continue
    return found
