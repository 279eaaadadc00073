"""Base models that were weighed, and how training went, as sections of the report."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.pages.charts import line_chart
from fine_tune_pipeline.pages.document import Row, Section

BASE_COLUMNS = (
    "candidate",
    "quality prior",
    "parameters",
    "active parameters",
    "lora GiB",
    "qlora GiB",
    "full GiB",
    "lora minutes",
    "lora cost",
    "cost at its provider",
    "cost of 1,000 answers",
    "licence",
    "commercial use",
    "maintained by",
    "released",
    "verdict",
)
"""Of what step 2 shows of its candidates; columns that are empty for all are left out."""


def base_models_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """What step 2 weighed; nothing when a report knows of none."""
    base = report["base_model"]
    if not base["candidates"]:
        return
    columns = tuple(name for name in BASE_COLUMNS if any(row.get(name) is not None for row in base["candidates"]))
    rows = [Row(tuple("" if row.get(name) is None else str(row[name]) for name in columns)) for row in base["candidates"]]
    yield Section("Base models side by side", f"{base['reason']} Minutes and costs are of {base['compared_on']}.", columns, tuple(rows))


def training_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """How much was learned in how long, and the loss curve."""
    training = report["training"]
    text = (
        f"{training['rows']:,} rows, {training['steps']:,} steps, {training['tokens']:,} tokens in {training['seconds']:,.0f} s; "
        f"{_learned(training)}. One training, so none of this has an interval. Thin line: training; thick line: validation."
    )
    yield Section("Training", text, charts=(_loss_chart(report),))


def _learned(training: Mapping[str, Any]) -> str:
    """Parameters and losses; of a hosted training the parameters are not known, and the losses only if its provider told them."""
    parameters = f"{training['trainable_parameters']:,} trained parameters; " if training["trainable_parameters"] else ""
    if training["first_loss"] is None:
        return f"{parameters}the provider gave no losses"
    return f"{parameters}training loss {training['first_loss']:.3f} to {training['final_loss']:.3f} nats per labelled token"


def _loss_chart(report: Mapping[str, Any]) -> str:
    training = [(float(row["step"]), float(row["loss"])) for row in report["curve"]]
    validation = [(float(step), float(loss)) for step, loss in report["training"]["validation_losses"]]
    return line_chart(training, validation, title="Loss by step: thin line training, thick line validation")
