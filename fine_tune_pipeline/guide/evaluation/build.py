"""The evaluation report: scores, means by `evaluate`, verdicts, and the page; two checks that stop a model that is not good enough."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example, read_examples, read_rows, write_rows
from fine_tune_pipeline.artifacts.looks import Look, Looks, looked_at
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.evaluation.analysis.analyse import analysis, figures
from fine_tune_pipeline.guide.evaluation.buying import growth
from fine_tune_pipeline.guide.evaluation.cost_limit import cost_verdict
from fine_tune_pipeline.guide.evaluation.costs import money_of
from fine_tune_pipeline.guide.evaluation.held_out_rows import judgeable
from fine_tune_pipeline.guide.evaluation.iterate.section import step_rows, what_next
from fine_tune_pipeline.guide.evaluation.measured import asks_for_similarity, confidences, with_similarity
from fine_tune_pipeline.guide.evaluation.outcome import outcome
from fine_tune_pipeline.guide.evaluation.page import html_page, markdown
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, SYSTEMS, read_costs
from fine_tune_pipeline.guide.evaluation.report import Material, base_systems, document, primary_metric
from fine_tune_pipeline.guide.evaluation.retraining.champion import read_champion
from fine_tune_pipeline.guide.evaluation.retraining.fresh import fresh_rows
from fine_tune_pipeline.guide.evaluation.retraining.fresh_scores import fresh_scores
from fine_tune_pipeline.guide.evaluation.retraining.guard import without_champion
from fine_tune_pipeline.guide.evaluation.retraining.section import fresh_figures, retraining
from fine_tune_pipeline.guide.evaluation.safety.verdicts import leak_check, safety_facts, safety_verdicts
from fine_tune_pipeline.guide.evaluation.scoring import Scores, check_means, reported_metrics, score_rows, scored, statistics_rows
from fine_tune_pipeline.guide.evaluation.vectors import vectors_of
from fine_tune_pipeline.guide.evaluation.verdicts import Verdict, all_met, memory_verdict, spent, verdicts
from fine_tune_pipeline.guide.evaluation.weighed import with_weighed
from fine_tune_pipeline.guide.objective.evidence import LOOKS, at_look
from fine_tune_pipeline.guide.objective.reach import look_text
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.guide.technique.answer_rows import read_all_answers
from fine_tune_pipeline.guide.technique.systems import CLASSIFIER
from fine_tune_pipeline.guide.training.adapter import CURVE, read_train_result
from fine_tune_pipeline.programs.score_requests import ScoreRequest, ScoreResult
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

SCORES = "scores.jsonl"

STATISTICS = "statistics.jsonl"
"""What metrics of all rows together are made of, where there are such."""

CORPUS_VALUE = "fine_tune_pipeline.guide.objective.metrics:corpus_value"


@dataclass(frozen=True)
class Judged:
    """The artifacts that a report is made from."""

    dataset: Artifact
    base_model: Artifact
    adapter: Artifact
    predictions: Artifact
    safety: Artifact


def build_report(
    context: "dg.AssetExecutionContext", compute: "Compute", spec: UseCaseSpec, judged: Judged, folder: Path, *, looks: Looks
) -> Built:
    """Write report.html, report.md, report.json, next_steps.json and scores.jsonl.

    The look at the test rows is counted before anything is judged, so that none is ever lost.

    Raises:
        NoTestRows, DuplicatedRows, WrongReference, UnusableAnswers: there is nothing to judge, or it cannot be trusted.
        ScoreMismatch: `evaluate` and our own means differ.
    """
    task = read_task(spec)
    test = judgeable(read_examples(judged.dataset.file("test.jsonl")), task, where=f"{spec.name}/dataset")
    files = _answer_files(judged.predictions)
    answers = {system: read_all_answers(path, test) for system, path in files.items()}
    metrics = reported_metrics(task, spec.objective)
    measured = with_weighed(judged.predictions, test, {system: confidences(path, test) for system, path in files.items()})
    if asks_for_similarity(metrics, task):
        measured = with_similarity(context, compute, folder / "embed", test, answers, measured)
    scores = scored(test, answers, task=task, metrics=metrics, measured=measured, cluster_by=spec.objective.evidence.cluster_by)
    write_rows(folder / SCORES, score_rows(scores))
    check_means(scores, _means(context, compute, folder, scores))
    metric = primary_metric(task, spec.objective, scores)
    look = take_look(looks, spec, scores, metric=metric)
    at_level = spec.model_copy(update={"objective": at_look(spec.objective, look.number)})
    material = _material(at_level, task, judged, test=test, answers=answers, scores=scores, inventory=compute.inventory(), look=look)
    report = {**document(material), "safety": safety_facts(judged.safety)}
    report |= _retraining(spec, task, judged, metrics=metrics)
    vectors = vectors_of(context, compute, folder / "embed", judged.predictions, train=material.train, test=test)
    report["analysis"] = analysis(material, measured=measured, vectors=vectors, detectable_gain=report["evidence"]["gain"])
    report |= what_next(report, spec, adapter=judged.adapter, base_model=judged.base_model, folder=folder)
    (folder / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False), encoding="utf-8")
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(html_page(report), encoding="utf-8")
    level = at_level.objective.evidence.level
    checks = [
        objective_check(material.verdicts),
        base_check(scores, metric=metric, level=level, worn=worn(look, level)),
        leak_check(judged.safety),
    ]
    return Built(metadata=_metadata(report), markdown={"report": markdown(report)}, checks=checks)


def objective_check(found: Sequence[Verdict]) -> Check:
    """Passes when every criterion is met; one that cannot be told does not pass."""
    open_ = [verdict for verdict in found if verdict.verdict != "met"]
    said = "\n".join(f"- {verdict.criterion}: {verdict.verdict}; {verdict.reason}" for verdict in open_)
    return Check(
        name="meets_objective",
        passed=all_met(found),
        description="\n".join(filter(None, [outcome(found).line, said])),
        metadata={"met": len(found) - len(open_), "criteria": len(found)},
    )


def take_look(looks: Looks, spec: UseCaseSpec, scores: Scores, *, metric: str) -> Look:
    """Count this look at the test rows; judging the same scores by the same criteria is the same look."""
    objective = spec.objective
    criteria = [criterion.model_dump(mode="json") for criterion in (*objective.success, *objective.guards)]
    names = sorted({metric, *(criterion["metric"] for criterion in criteria)} & set(scores.metrics))
    seen = {
        system: [{name: [round(score, 9) for score in by_metric[name]] for name in names}, _of_all(scores, system, names)]
        for system, by_metric in scores.by_system.items()
    }
    evidence = objective.evidence.model_dump(mode="json", include={"level", "cluster_by", "minimum_slice"})
    return looks.take(looked_at(scores.rows), at_what=[criteria, evidence, seen], use_case=spec.name)


def _of_all(scores: Scores, system: str, names: Sequence[str]) -> dict[str, list[list[float]]]:
    """The numbers of each row that metrics of all rows together are made of."""
    found = scores.statistics.get(system, {})
    return {name: [[round(number, 9) for number in row] for row in found[name]] for name in names if name in found}


def worn(look: Look, level: float) -> str:
    """Why nothing can be judged any more on test rows that were looked at too often; empty when they are not."""
    return look_text(look, level) if look.number > LOOKS else ""


def base_check(scores: Scores, *, metric: str, level: float, worn: str = "") -> Check:
    """Passes when the fine-tuned model is shown to be better than the base model in each form of prompting.

    Args:
        worn: why the test rows can show nothing any more, if so.
    """
    gains = {system: scores.gain(FINE_TUNED, metric, over=system, level=level) for system in base_systems(scores)}
    said = "; ".join(
        f"{metric} is better than that of {system} by {gain.estimate:.3f}, at least {gain.lower:.3f} at level {level:g}"
        for system, gain in gains.items()
    )
    passed = all(gain.lower > 0 for gain in gains.values()) and not worn
    advice = "" if passed else f"; {worn or 'want more than 0: see what to try next in the report'}"
    metadata = {f"lower_bound_over_{system}": gain.lower for system, gain in gains.items()}
    return Check(name="beats_base", passed=passed, description=said + advice, metadata=metadata)


def _answer_files(predictions: Artifact) -> dict[str, Path]:
    """Of the systems that were run, in the order of tables."""
    return {system: predictions.file(f"{system}.jsonl") for system in SYSTEMS if f"{system}.jsonl" in predictions.manifest.files}


def _means(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, scores: Scores) -> dict[str, dict[str, float]]:
    """What `evaluate` makes of the same scores; metrics of all rows together come from the numbers of their rows."""
    scratch = folder / "program"
    scratch.mkdir()
    together = list(statistics_rows(scores))
    if together:
        write_rows(folder / STATISTICS, together)
    request = ScoreRequest(
        output=str(scratch),
        scores=str(folder / SCORES),
        partial=tuple(name for name, kind in scores.metrics.items() if kind.counts is not None),
        statistics=str(folder / STATISTICS) if together else None,
        value=CORPUS_VALUE if together else "",
    )
    result = compute.run(context, request, ScoreResult)
    shutil.rmtree(scratch)
    return result.means


def _material(
    spec: UseCaseSpec,
    task: Task,
    judged: Judged,
    *,
    test: list[Example],
    answers: Mapping[str, Sequence[str]],
    scores: Scores,
    inventory: Inventory,
    look: Look,
) -> Material:
    costs, peak = read_costs(judged.predictions)
    base = judged.base_model.json("base_model.json")
    metric = primary_metric(task, spec.objective, scores)
    money = money_of(costs, spec, inventory, base=base.get("id"))
    found = [
        *without_champion(verdicts(scores, spec.objective), spec.objective, read_champion(judged.predictions)),
        *memory_verdict(spec.objective.limits, peak_bytes=peak),
        *cost_verdict(spec.objective.limits, money.get(FINE_TUNED)),
    ]
    beside = safety_verdicts(spec.objective, judged.safety)
    finished = {row["id"]: row["finished"] for row in read_rows(judged.predictions.file(f"{FINE_TUNED}.jsonl"))}
    return Material(
        spec=spec,
        task=task,
        train=read_examples(judged.dataset.file("train.jsonl")),
        test=test,
        answers=answers,
        scores=scores,
        verdicts=[*(spent(found, why=why) if (why := worn(look, spec.objective.evidence.level)) else found), *beside],
        look=look,
        costs=costs,
        peak_memory_bytes=peak,
        training=read_train_result(judged.adapter),
        curve=read_rows(judged.adapter.file(CURVE)),
        unfinished=[not finished[row.id] for row in test],
        base=base,
        money=money,
        growth=growth(judged.predictions, test, answers.get(CLASSIFIER), spec=spec, task=task, metric=metric),
    )


def _retraining(spec: UseCaseSpec, task: Task, judged: Judged, *, metrics: Sequence[str]) -> dict[str, Any]:
    """Who answers now, and the fresh test set."""
    rows = fresh_rows(judged.dataset, task, use_case=spec.name)
    fresh = fresh_scores(judged.predictions, rows, task=task, metrics=metrics, cluster_by=spec.objective.evidence.cluster_by)
    return retraining(read_champion(judged.predictions), fresh)


def _metadata(report: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that become plots over the versions, under the same names for ever."""
    metric = report["primary_metric"]
    systems = report["systems"]
    return {
        "outcome": report["outcome"]["line"],
        "recommendation": report["recommendation"]["sentence"],
        "next_steps": step_rows(report),
        "rows": report["n"],
        **{f"fine_tuned/{name}": value["estimate"] for name, value in systems[FINE_TUNED].items()},
        **{f"{metric}/{system}": value[metric]["estimate"] for system, value in systems.items() if system != FINE_TUNED},
        **fresh_figures(report),
        "gain": report["gain"],
        "gain_low": report["gain_low"],
        "gain_high": report["gain_high"],
        "smallest_detectable_gain": report["evidence"]["gain"],
        "figures": [
            {"system": system, "metric": name, **{key: value[key] for key in ("estimate", "low", "high", "n", "method")}}
            for system, found in systems.items()
            for name, value in found.items()
        ],
        "look": report["look"]["number"],
        **figures(report["analysis"]),
        "level": report["evidence"]["level"],
        "verdicts": [
            {key: verdict[key] for key in ("kind", "criterion", "estimate", "bound", "level", "rows", "verdict", "reason")}
            for verdict in report["verdicts"]
        ],
    }
