"""The rows that no system gets right, the ones the fine-tuned model was least sure of first; and those it got wrong being sure."""

from typing import Any

from fine_tune_pipeline.guide.evaluation.analysis.given import Given, share
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.objective.measures.labels import CONFIDENCE

LISTED = 10

SURE = 0.9
"""Probability of the whole answer above which the model counts as sure of it."""

_BLIND = "majority"
"""It does not read the prompt, so it is no judge of how hard a row is."""


def hardest(given: Given) -> dict[str, Any]:
    """At most `LISTED` rows of each kind, and how many there are.

    Of a graded metric the rows come by the best score that any system has, the lowest first.
    """
    systems = [system for system in given.scores.by_system if system != _BLIND]
    away = [min(abs(given.scores.of(system, given.metric)[place] - given.best) for system in systems) for place in range(len(given.test))]
    sure = [numbers.get(CONFIDENCE) for numbers in given.measured.get(FINE_TUNED, [{}] * len(given.test))]
    own = given.scores.of(FINE_TUNED, given.metric)
    nobody = [place for place, distance in enumerate(away) if distance > 0]
    nobody.sort(key=lambda place: (-away[place], 1.0 if sure[place] is None else sure[place]))
    wrong_sure = [place for place, score in enumerate(own) if score != given.best and (sure[place] or 0) >= SURE]
    wrong_sure.sort(key=lambda place: -(sure[place] or 0))

    def line(place: int) -> dict[str, Any]:
        return {**given.example(place), "best_score": _best(given, systems, place), "probability": sure[place]}

    return {
        "metric": given.metric,
        "systems": systems,
        "nobody": share(len(nobody), len(given.test)),
        "nobody_rows": [line(place) for place in nobody[:LISTED]],
        "sure": SURE,
        "wrong_sure": share(len(wrong_sure), len(given.test)) if any(number is not None for number in sure) else None,
        "wrong_sure_rows": [line(place) for place in wrong_sure[:LISTED]],
    }


def _best(given: Given, systems: list[str], place: int) -> float:
    scores = [given.scores.of(system, given.metric)[place] for system in systems]
    return min(scores) if given.kind.better == "lower" else max(scores)
