"""Where the fine-tuned model is wrong, as sections of the report."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.cells import interval, short, shown_of
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, SYSTEMS
from fine_tune_pipeline.pages.document import Row, Section

SHOWN_CLASSES = 12


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


def examples_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """Rows that were gained, lost, and are still wrong."""
    base = report["compared_base"]
    rows = [
        Row((line["kind"], short(line["prompt"]), short(line["wanted"]), short(line["base"]), short(line["fine_tuned"])))
        for line in report["examples"]
    ]
    text = f"Rows that were gained on {NAMES[base]}, lost, and still wrong."
    yield Section("Examples", text, ("", "prompt", "right answer", base, FINE_TUNED), tuple(rows))
