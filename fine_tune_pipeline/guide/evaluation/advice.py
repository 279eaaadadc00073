"""What to do with the result: one sentence for whoever decides, and what to try next, each with the numbers that it rests on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fine_tune_pipeline.guide.base_model.price import Cost as Money
from fine_tune_pipeline.guide.evaluation.errors import INVALID, ClassLine, Confusion
from fine_tune_pipeline.guide.evaluation.figure import SHOWN_LEVEL, finite
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, WITHOUT_CONTEXT, Cost
from fine_tune_pipeline.guide.evaluation.scoring import Scores
from fine_tune_pipeline.guide.evaluation.statistics import two_sided, wilson
from fine_tune_pipeline.guide.evaluation.verdicts import Verdict, judged, rival_of
from fine_tune_pipeline.guide.technique.recommendation import NAMES as SYSTEM_NAMES
from fine_tune_pipeline.guide.technique.recommendation import Missed, Question, Recommendation, Seen
from fine_tune_pipeline.guide.technique.recommendation import recommend as recommended
from fine_tune_pipeline.programs.requests import TrainResult
from fine_tune_pipeline.spec.objective import Criterion, ObjectiveSpec

NAMES = {**SYSTEM_NAMES, WITHOUT_CONTEXT: "the fine-tuned model without what it was trained to be given"}


def recommend(
    scores: Scores,
    found: Sequence[Verdict],
    objective: ObjectiveSpec,
    *,
    metric: str,
    costs: Sequence[Cost] = (),
    prices: Mapping[str, Money] | None = None,
    asked: Question | None = None,
) -> Recommendation:
    """The cheapest system that does the job, or what is missing (`guide.technique.recommendation`).

    Args:
        found: verdicts on the fine-tuned model.
        prices: of 1,000 answers, where they are known.
        asked: what else the rule looks at; `metric` and what belongs to it are filled in.
    """
    kind = scores.metrics[metric]
    filled = replace(
        asked or Question(metric, rows=len(scores.rows), smallest_gain=objective.evidence.smallest_gain),
        higher_is_better=kind.better != "lower",
        share=kind.binary and not kind.validity,
    )
    spent = {cost.system: cost for cost in costs}
    seen = [
        _seen(system, scores, found, objective, metric=metric, cost=spent.get(system), price=(prices or {}).get(system))
        for system in scores.by_system
        if system in SYSTEM_NAMES
    ]
    return recommended(seen, filled)


def _seen(
    system: str,
    scores: Scores,
    found: Sequence[Verdict],
    objective: ObjectiveSpec,
    *,
    metric: str,
    cost: Cost | None,
    price: Money | None,
) -> Seen:
    bounds = scores.bounds(system, metric, level=two_sided(SHOWN_LEVEL), share=wilson)
    own = system == FINE_TUNED
    verdicts = found if own else _verdicts_on(system, scores, objective)
    missed = None if verdicts is None else tuple(_missed(one) for one in verdicts if one.verdict != "met")
    tokens = None if cost is None or cost.prompt_tokens is None else cost.prompt_tokens / cost.rows
    return Seen(
        system,
        bounds.estimate,
        finite(bounds.lower),
        finite(bounds.upper),
        seconds=0.0 if cost is None else cost.seconds_per_1000,
        cost=None if price is None else price.amount,
        currency="" if price is None else price.currency,
        prompt_tokens=tokens,
        missed=missed,
        lead=None if own else scores.gain(FINE_TUNED, metric, over=system, level=objective.evidence.level).upper,
    )


def _verdicts_on(system: str, scores: Scores, objective: ObjectiveSpec) -> list[Verdict] | None:
    """Verdicts on a rival: on every criterion but those that ask to beat it; None when no success criterion is left."""
    evidence = objective.evidence
    success = [one for one in objective.success if not _against(one, system, scores)]
    if not success:
        return None
    guards = [one for one in objective.guards if one.metric in scores.metrics and not _against(one, system, scores)]
    found = [judged("success", one, scores, evidence=evidence, system=system) for one in success]
    return found + [judged("guard", one, scores, evidence=evidence, system=system) for one in guards]


def _against(criterion: Criterion, system: str, scores: Scores) -> bool:
    rival = criterion.beats or criterion.versus
    return rival is not None and system == (rival_of(rival, scores) if rival == "base" else rival)


def _missed(verdict: Verdict) -> Missed:
    return Missed(verdict.criterion, verdict.reason, open=verdict.verdict == "cannot tell")


def next_steps(
    scores: Scores,
    found: Sequence[Verdict],
    *,
    metric: str,
    classes: Sequence[ClassLine],
    confused: Sequence[Confusion],
    training: TrainResult,
    unfinished: float,
    other_bases: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """What to try next, the most promising first; empty when nothing stands out.

    Args:
        other_bases: what step 2 ranks after its choice, from `base_model.json`.
        unfinished: share of the fine-tuned model's answers that were cut at the token limit.
    """
    return [
        *_form_steps(scores, unfinished=unfinished),
        *_loss_steps(training),
        *_class_steps(classes),
        *_confusion_steps(confused),
        *_evidence_steps(found),
        *_rival_steps(scores, metric=metric),
        *_base_steps(found, other_bases),
    ]


def _form_steps(scores: Scores, *, unfinished: float) -> Iterator[str]:
    for name, kind in scores.metrics.items():
        if kind.validity and kind.binary and scores.mean(FINE_TUNED, name) < 0.98:
            share = 1 - scores.mean(FINE_TUNED, name)
            yield f"{share:.1%} of the answers fail {name}: constrain decoding to the task's form, or train longer."
            break
    if unfinished > 0.01:
        yield f"{unfinished:.1%} of the answers were cut at the token limit: look for training answers that are shorter than the test's."


def _loss_steps(training: TrainResult) -> Iterator[str]:
    losses = [loss for _, loss in training.validation_losses]
    if len(losses) < 2:
        return
    last, lowest, final = losses[-1], min(losses), training.final_loss
    if last > 1.05 * lowest and training.best_step is None:
        yield f"validation loss rose from {lowest:.3f} to {last:.3f} at the end: fewer epochs, or a lower rank."
    elif final is not None and last > 2 * final and last - final > 0.05:
        yield f"validation loss {last:.3f} is far above training loss {final:.3f}: more data, fewer epochs, or a lower rank."
    elif len(losses) > 2 and last < 0.95 * losses[-2]:
        yield f"validation loss still fell at the end ({losses[-2]:.3f} to {last:.3f}): train longer."


def _class_steps(classes: Sequence[ClassLine]) -> Iterator[str]:
    wrong = {line.name: line.rows * (1 - line.found[FINE_TUNED]) for line in classes}
    worst = sorted((line for line in classes if line.rows >= 5 and line.found[FINE_TUNED] < 0.8), key=lambda line: -wrong[line.name])[:3]
    if worst:
        said = ", ".join(
            f"{line.name} ({line.found[FINE_TUNED]:.0%} of {line.rows} found, {line.training_rows} training rows)" for line in worst
        )
        share = sum(wrong[line.name] for line in worst) / sum(wrong.values())
        yield f"{share:.0%} of the wrong classes come from {said}: collect more examples of these."


def _confusion_steps(confused: Sequence[Confusion]) -> Iterator[str]:
    pairs = [pair for pair in confused if pair.given != INVALID]
    if pairs and pairs[0].rows >= 3:
        top = pairs[0]
        yield f"{top.field} {top.wanted} is answered as {top.given} in {top.rows} rows: check that the labelling rule separates the two."


def _evidence_steps(found: Sequence[Verdict]) -> Iterator[str]:
    for verdict in found:
        if verdict.verdict == "cannot tell":
            yield f"`{verdict.criterion}` cannot be told: {verdict.reason}."


def _rival_steps(scores: Scores, *, metric: str) -> Iterator[str]:
    if "classifier" in scores.by_system and sum(scores.gains("classifier", metric, over=FINE_TUNED)) >= 0:
        yield "the plain classifier is at least as good: use it alone, or let it answer where it is sure."


def _base_steps(found: Sequence[Verdict], other_bases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Another base model costs a new training, so it comes last, and only if the objective is missed."""
    if other_bases and any(verdict.verdict == "not met" for verdict in found):
        first = other_bases[0]
        where = "it stands in base_model.candidates: put it first" if first["candidate"] else "add it to base_model.candidates"
        yield f"try a {first['kind']} base model, {first['id']} ({first['reason']}): {where}."
