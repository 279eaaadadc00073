"""What to do with the result: one sentence for whoever decides, with the numbers that it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fine_tune_pipeline.guide.evaluation.figure import SHOWN_LEVEL
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.scoring import Scores
from fine_tune_pipeline.guide.evaluation.statistics import two_sided, wilson
from fine_tune_pipeline.guide.evaluation.verdicts import Verdict, all_met, judged
from fine_tune_pipeline.spec.objective import ObjectiveSpec

Choice = Literal["fine_tune", "prompting", "classifier", "not_yet", "cannot_tell"]

CHEAPER = ("base_zero_shot", "base_few_shot", "classifier")
"""What would be simpler to run than the fine-tuned model, the simplest first."""

NAMES = {
    "majority": "always the most frequent answer",
    "classifier": "the plain classifier",
    "base_zero_shot": "the base model without examples",
    "base_few_shot": "the base model with examples in its prompt",
    FINE_TUNED: "the fine-tuned model",
}


@dataclass(frozen=True)
class Recommendation:
    """`choice` for machines, `sentence` for whoever decides."""

    choice: Choice
    sentence: str


def recommend(scores: Scores, found: Sequence[Verdict], objective: ObjectiveSpec, *, metric: str) -> Recommendation:
    """The cheapest system that does the job, or what is missing.

    A cheaper system is enough if it meets every absolute criterion itself, and the fine-tuned model is shown to lead it by less than
    `evidence.smallest_gain` in `metric`. With no absolute criterion nothing says what "enough" is, so none is.
    """
    named = _better_classifier(scores, metric=metric)
    enough = next((system for system in CHEAPER if _is_enough(system, scores, objective, metric=metric)), None)
    if enough is not None:
        return _cheaper(enough, scores, objective, metric=metric, named=named)
    if all_met(found):
        said = (
            f"Fine-tuning pays: {_says(FINE_TUNED, scores, metric)} and meets every criterion of the objective; {_rivals(scores, metric)}."
        )
        return Recommendation("fine_tune", said + named)
    missed = [verdict for verdict in found if verdict.verdict == "not met"]
    if missed:
        why = f"{_listed(missed)} is not met ({missed[0].reason})"
        said = f"Not yet: {_says(FINE_TUNED, scores, metric)}, and {why}; {_rivals(scores, metric)}."
        return Recommendation("not_yet", said + named)
    open_ = [verdict for verdict in found if verdict.verdict == "cannot tell"]
    why = f"{_listed(open_)} is open ({open_[0].reason})"
    said = f"The test set is too small to tell: {_says(FINE_TUNED, scores, metric)}, but {why}; {_rivals(scores, metric)}."
    return Recommendation("cannot_tell", said + named)


def _is_enough(system: str, scores: Scores, objective: ObjectiveSpec, *, metric: str) -> bool:
    absolute = [criterion for criterion in (*objective.success, *objective.guards) if criterion.beats is None and criterion.versus is None]
    asks_for_success = any(criterion in absolute for criterion in objective.success)
    if system not in scores.by_system or not asks_for_success:
        return False
    if not all(judged("success", criterion, scores, evidence=objective.evidence, system=system).verdict == "met" for criterion in absolute):
        return False
    return scores.gain(FINE_TUNED, metric, over=system, level=objective.evidence.level).upper < objective.evidence.smallest_gain


def _cheaper(system: str, scores: Scores, objective: ObjectiveSpec, *, metric: str, named: str) -> Recommendation:
    lead = scores.gain(FINE_TUNED, metric, over=system, level=objective.evidence.level).upper
    matters = f"and a gain below {objective.evidence.smallest_gain:g} does not matter to you"
    leads = f"fine-tuning leads by at most {lead:.3f}, {matters}" if lead > 0 else "fine-tuning is behind"
    reason = f"{_says(system, scores, metric)} and meets every target; {_says(FINE_TUNED, scores, metric)}, so {leads}"
    if system == "classifier":
        return Recommendation("classifier", f"A plain classifier does it: {reason}.")
    return Recommendation("prompting", f"Prompting is enough: {reason}.{named}")


def _better_classifier(scores: Scores, *, metric: str) -> str:
    """A sentence that names the metrics in which the plain classifier is ahead; empty if there is none."""
    if "classifier" not in scores.by_system:
        return ""
    judged_here = [name for name, kind in scores.metrics.items() if not kind.validity]
    ahead = [
        f"{name} ({scores.mean('classifier', name):.3f} against {scores.mean(FINE_TUNED, name):.3f})"
        for name in dict.fromkeys([metric, *judged_here])
        if sum(scores.gains("classifier", name, over=FINE_TUNED)) > 0
    ]
    return f" Mind that the plain classifier, far cheaper to run, is ahead in {', '.join(ahead)}." if ahead else ""


def _says(system: str, scores: Scores, metric: str) -> str:
    """A system's mean with its two-sided 95 % interval and its rows."""
    kind, found = scores.metrics[metric], scores.bounds(system, metric, level=two_sided(SHOWN_LEVEL), share=wilson)
    if kind.binary and not kind.validity:
        where = f"{metric}, 95 % interval {found.lower:.1%} to {found.upper:.1%}, {found.sample}"
        return f"{NAMES[system]} is right in {found.estimate:.1%} of the cases ({where})"
    return f"{NAMES[system]} reaches {found.estimate:.3f} ({metric}, 95 % interval {found.lower:.3f} to {found.upper:.3f}, {found.sample})"


def _rivals(scores: Scores, metric: str) -> str:
    return ", ".join(_says(system, scores, metric) for system in reversed(CHEAPER) if system in scores.by_system)


def _listed(found: Sequence[Verdict]) -> str:
    return " and ".join(f"`{verdict.criterion}`" for verdict in found)
