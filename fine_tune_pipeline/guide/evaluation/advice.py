"""What to do with the result: one sentence for whoever decides, and what to try next, each with the numbers that it rests on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fine_tune_pipeline.guide.evaluation.errors import INVALID, ClassLine, Confusion
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.scoring import Scores
from fine_tune_pipeline.guide.evaluation.verdicts import Verdict, all_met, judged
from fine_tune_pipeline.programs.requests import TrainResult
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


def _is_enough(system: str, scores: Scores, objective: ObjectiveSpec, *, metric: str) -> bool:
    judged_here = [criterion for criterion in (*objective.success, *objective.guards) if criterion.metric in scores.metrics]
    absolute = [criterion for criterion in judged_here if criterion.beats is None and criterion.versus is None]
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
    kind = scores.metrics[metric]
    if kind.binary and not kind.validity:
        return f"{NAMES[system]} is right in {scores.mean(system, metric):.1%} of the cases ({metric})"
    return f"{NAMES[system]} reaches {scores.mean(system, metric):.3f} ({metric})"


def _rivals(scores: Scores, metric: str) -> str:
    return ", ".join(_says(system, scores, metric) for system in reversed(CHEAPER) if system in scores.by_system)


def _listed(found: Sequence[Verdict]) -> str:
    return " and ".join(f"`{verdict.criterion}`" for verdict in found)


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
