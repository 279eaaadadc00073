"""The report for people: Markdown for the web UI, and one HTML file that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fine_tune_pipeline.guide.evaluation.charts import Bar, bar_chart, line_chart
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, SYSTEMS
from fine_tune_pipeline.guide.evaluation.sections import Row, overall, sections

TEMPLATE = "report_page.html"

TITLES = {
    "met": "the fine-tuned model meets the objective",
    "not met": "the fine-tuned model does not meet the objective",
    "cannot tell": "the test set cannot tell whether the fine-tuned model meets the objective",
}


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown; texts of examples are escaped, so that they cannot break a table."""
    lines = [
        f"# {_title(report)}",
        "",
        _line(report["recommendation"]["sentence"]),
        "",
        f"Goal: {_line(report['goal'])}",
    ]
    for section in sections(report):
        lines += ["", f"## {section.title}", ""]
        lines += [_line(section.text), ""] if section.text else []
        lines += _table(section.columns, section.rows) if section.rows else []
        lines += [f"- {_line(item)}" for item in section.items]
    return "\n".join(lines) + "\n"


def html_page(report: Mapping[str, Any]) -> str:
    """The report as a page: inline style and SVG, light and dark, printable, no script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Our own SVG, which has escaped its texts.
    charts = {"systems": Markup(_systems_chart(report)), "loss": Markup(_loss_chart(report))}
    return environment.get_template(TEMPLATE).render(report=report, title=_title(report), sections=sections(report), charts=charts)


def _title(report: Mapping[str, Any]) -> str:
    return f"{report['use_case']}: {TITLES[overall(report['verdicts'])]}"


def _table(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return [*head, *("| " + " | ".join(_cell(cell) for cell in row.cells) + " |" for row in rows)]


def _line(text: str) -> str:
    """A sentence in which names of the user's own cannot become markup; our code marks stay."""
    return " ".join(text.split()).replace("<", "&lt;").replace("*", "\\*")


def _cell(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
    return escaped.replace("*", "\\*").replace("_", "\\_")


def _systems_chart(report: Mapping[str, Any]) -> str:
    metric = report["primary_metric"]
    shown = {system: report["systems"][system][metric] for system in SYSTEMS if system in report["systems"]}
    bars = [
        Bar(
            system, value["estimate"], _or(value["low"], value["estimate"]), _or(value["high"], value["estimate"]), own=system == FINE_TUNED
        )
        for system, value in shown.items()
    ]
    top = max(1.0, *(bar.high for bar in bars))
    return bar_chart(bars, title=f"{metric} of all systems with 95 % intervals", top=top)


def _loss_chart(report: Mapping[str, Any]) -> str:
    training = [(float(row["step"]), float(row["loss"])) for row in report["curve"]]
    validation = [(float(step), float(loss)) for step, loss in report["training"]["validation_losses"]]
    return line_chart(training, validation, title="Loss by step: thin line training, thick line validation")


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
