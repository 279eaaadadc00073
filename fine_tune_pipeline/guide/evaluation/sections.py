"""The report as sections of text and tables: the same for Markdown and HTML."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, SYSTEMS
from fine_tune_pipeline.guide.evaluation.safety.section import safety_section
from fine_tune_pipeline.guide.objective.evidence import LOOKS
from fine_tune_pipeline.pages.charts import Bar, bar_chart, line_chart
from fine_tune_pipeline.pages.document import Row, Section

SHOWN_CLASSES = 12
SHOWN_CONFUSIONS = 10
SHOWN_CHARACTERS = 240
"""Of a text in a table."""

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

REVIEW_NOTES = {
    "auto_accept": "Training examples were accepted without a human look (dataset.review.policy: auto_accept).",
    "experts": "Experts reviewed training examples before they were used (dataset.review.policy: experts).",
}


def sections(report: Mapping[str, Any]) -> list[Section]:
    """All sections of a report that have something to say, in reading order."""
    made = (
        _objective,
        _systems,
        _gains,
        _next,
        _classes,
        _confusions,
        _examples,
        _slices,
        safety_section,
        _costs,
        _base_models,
        _training,
        _measured,
    )
    return [section for make in made for section in make(report)]


def _objective(report: Mapping[str, Any]) -> Iterator[Section]:
    rows = [
        Row(
            (
                verdict["kind"],
                verdict["criterion"],
                _number(verdict["estimate"]),
                _number(verdict["bound"]),
                verdict["verdict"],
                verdict["reason"],
                verdict["how"] or "measured",
            ),
            verdict["verdict"],
        )
        for verdict in report["verdicts"]
    ]
    columns = ("", "criterion", "seen", "bound", "verdict", "why", "how")
    yield Section(
        "Is the objective met?", "The bound decides, not the number that was seen; “cannot tell” does not pass.", columns, tuple(rows)
    )


def _systems(report: Mapping[str, Any]) -> Iterator[Section]:
    metrics = report["table_metrics"]
    rows = [
        Row((NAMES[system], *(_interval(report["systems"][system][metric]) for metric in metrics)), "own" if system == FINE_TUNED else "")
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
        Row((gain["metric"], NAMES[gain["over"]], _interval(gain), _number(gain["lower"]), _number(gain["upper"]), gain["method"]))
        for gain in gains
    ]
    columns = ("metric", "gain over", "gain (95 %)", f"at least ({level})", f"at most ({level})", "method")
    evidence = report["evidence"]
    text = (
        "Paired by row; positive is better. The two columns after the interval are one-sided bounds. A true gain of "
        f"{evidence['gain']:.3f} over the base would be seen on these rows with a chance of {evidence['power']:.0%}; "
        f"a gain of {evidence['smallest_gain']:g} matters to the objective."
    )
    yield Section("Gain of the fine-tuned model", text, columns, tuple(rows))


def _next(report: Mapping[str, Any]) -> Iterator[Section]:
    steps = report["next_steps"]
    yield Section("What to try next", "" if steps else "Nothing stands out in the numbers.", items=tuple(steps))


def _classes(report: Mapping[str, Any]) -> Iterator[Section]:
    classes = report["classes"]
    if not classes:
        return
    systems = [system for system in SYSTEMS if system in classes[0]["found"]]
    rows = [
        Row((line["name"], str(line["rows"]), str(line["training_rows"]), *(_number(line["found"][system]) for system in systems)))
        for line in classes[:SHOWN_CLASSES]
    ]
    text = "Share of each class's test rows in which the class is right." + _of(len(rows), len(classes), "the worst")
    yield Section("Classes, worst first", text, ("class", "test rows", "training rows", *systems), tuple(rows))


def _confusions(report: Mapping[str, Any]) -> Iterator[Section]:
    found = report["confusions"]
    if found:
        rows = [Row((line["field"], line["wanted"], line["given"], str(line["rows"]))) for line in found[:SHOWN_CONFUSIONS]]
        text = "Of the fine-tuned model." + _of(len(rows), len(found), "the most frequent")
        yield Section("What is taken for what", text, ("field", "right", "answered", "rows"), tuple(rows))


def _examples(report: Mapping[str, Any]) -> Iterator[Section]:
    base = report["compared_base"]
    rows = [
        Row((line["kind"], _short(line["prompt"]), _short(line["wanted"]), _short(line["base"]), _short(line["fine_tuned"])))
        for line in report["examples"]
    ]
    text = f"Rows that were gained on {NAMES[base]}, lost, and still wrong."
    yield Section("Examples", text, ("", "prompt", "right answer", base, FINE_TUNED), tuple(rows))


def _slices(report: Mapping[str, Any]) -> Iterator[Section]:
    if report["slices"]:
        rows = [
            Row((line["slice"], str(line["rows"]), _number(line["base"]), _number(line["fine_tuned"]), _interval(line["gain"])))
            for line in report["slices"]
        ]
        text = f"{report['primary_metric']} by metadata, smallest gain first. Of twenty slices one is outside its interval by chance."
        yield Section("Slices", text, ("slice", "rows", report["compared_base"], FINE_TUNED, "gain (95 %)"), tuple(rows))


def _costs(report: Mapping[str, Any]) -> Iterator[Section]:
    columns = ("seconds per 1,000", "seconds", "prompt tokens", "new tokens")
    rows = [
        Row(
            (NAMES[cost["system"]], *(f"{cost[column]:,}" if column in cost else "–" for column in columns)),
            "own" if cost["system"] == FINE_TUNED else "",
        )
        for cost in report["costs"]
    ]
    text = (
        f"As measured where the predictions ran, in batches; peak memory {report['peak_memory_gib']:.2f} GiB. "
        "One answer at a time is timed at the endpoint."
    )
    yield Section("What the answers cost", text, ("system", *columns), tuple(rows))


def _base_models(report: Mapping[str, Any]) -> Iterator[Section]:
    base = report["base_model"]
    if not base["candidates"]:
        return
    columns = tuple(name for name in BASE_COLUMNS if any(row.get(name) is not None for row in base["candidates"]))
    rows = [Row(tuple("" if row.get(name) is None else str(row[name]) for name in columns)) for row in base["candidates"]]
    yield Section("Base models side by side", f"{base['reason']} Minutes and costs are of {base['compared_on']}.", columns, tuple(rows))


def _training(report: Mapping[str, Any]) -> Iterator[Section]:
    training = report["training"]
    text = (
        f"{training['rows']:,} rows, {training['steps']:,} steps, {training['tokens']:,} tokens in {training['seconds']:,.0f} s; "
        f"{_learned(training)}. Thin line: training; thick line: validation."
    )
    yield Section("Training", text, charts=(_loss_chart(report),))


def _learned(training: Mapping[str, Any]) -> str:
    """Parameters and losses; of a hosted training the parameters are not known, and the losses only if its provider told them."""
    parameters = f"{training['trainable_parameters']:,} trained parameters; " if training["trainable_parameters"] else ""
    if training["first_loss"] is None:
        return f"{parameters}the provider gave no losses"
    return f"{parameters}training loss {training['first_loss']:.3f} to {training['final_loss']:.3f} nats per labelled token"


def _measured(report: Mapping[str, Any]) -> Iterator[Section]:
    evidence = report["evidence"]
    rows = report["n"]
    clusters = f" in {evidence['clusters']} groups of rows that belong together" if evidence["clusters"] < rows else ""
    items = (
        REVIEW_NOTES[report["review_policy"]],
        f"{rows} held-out rows{clusters}, never seen in training; all systems answered the same rows, decoded greedily.",
        f"Verdicts use one-sided bounds at level {evidence['level']:g}; all criteria must hold, so their number needs no correction.",
        f"This is look {report['look']['number']} of {LOOKS} at these rows: each spends a part of what may go wrong, so that all "
        "together keep to the level that the objective asks for. Judging the same answers by the same criteria again is no new look.",
        "Shares have Wilson's interval in tables, exact bounds in verdicts; means and gains Student's t over groups, held back for skew, "
        "few differences or few groups an exact test; figures of all rows together a bootstrap of whole groups.",
        "Means were computed twice, by this project and by Hugging Face `evaluate`, and agree.",
    )
    yield Section("How this was measured", items=items)


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


def _of(shown: int, all_: int, which: str) -> str:
    return f" Shown: {which} {shown} of {all_}; all are in report.json." if shown < all_ else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(value: Mapping[str, Any]) -> str:
    return f"{value['estimate']:.3f} [{_number(value['low'])}, {_number(value['high'])}]"


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= SHOWN_CHARACTERS else one_line[:SHOWN_CHARACTERS] + "…"


def overall(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """One verdict for all: met only if every one is, not met if one is not."""
    answers = {verdict["verdict"] for verdict in verdicts}
    return "not met" if "not met" in answers else "cannot tell" if "cannot tell" in answers else "met"
