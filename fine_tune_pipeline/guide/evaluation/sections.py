"""The report as sections of text and tables: the same for Markdown and HTML."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.analysis.section import analysis_sections
from fine_tune_pipeline.guide.evaluation.buying import buying_section
from fine_tune_pipeline.guide.evaluation.cells import ends, interval, number
from fine_tune_pipeline.guide.evaluation.cost_section import costs_section
from fine_tune_pipeline.guide.evaluation.error_sections import classes_section, examples_section
from fine_tune_pipeline.guide.evaluation.iterate.section import next_section
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, SYSTEMS
from fine_tune_pipeline.guide.evaluation.retraining.section import retraining_section
from fine_tune_pipeline.guide.evaluation.safety.section import safety_section
from fine_tune_pipeline.guide.evaluation.summary import summary_section
from fine_tune_pipeline.guide.evaluation.training_sections import base_models_section, training_section
from fine_tune_pipeline.guide.objective.evidence import LOOKS
from fine_tune_pipeline.pages.charts import Bar, Interval, bar_chart, forest_chart
from fine_tune_pipeline.pages.document import Row, Section

REVIEW_NOTES = {
    "auto_accept": "Training examples were accepted without a human look (dataset.review.policy: auto_accept).",
    "experts": "Experts reviewed training examples before they were used (dataset.review.policy: experts).",
}


def sections(report: Mapping[str, Any]) -> list[Section]:
    """All sections of a report that have something to say, in reading order: what decides first, then details, which the page folds."""
    shown = (
        summary_section,
        _objective,
        buying_section,
        _systems,
        _gains,
        retraining_section,
        costs_section,
        next_section,
        safety_section,
    )
    folded = (
        classes_section,
        examples_section,
        analysis_sections,
        base_models_section,
        training_section,
        _measured,
    )
    details = [replace(section, folded=True) for make in folded for section in make(report)]
    return [*(section for make in shown for section in make(report)), *details]


def _objective(report: Mapping[str, Any]) -> Iterator[Section]:
    rows = [
        Row(
            (
                verdict["kind"],
                verdict["criterion"],
                _seen(verdict),
                number(verdict["bound"]),
                verdict["verdict"],
                verdict["reason"],
                verdict["how"] or "nothing was seen",
            ),
            verdict["verdict"],
        )
        for verdict in report["verdicts"]
    ]
    columns = ("", "criterion", "seen", "bound", "verdict", "why", "how")
    text = (
        "The bound decides, not the number that was seen; “cannot tell” does not pass. In brackets both bounds, each one-sided at level "
        f"{report['evidence']['level']:g}."
    )
    yield Section("Is the objective met?", text, columns, tuple(rows))


def _seen(verdict: Mapping[str, Any]) -> str:
    seen = number(verdict["estimate"])
    return seen if verdict["rows"] is None else f"{seen} [{number(verdict['lower'])}, {number(verdict['upper'])}]"


def _systems(report: Mapping[str, Any]) -> Iterator[Section]:
    metrics = report["table_metrics"]
    rows = [
        Row(
            (NAMES[system], *(interval(report["systems"][system][metric], n=report["n"]) for metric in metrics)),
            "own" if system == FINE_TUNED else "",
        )
        for system in SYSTEMS
        if system in report["systems"]
    ]
    about = "; ".join(f"{metric}: {report['metrics'][metric]['about']}" for metric in metrics)
    missing = "".join(f" Not compared: {NAMES[system]} ({why})." for system, why in report["absent"].items())
    text = f"Means over the same {report['n']} held-out rows, with two-sided 95 % intervals. {about}.{missing}"
    yield Section("All systems on the same rows", text, ("system", *metrics), tuple(rows), charts=(_systems_chart(report),))


def _gains(report: Mapping[str, Any]) -> Iterator[Section]:
    asked = {report["primary_metric"], *(verdict["metric"] for verdict in report["verdicts"])}
    gains = [gain for gain in report["gains"] if gain["metric"] in asked and not report["metrics"][gain["metric"]]["validity"]]
    level = f"{gains[0]['level']:g}"
    rows = [
        Row(
            (
                gain["metric"],
                NAMES[gain["over"]],
                interval(gain, n=report["n"]),
                number(gain["lower"]),
                number(gain["upper"]),
                gain["method"],
            )
        )
        for gain in gains
    ]
    columns = ("metric", "gain over", "gain (95 %)", f"at least ({level})", f"at most ({level})", "method")
    evidence = report["evidence"]
    text = (
        f"Paired by row over the same {report['n']} rows; positive is better. The two columns after the interval are one-sided bounds. "
        f"A true gain of {evidence['gain']:.3f} over the base would be seen on these rows with a chance of {evidence['power']:.0%}; "
        f"a gain of {evidence['smallest_gain']:g} matters to the objective. Dashed in the picture: the gain that is wanted."
    )
    yield Section("Gain of the fine-tuned model", text, columns, tuple(rows), charts=(_gains_chart(report),))


DECODED = {
    "greedy": "decoded greedily",
    "labels": "each language model by the likeliest of all possible answers",
    "json_schema": "decoded greedily inside the task's JSON Schema",
}


def _measured(report: Mapping[str, Any]) -> Iterator[Section]:
    evidence = report["evidence"]
    rows = report["n"]
    clusters = f" in {evidence['clusters']} groups of rows that belong together" if evidence["clusters"] < rows else ""
    items = (
        REVIEW_NOTES[report["review_policy"]],
        f"{rows} held-out rows{clusters}, never seen in training; all systems answered the same rows, {DECODED[report['decoding']]}.",
        f"Verdicts use one-sided bounds at level {evidence['level']:g}; all criteria must hold, so their number needs no correction.",
        f"This is look {report['look']['number']} of {LOOKS} at these rows: each spends a part of what may go wrong, so that all "
        "together keep to the level that the objective asks for. Judging the same answers by the same criteria again is no new look.",
        "Shares have Wilson's interval in tables, exact bounds in verdicts; means and gains Student's t over groups, held back for skew, "
        "few differences or few groups an exact test; figures of all rows together a bootstrap of whole groups; medians and percentiles "
        "order statistics. Brackets in tables are two-sided 95 % intervals.",
        *(f"Without interval ({part}): {why}." for part, why in report["no_interval"].items()),
        "Means were computed twice, by this project and by Hugging Face `evaluate`, and agree.",
    )
    yield Section("How this was measured", items=items)


def _systems_chart(report: Mapping[str, Any]) -> str:
    metric = report["primary_metric"]
    shown = {system: report["systems"][system][metric] for system in SYSTEMS if system in report["systems"]}
    bars = [Bar(system, value["estimate"], *ends(value), own=system == FINE_TUNED) for system, value in shown.items()]
    top = max(1.0, *(bar.high for bar in bars))
    rows = shown[FINE_TUNED]["n"]
    return bar_chart(bars, title=f"{metric} of all systems with 95 % intervals over {rows} rows", top=top)


def _gains_chart(report: Mapping[str, Any]) -> str:
    metric = report["primary_metric"]
    gains = {gain["over"]: gain for gain in report["gains"] if gain["metric"] == metric}
    lines = [Interval(f"over {system}", gains[system]["estimate"], *ends(gains[system])) for system in SYSTEMS if system in gains]
    title = f"Gain of the fine-tuned model in {metric} with 95 % intervals over {report['systems'][FINE_TUNED][metric]['n']} rows"
    return forest_chart(lines, wanted=report["evidence"]["wanted_gain"], title=title)
