"""Is a criterion met? Three answers: met, not met, cannot tell. The bound decides, never the estimate alone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.scoring import Scores
from fine_tune_pipeline.guide.objective.criteria import criterion_text
from fine_tune_pipeline.guide.objective.evidence import rows_to_detect
from fine_tune_pipeline.spec.objective import Criterion, Evidence, Limits, ObjectiveSpec

Answer = Literal["met", "not met", "cannot tell"]
Kind = Literal["success", "guard", "limit"]

FEWEST_DIFFERENCES = 0.02
"""Share of rows on which two systems are taken to differ when hardly any did: fewer would promise too much of a few more rows."""


@dataclass(frozen=True)
class Verdict:
    """One criterion and what was seen. `bound` is the one of `bounds` that decided; None when there was nothing to compute it from."""

    kind: Kind
    criterion: str
    metric: str
    estimate: float | None
    bound: float | None
    level: float | None
    verdict: Answer
    reason: str
    bounds: Bounds | None = None

    def row(self) -> dict[str, Any]:
        """As the report keeps it: with the interval, what it rests on, and how it was found."""
        row = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "bounds"}
        found = self.bounds
        if found is None:
            return {**row, "lower": None, "upper": None, "rows": None, "clusters": None, "method": None, "how": None}
        seen = {"lower": found.lower, "upper": found.upper, "rows": found.rows, "clusters": found.clusters, "method": found.method}
        return {**row, **seen, "how": found.why}


def verdicts(scores: Scores, objective: ObjectiveSpec, *, system: str = FINE_TUNED) -> list[Verdict]:
    """Verdicts on every success criterion and guard for a system, in the order of the objective, without guards of the model as a whole."""
    found = []
    kinds: tuple[tuple[Kind, Sequence[Criterion]], ...] = (("success", objective.success), ("guard", objective.guards))
    for kind, criteria in kinds:
        here = [criterion for criterion in criteria if criterion.metric in scores.metrics]
        found += [judged(kind, criterion, scores, evidence=objective.evidence, system=system) for criterion in here]
    return found


def judged(kind: Kind, criterion: Criterion, scores: Scores, *, evidence: Evidence, system: str = FINE_TUNED) -> Verdict:
    """The verdict on one criterion, over the rows of its slice."""
    part = sliced(criterion, scores)
    if len(part.rows) < (evidence.minimum_slice if criterion.slice is not None else 1):
        said = f"{len(part.rows)} rows of the slice were seen, want at least {evidence.minimum_slice} (evidence.minimum_slice)"
        return _unseen(kind, criterion, evidence, said)
    if criterion.beats is not None:
        return _beats(kind, criterion, criterion.beats, part, wanted=criterion.by, evidence=evidence, system=system)
    if criterion.versus is not None:
        return _beats(kind, criterion, rival_of(criterion.versus, part), part, wanted=-criterion.margin, evidence=evidence, system=system)
    bounds = part.bounds(system, criterion.metric, level=evidence.level)
    if criterion.at_least is not None:
        return _at_least(kind, criterion, criterion.at_least, bounds)
    assert criterion.at_most is not None
    return _at_most(kind, criterion, criterion.at_most, bounds)


def sliced(criterion: Criterion, scores: Scores) -> Scores:
    """The rows that a criterion is about."""
    if criterion.slice is None:
        return scores
    return scores.part([place for place, row in enumerate(scores.rows) if criterion.slice.holds(row.metadata)])


def rival_of(versus: str, scores: Scores) -> str:
    """The system that is meant: `base` is the base model with worked examples, if it was asked with some."""
    if versus != "base":
        return versus
    return "base_few_shot" if "base_few_shot" in scores.by_system else "base_zero_shot"


def memory_verdict(limits: Limits, *, peak_bytes: int) -> list[Verdict]:
    """The verdict on `limits.memory_gib`, if there is one: a measurement, so there is no "cannot tell"."""
    if limits.memory_gib is None:
        return []
    peak = peak_bytes / 2**30
    fits = peak <= limits.memory_gib
    said = f"answering took {peak:.2f} GiB at most" + ("" if fits else "; choose a smaller base model or QLoRA, or raise the limit")
    text = f"memory at most {limits.memory_gib:g} GiB"
    return [Verdict("limit", text, "memory_gib", peak, None, None, "met" if fits else "not met", said)]


def all_met(found: Sequence[Verdict]) -> bool:
    """Whether every criterion is met; "cannot tell" does not pass."""
    return all(verdict.verdict == "met" for verdict in found)


def spent(found: Sequence[Verdict], *, why: str) -> list[Verdict]:
    """The same without a verdict on what the test rows say: they have been looked at too often. A measured limit stays."""
    return [verdict if verdict.kind == "limit" else replace(verdict, verdict="cannot tell", reason=why) for verdict in found]


def _at_least(kind: Kind, criterion: Criterion, target: float, bounds: Bounds) -> Verdict:
    if bounds.lower >= target:
        return _verdict(kind, criterion, bounds, bounds.lower, "met", f"{_sure(bounds)} it is at least {bounds.lower:.3f}")
    if bounds.upper < target:
        return _verdict(kind, criterion, bounds, bounds.upper, "not met", f"{_sure(bounds)} it is at most {bounds.upper:.3f}")
    return _verdict(kind, criterion, bounds, bounds.lower, "cannot tell", _between(bounds, target) + "; more held-out rows narrow that")


def _at_most(kind: Kind, criterion: Criterion, target: float, bounds: Bounds) -> Verdict:
    if bounds.upper <= target:
        return _verdict(kind, criterion, bounds, bounds.upper, "met", f"{_sure(bounds)} it is at most {bounds.upper:.3f}")
    if bounds.lower > target:
        return _verdict(kind, criterion, bounds, bounds.lower, "not met", f"{_sure(bounds)} it is at least {bounds.lower:.3f}")
    return _verdict(kind, criterion, bounds, bounds.upper, "cannot tell", _between(bounds, target) + "; more held-out rows narrow that")


def _beats(kind: Kind, criterion: Criterion, rival: str, scores: Scores, *, wanted: float, evidence: Evidence, system: str) -> Verdict:
    if rival not in scores.by_system:
        return _unseen(kind, criterion, evidence, f"there are no answers of {rival}")
    bounds = scores.gain(system, criterion.metric, over=rival, level=evidence.level)
    if bounds.lower > wanted:
        return _verdict(kind, criterion, bounds, bounds.lower, "met", f"{_sure(bounds)} {_lead(bounds.lower)}")
    if bounds.upper <= wanted:
        return _verdict(kind, criterion, bounds, bounds.upper, "not met", f"{_sure(bounds)} the gain is at most {bounds.upper:.3f}")
    gains = scores.gains(system, criterion.metric, over=rival)
    differ = sum(gain != 0 for gain in gains) / len(gains)
    lead = bounds.estimate - wanted
    reason = _between(bounds, wanted, what="the gain")
    if lead > 0:
        more = rows_to_detect(lead, level=evidence.level, power=evidence.power, disagreement=max(differ, FEWEST_DIFFERENCES))
        reason += f"; if the estimate is right, about {max(more, len(gains) + 1)} held-out rows would show it"
    return _verdict(kind, criterion, bounds, bounds.lower, "cannot tell", reason)


def _sure(bounds: Bounds) -> str:
    """What was seen, and how sure what follows is."""
    return f"{bounds.estimate:.3f} on {bounds.sample}; with {100 * bounds.level:g} % confidence"


def _lead(lower: float) -> str:
    return f"the gain is above {lower:.3f}" if lower >= 0 else f"it is worse by less than {-lower:.3f}"


def _between(bounds: Bounds, target: float, *, what: str = "it") -> str:
    seen = f"{bounds.estimate:.3f} on {bounds.sample}"
    return f"{seen}: {what} lies between {bounds.lower:.3f} and {bounds.upper:.3f}, and {target:g} is inside"


def _verdict(kind: Kind, criterion: Criterion, bounds: Bounds, bound: float, answer: Answer, reason: str) -> Verdict:
    return Verdict(kind, criterion_text(criterion), criterion.metric, bounds.estimate, bound, bounds.level, answer, reason, bounds)


def _unseen(kind: Kind, criterion: Criterion, evidence: Evidence, why: str) -> Verdict:
    return Verdict(kind, criterion_text(criterion), criterion.metric, None, None, evidence.level, "cannot tell", why)
