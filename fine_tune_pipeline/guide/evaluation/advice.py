"""What to do with the result: one sentence for whoever decides, with the numbers that it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fine_tune_pipeline.guide.base_model.price import Cost as Money
from fine_tune_pipeline.guide.evaluation.figure import SHOWN_LEVEL, finite
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, WITHOUT_CONTEXT, Cost
from fine_tune_pipeline.guide.evaluation.scoring import Scores
from fine_tune_pipeline.guide.evaluation.statistics import two_sided, wilson
from fine_tune_pipeline.guide.evaluation.verdicts import Verdict, judged, rival_of
from fine_tune_pipeline.guide.technique.recommendation import NAMES as SYSTEM_NAMES
from fine_tune_pipeline.guide.technique.recommendation import Missed, Question, Recommendation, Seen
from fine_tune_pipeline.guide.technique.recommendation import recommend as recommended
from fine_tune_pipeline.spec.objective import CHAMPION, Criterion, ObjectiveSpec

NAMES = {
    **SYSTEM_NAMES,
    WITHOUT_CONTEXT: "the fine-tuned model without what it was trained to be given",
    CHAMPION: "the champion, which answers now",
}


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
