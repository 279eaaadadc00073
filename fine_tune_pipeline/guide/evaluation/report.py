"""The evaluation as one JSON document. The Markdown and the HTML page show it; nothing in them is computed elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.looks import Look
from fine_tune_pipeline.guide.base_model.price import Cost as Money
from fine_tune_pipeline.guide.evaluation.buying import buying
from fine_tune_pipeline.guide.evaluation.costs import cost_lines
from fine_tune_pipeline.guide.evaluation.errors import class_lines, confusions, example_lines
from fine_tune_pipeline.guide.evaluation.figure import SHOWN_LEVEL, Figure, figure_of, finite, share_of
from fine_tune_pipeline.guide.evaluation.outcome import outcome
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, Cost
from fine_tune_pipeline.guide.evaluation.scoring import Scores, headline_metric
from fine_tune_pipeline.guide.evaluation.statistics import two_sided, wilson
from fine_tune_pipeline.guide.evaluation.verdicts import FEWEST_DIFFERENCES, Verdict
from fine_tune_pipeline.guide.objective.clusters import cluster_sizes
from fine_tune_pipeline.guide.objective.evidence import design_effect, smallest_detectable_gain
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.recommendation import Growth
from fine_tune_pipeline.programs.requests import TrainResult
from fine_tune_pipeline.spec.objective import ObjectiveSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

CURVE_POINTS = 300
"""Of the loss curve; the whole of it is in the adapter's curve.jsonl."""

BASES = ("base_few_shot", "base_zero_shot")
"""The base model as it is, the better prompted form first."""

NO_INTERVAL = {
    "peak_memory_gib": "the most that was seen in one run",
    "costs": "each system answered the rows once: seconds and tokens are what that took; only single answers were timed several times",
    "training": "one training run: another seed would give somewhat other losses and times",
    "curve": "one training run: another seed would give somewhat other losses",
    "base_model": "step 2 computes them from sizes, formulas and price lists; nothing is measured on rows",
    "evidence": "they follow from the number of rows and groups; nothing is estimated",
}
"""Parts of the document whose numbers rest on one measurement, or on none -> why they have no interval."""


@dataclass(frozen=True)
class Material:
    """All that a report is made of.

    `answers` and `scores` are in the order of `test`; `curve` are rows of the adapter's curve.jsonl (at least step, loss); `unfinished`
    says of each of the fine-tuned model's answers whether it was cut at the token limit; `base` is what step 2 says in `base_model.json`;
    `look` is which one it is at these test rows, and `spec` asks for the level that it has; `money` is per thousand answers, `growth` is
    what more rows brought the classifier.
    """

    spec: UseCaseSpec
    task: Task
    train: Sequence[Example]
    test: Sequence[Example]
    answers: Mapping[str, Sequence[str]]
    scores: Scores
    verdicts: Sequence[Verdict]
    costs: Sequence[Cost]
    peak_memory_bytes: int
    training: TrainResult
    curve: Sequence[Mapping[str, Any]]
    unfinished: Sequence[bool]
    base: Mapping[str, Any]
    look: Look
    money: Mapping[str, Money]
    growth: Growth | None = None


def primary_metric(task: Task, objective: ObjectiveSpec, scores: Scores) -> str:
    """What the objective is about: the metric of its first success criterion that looks at more than the form of an answer."""
    asked = [criterion.metric for criterion in objective.success if not scores.metrics[criterion.metric].validity]
    return asked[0] if asked else headline_metric(task)


def base_systems(scores: Scores) -> list[str]:
    """The forms of the base model that were run, the better prompted one first."""
    return [system for system in BASES if system in scores.by_system]


def document(material: Material) -> dict[str, Any]:
    """The report. Numbers of the fine-tuned model stand at the top under their metric's name, those of all systems in `systems`."""
    scores, objective = material.scores, material.spec.objective
    metric = primary_metric(material.task, objective, scores)
    evidence = _evidence(material, metric=metric)
    decided = outcome(material.verdicts)
    return {
        "outcome": {"line": decided.line, **asdict(decided)},
        "use_case": material.spec.name,
        "goal": objective.goal,
        "n": len(material.test),
        **_headline(material),
        "primary_metric": metric,
        **buying(material, metric=metric, detectable=evidence["gain"]),
        "verdicts": [_verdict_row(verdict) for verdict in material.verdicts],
        "look": asdict(material.look),
        "metrics": {name: {"about": kind.about, "better": kind.better, "validity": kind.validity} for name, kind in scores.metrics.items()},
        "table_metrics": _table_metrics(material),
        "means": {system: {name: scores.mean(system, name) for name in scores.metrics} for system in scores.by_system},
        "systems": {system: _system(scores, system) for system in scores.by_system},
        "absent": _absent(material),
        "gains": _gains(scores, level=objective.evidence.level),
        "evidence": evidence,
        **_errors(material, metric=metric),
        "costs": cost_lines(material.costs, material.money),
        "peak_memory_gib": round(material.peak_memory_bytes / 2**30, 3),
        "training": material.training.model_dump(mode="json", exclude={"adapter", "curve"}),
        "curve": _thinned(material.curve),
        "review_policy": material.spec.dataset.review.policy,
        "decoding": material.spec.evaluation.decoding,
        "base_model": {name: material.base.get(name) for name in ("id", "reason", "compared_on", "candidates")},
        "no_interval": NO_INTERVAL,
    }


