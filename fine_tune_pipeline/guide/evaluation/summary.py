"""The report in a few plain sentences, for whoever decides: what was asked, what was reached, what it costs, what to do next."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.cells import interval, many, number
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.pages.document import Section

OTHERWISE = {
    "met": "the fine-tuned model, which meets the objective too, is not needed",
    "not met": "do not deploy the fine-tuned model",
    "cannot tell": "do not deploy the fine-tuned model yet",
}
"""What becomes of the fine-tuned model where it is not what is recommended."""


def summary_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """Five sentences at most; all that they say stands with more detail below."""
    items = (f"Asked: {_asked(report)}.", f"Reached: {_reached(report)}.", f"Costs: {_costs(report)}.", f"Next: {_next(report)}")
    yield Section("In short", items=items)


def _asked(report: Mapping[str, Any]) -> str:
    return f"{report['goal'].rstrip('.')}; that is, {', '.join(verdict['criterion'] for verdict in report['verdicts'])}"


def _reached(report: Mapping[str, Any]) -> str:
    """Of the fine-tuned model and the base it is compared with, on the rows that count for the metric."""
    metric, base = report["primary_metric"], report["compared_base"]
    own, other = (report["systems"][system][metric] for system in (FINE_TUNED, base))
    gain = next(gain for gain in report["gains"] if gain["metric"] == metric and gain["over"] == base) if _has_gain(report) else None
    said = (
        f"on {many(own['n'], 'row')} that no training has seen, the fine-tuned model has {metric} {interval(own, n=own['n'])} and "
        f"{NAMES[base]} {interval(other, n=own['n'])}"
    )
    return said if gain is None else f"{said}, a gain of {interval(gain, n=own['n'])}; in brackets 95 % intervals"


def _has_gain(report: Mapping[str, Any]) -> bool:
    return report["metrics"][report["primary_metric"]]["better"] != "neither"


def _costs(report: Mapping[str, Any]) -> str:
    cost = next(cost for cost in report["costs"] if cost["system"] == FINE_TUNED)
    money = "" if cost["cost_per_1000"] is None else f" and {cost['cost_per_1000']:.3g} {cost['currency']}"
    took = f"{_span(cost['seconds per 1,000'])}{money} in batches, measured once on {many(cost['rows'], 'row')}"
    said = f"1,000 answers of the fine-tuned model take {took}"
    if cost["latency_seconds"]:
        middle = cost["latency_seconds"]["p50"]
        said += (
            f"; one answer alone {middle['estimate']:.2f} s [{number(middle['low'])}, {number(middle['high'])}] (median of {middle['n']})"
        )
    return f"{said}; the training took {_span(report['training']['seconds'])}, once"


def _next(report: Mapping[str, Any]) -> str:
    """The recommendation's first words, what becomes of the model, and the most promising change."""
    advice, verdict, steps = report["recommendation"], report["outcome"]["verdict"], report.get("next_steps", [])
    deployed = verdict == "met" and advice["choice"] in ("fine_tune", "hybrid")
    said = f"{advice['sentence'].partition(':')[0]}; {'deploy it (step 8)' if deployed else OTHERWISE[verdict]}."
    return f"{said} The first thing to try: {steps[0]['title']} ({steps[0]['why']})." if steps else said


def _span(seconds: float) -> str:
    return f"{seconds:.1f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
