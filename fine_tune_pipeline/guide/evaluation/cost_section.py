"""What the answers cost, as a section of the report."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.cells import ends, many, number
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.pages.charts import Point, scatter_chart
from fine_tune_pipeline.pages.document import Row, Section

MEASURED = ("seconds per 1,000", "seconds", "prompt tokens", "new tokens")


def costs_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """Time, money, tokens and memory of every system, and its quality against what it costs."""
    priced = any(cost["cost_per_1000"] is not None for cost in report["costs"])
    columns = ("system", *(("cost per 1,000",) if priced else ()), *MEASURED, "one answer: median, s", "one answer: 95th percentile, s")
    rows = [Row(_cells(cost, priced=priced), "own" if cost["system"] == FINE_TUNED else "") for cost in report["costs"]]
    text = (
        f"As measured where the predictions ran: every system answered {many(report['n'], 'row')} once, in batches, so these have no "
        f"interval; peak memory {report['peak_memory_gib']:.2f} GiB. {_timed(report)}"
        + ("" if priced else " Nothing here has a price: environment.prices, or a provider's prices, would turn seconds into money.")
    )
    yield Section("What the answers cost", text, columns, tuple(rows), charts=(_chart(report, priced=priced),))


def _cells(cost: Mapping[str, Any], *, priced: bool) -> tuple[str, ...]:
    money = "–" if cost["cost_per_1000"] is None else f"{cost['cost_per_1000']:.3g} {cost['currency']}"
    measured = (f"{cost[column]:,}" if cost.get(column) is not None else "–" for column in MEASURED)
    times = cost["latency_seconds"] or {}
    return (NAMES[cost["system"]], *((money,) if priced else ()), *measured, *(_time(times.get(name)) for name in ("p50", "p95")))


def _time(figure: Mapping[str, Any] | None) -> str:
    return "–" if figure is None else f"{figure['estimate']:.3f} [{number(figure['low'])}, {number(figure['high'])}]"


def _timed(report: Mapping[str, Any]) -> str:
    """How single answers were timed, if any were."""
    timed = next((cost["latency_seconds"]["p50"]["n"] for cost in report["costs"] if cost["latency_seconds"]), None)
    if timed is None:
        return "One answer at a time is timed at the endpoint."
    said = f"{many(timed, 'answer')} of each language model {'was' if timed == 1 else 'were'} timed one at a time"
    return f"{said}; brackets are 95 % intervals, and a dash in them is an end that so few answers do not bound."


def _chart(report: Mapping[str, Any], *, priced: bool) -> str:
    """By money where there is a price, else by seconds."""
    metric, key = report["primary_metric"], "cost_per_1000" if priced else "seconds per 1,000"
    quality = {system: found[metric] for system, found in report["systems"].items()}
    points = [
        Point(cost["system"], cost[key], quality[cost["system"]]["estimate"], *ends(quality[cost["system"]]), cost["system"] == FINE_TUNED)
        for cost in report["costs"]
        if cost[key] is not None and cost["system"] in quality
    ]
    unit = f"{next(cost['currency'] for cost in report['costs'] if cost['currency'])} per 1,000 answers" if priced else key + " answers"
    title = f"{metric} with 95 % intervals over {quality[FINE_TUNED]['n']} rows against {unit}"
    return scatter_chart(points, title=title, unit=unit)
