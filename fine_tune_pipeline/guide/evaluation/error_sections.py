"""Where the fine-tuned model is wrong, as sections of the report."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.cells import interval, short, shown_of
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, SYSTEMS
from fine_tune_pipeline.pages.document import Row, Section

SHOWN_CLASSES = 12
SHOWN_CONFUSIONS = 10


def classes_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """Share of each class that is found, system by system; nothing for a task without classes."""
    classes = report["classes"]
    if not classes:
        return
    systems = [system for system in SYSTEMS if system in classes[0]["found"]]
    rows = [
        Row(
            (
                line["name"],
                str(line["rows"]),
                str(line["training_rows"]),
                *(interval(line["found"][system], n=line["rows"]) for system in systems),
            )
        )
        for line in classes[:SHOWN_CLASSES]
    ]
    text = "Share of each class's test rows in which the class is right, with 95 % intervals." + shown_of(
        len(rows), len(classes), "the worst"
    )
    yield Section("Classes, worst first", text, ("class", "test rows", "training rows", *systems), tuple(rows))


def confusions_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """Which value is answered in place of which; nothing when none is."""
    found = report["confusions"]
    if found:
        rows = [
            Row(
                (
                    line["field"],
                    line["wanted"],
                    line["given"],
                    str(line["rows"]),
                    interval(line["share"], n=line["share"]["n"]),
                    str(line["share"]["n"]),
                )
            )
            for line in found[:SHOWN_CONFUSIONS]
        ]
        text = "Of the fine-tuned model; the share is that of all rows with this right value, with its 95 % interval." + shown_of(
            len(rows), len(found), "the most frequent"
        )
        yield Section("What is taken for what", text, ("field", "right", "answered", "rows", "share", "of rows"), tuple(rows))


def examples_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """Rows that were gained, lost, and are still wrong."""
    base = report["compared_base"]
    rows = [
        Row((line["kind"], short(line["prompt"]), short(line["wanted"]), short(line["base"]), short(line["fine_tuned"])))
        for line in report["examples"]
    ]
    text = f"Rows that were gained on {NAMES[base]}, lost, and still wrong."
    yield Section("Examples", text, ("", "prompt", "right answer", base, FINE_TUNED), tuple(rows))


def slices_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """The gain by metadata; nothing without slices of enough rows."""
    if report["slices"]:
        rows = [
            Row((line["slice"], str(line["rows"]), *(interval(line[name], n=line["rows"]) for name in ("base", "fine_tuned", "gain"))))
            for line in report["slices"]
        ]
        text = (
            f"{report['primary_metric']} by metadata with 95 % intervals, smallest gain first. "
            "Of twenty slices one is outside its interval by chance."
        )
        yield Section("Slices", text, ("slice", "rows", report["compared_base"], FINE_TUNED, "gain"), tuple(rows))
