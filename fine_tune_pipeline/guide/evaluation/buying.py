"""Which system to take, in the report: the rule's verdict on the test rows, what each costs, and what tuning saves in prompt length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.evaluation.advice import NAMES, recommend
from fine_tune_pipeline.guide.evaluation.cells import interval, number
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, HALF, Cost
from fine_tune_pipeline.guide.evaluation.scoring import scored
from fine_tune_pipeline.guide.objective.evidence import LOOKS
from fine_tune_pipeline.guide.objective.metrics import metric_named
from fine_tune_pipeline.guide.objective.reach import look_text
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.answer_rows import read_answers
from fine_tune_pipeline.guide.technique.recommendation import Growth, Question, overridden, tuned_as
from fine_tune_pipeline.guide.technique.systems import CLASSIFIER, FEW_SHOT, RETRIEVAL
from fine_tune_pipeline.pages.document import Row, Section
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.guide.evaluation.report import Material


def buying(material: "Material", *, metric: str, detectable: float) -> dict[str, Any]:
    """What the report's document says of it: `recommendation` and `prompt_saving`.

    Args:
        detectable: the smallest gain that the test rows would show.
    """
    objective, look = material.spec.objective, material.look
    asked = Question(
        metric,
        rows=len(material.test),
        smallest_gain=objective.evidence.smallest_gain,
        tuned_as=tuned_as(material.spec),
        detectable=detectable,
        growth=material.growth,
        worn=look_text(look, objective.evidence.level) if look.number > LOOKS else "",
    )
    found = recommend(
        material.scores, material.verdicts, objective, metric=metric, costs=material.costs, prices=material.money, asked=asked
    )
    saving = prompt_saving(material.costs)
    return {"recommendation": asdict(overridden(found, material.spec.evaluation.override)), "prompt_saving": saving}


def prompt_saving(costs: Sequence[Cost]) -> str:
    """How much shorter the fine-tuned model's prompts are than those with examples or with what was looked up; empty without both."""
    tokens = {cost.system: cost.prompt_tokens / cost.rows for cost in costs if cost.prompt_tokens}
    own = tokens.get(FINE_TUNED)
    longer = {system: tokens[system] for system in (FEW_SHOT, RETRIEVAL) if own is not None and tokens.get(system, 0.0) > own}
    if own is None or not longer:
        return ""
    saved = " and ".join(f"{than - own:.0f} ({1 - own / than:.0%}) fewer than {NAMES[system]}" for system, than in longer.items())
    return f"A request to the fine-tuned model has {own:.0f} prompt tokens: {saved}."


def growth(
    predictions: Artifact, test: Sequence[Example], classifier: Sequence[str] | None, *, spec: UseCaseSpec, task: Task, metric: str
) -> Growth | None:
    """What the classifier gained from the second half of the training rows; None where there is none, or answers do not give the metric."""
    kind = metric_named(metric, task)
    if HALF not in predictions.manifest.files or classifier is None or kind.needs or kind.better == "neither":
        return None
    answers = {CLASSIFIER: classifier, "half": read_answers(predictions.file(HALF), test)}
    scores = scored(test, answers, task=task, metrics=[metric], cluster_by=spec.objective.evidence.cluster_by)
    gain = scores.gain(CLASSIFIER, metric, over="half", level=spec.objective.evidence.level)
    return Growth(predictions.json("costs.json")["train_rows"], gain.estimate, gain.lower, gain.upper)


def buying_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """The table behind the first sentence."""
    found = report["recommendation"]
    priced = any(line["cost per 1,000"] is not None for line in found["seen"])
    columns = ("system", f"{report['primary_metric']} (95 %)", "seconds per 1,000", *(("cost per 1,000",) if priced else ()))
    columns += ("prompt tokens per request", "criteria not shown to be met", "fine-tuning leads by at most")
    rows = [
        Row(
            tuple(_cells(line, priced=priced)),
            "own" if line["system"] == FINE_TUNED else "met" if line["system"] == found["system"] else "",
        )
        for line in found["seen"]
    ]
    text = (
        f"Recommended: {found['choice']}. The cheapest comes first; the first that meets every criterion is taken, unless fine-tuning may "
        f"lead it by {report['evidence']['smallest_gain']:g} or more. Seconds are as measured in batches, with the embedding of prompts "
        f"that are looked up or classified. {report['prompt_saving']}"
    )
    override = found["override"]
    if override is not None:
        text += f" The use case decided otherwise: {override['recommendation']} ({override['reason']})."
    yield Section("Prompt, retrieve or tune?", text.strip(), columns, tuple(rows))


def _cells(line: Mapping[str, Any], *, priced: bool) -> Iterator[str]:
    yield NAMES[line["system"]]
    yield interval(line)
    yield f"{line['seconds per 1,000']:,.1f}"
    if priced:
        cost = line["cost per 1,000"]
        yield "–" if cost is None else f"{cost:.3g} {line['currency']}"
    tokens = line["prompt tokens per request"]
    yield "–" if tokens is None else f"{tokens:.0f}"
    yield "none" if line["meets"] else "; ".join(line["missing"])
    yield number(line["fine-tuning leads by at most"])