def _headline(material: Material) -> dict[str, Any]:
    """Flat numbers for whoever reads the JSON by program; the interval of the gain is two-sided at `SHOWN_LEVEL`."""
    scores, metric = material.scores, headline_metric(material.task)
    flat: dict[str, Any] = {name: scores.mean(FINE_TUNED, name) for name in scores.metrics}
    bases = {system: scores.mean(system, metric) for system in scores.by_system if system != FINE_TUNED}
    against = base_systems(scores)[0]
    gain = scores.gain(FINE_TUNED, metric, over=against, level=two_sided(SHOWN_LEVEL))
    return {
        "headline_metric": metric,
        **flat,
        **bases,
        "gain_over": against,
        "gain": gain.estimate,
        "gain_low": finite(gain.lower),
        "gain_high": finite(gain.upper),
    }


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    """A limit is held against one measurement: it says so in place of how its bounds were found."""
    row = verdict.row()
    once = {"how": "one measurement, so without interval"} if verdict.kind == "limit" else {}
    return {**row, **{name: finite(row[name]) for name in ("bound", "lower", "upper")}, **once}


def _table_metrics(material: Material) -> list[str]:
    """Columns of the table: all metrics, but of two that are the same (accuracy and exact_match of labels) the one that criteria name."""
    names = list(material.scores.metrics)
    if material.task.type != "classification":
        return names
    asked = {criterion.metric for criterion in (*material.spec.objective.success, *material.spec.objective.guards)}
    twin = "accuracy" if "exact_match" in asked and "accuracy" not in asked else "exact_match"
    return [name for name in names if name != twin or asked >= {"accuracy", "exact_match"}]


def _system(scores: Scores, system: str) -> dict[str, Figure]:
    return {metric: figure_of(scores.bounds(system, metric, level=two_sided(SHOWN_LEVEL), share=wilson)) for metric in scores.metrics}


def _gains(scores: Scores, *, level: float) -> list[dict[str, Any]]:
    """The fine-tuned model's gain over each system in each metric with a direction: one-sided bounds, and a two-sided interval."""
    lines = []
    for metric, kind in scores.metrics.items():
        if kind.better == "neither":
            continue
        for system in scores.by_system:
            if system != FINE_TUNED:
                one = scores.gain(FINE_TUNED, metric, over=system, level=level)
                shown = scores.gain(FINE_TUNED, metric, over=system, level=two_sided(SHOWN_LEVEL))
                bounds = {"lower": finite(one.lower), "upper": finite(one.upper), "level": level}
                lines.append({"metric": metric, "over": system, **figure_of(shown), **bounds})
    return lines


def _evidence(material: Material, *, metric: str) -> dict[str, Any]:
    """What this test set could show, by the share of rows on which the fine-tuned model and the base really differ."""
    evidence, scores = material.spec.objective.evidence, material.scores
    gains = scores.gains(FINE_TUNED, metric, over=base_systems(scores)[0])
    differ = max(FEWEST_DIFFERENCES, sum(gain != 0 for gain in gains) / len(gains))
    sizes = cluster_sizes(scores.clusters)
    wider = design_effect(sizes)
    detectable = smallest_detectable_gain(len(gains), level=evidence.level, power=evidence.power, disagreement=differ, design_effect=wider)
    wanted = [criterion.by for criterion in material.spec.objective.success if criterion.metric == metric and criterion.beats is not None]
    return {
        **asdict(detectable),
        "clusters": len(sizes),
        "design_effect": wider,
        "smallest_gain": evidence.smallest_gain,
        "wanted_gain": max(wanted, default=evidence.smallest_gain),
    }


def _errors(material: Material, *, metric: str) -> dict[str, Any]:
    scores, task = material.scores, material.task
    base = base_systems(scores)[0]
    classes = class_lines(material.test, material.answers, task=task, train=material.train, clusters=scores.clusters)
    unfinished = share_of(material.unfinished, clusters=scores.clusters)
    confused = confusions(material.test, material.answers[FINE_TUNED], task=task)
    return {
        "compared_base": base,
        "classes": [line.row() for line in classes],
        "confusions": [asdict(line) for line in confused],
        "examples": [asdict(line) for line in example_lines(scores, material.answers, metric=metric, base=base)],
        "unfinished": unfinished,
    }


def _absent(material: Material) -> dict[str, str]:
    """Systems that were not run, and why."""
    absent = {}
    for classifier in ("word_classifier", "classifier"):
        if classifier not in material.scores.by_system:
            absent[classifier] = f"a {material.task.type} task without a closed list of values has nothing to classify"
    if "base_few_shot" not in material.scores.by_system:
        absent["base_few_shot"] = "no worked examples were chosen"
    return absent


def _thinned(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Step and loss of at most `CURVE_POINTS` rows, the last one among them."""
    every = max(1, -(-len(curve) // CURVE_POINTS))
    return [{"step": row["step"], "loss": row["loss"]} for row in curve[::-1][::every][::-1]]
