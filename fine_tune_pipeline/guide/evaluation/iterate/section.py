"""Next steps as the report shows them, and as `next_steps.json` keeps them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.evaluation.iterate.findings import Findings
from fine_tune_pipeline.guide.evaluation.iterate.rules import next_steps
from fine_tune_pipeline.guide.evaluation.iterate.steps import FILE, step_of
from fine_tune_pipeline.pages.document import Row, Section
from fine_tune_pipeline.spec.use_case import UseCaseSpec

COLUMNS = ("step", "what to try", "why", "change of the use case", "expected", "cost")


def what_next(report: Mapping[str, Any], spec: UseCaseSpec, *, adapter: Artifact, base_model: Artifact, folder: Path) -> dict[str, Any]:
    """The report's part `next_steps`, also written as `next_steps.json`. All other parts are there, the error analysis too."""
    planned = adapter.manifest.payload["what"]
    others = base_model.json("base_model.json").get("try_next", [])
    rows = [step.row() for step in next_steps(Findings(report, spec, planned=planned, other_bases=others))]
    kept = {"use_case": spec.name, "next_steps": rows}
    (folder / FILE).write_text(json.dumps(kept, ensure_ascii=False, indent=2, allow_nan=False), encoding="utf-8")
    return {"next_steps": rows}


def next_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """What to try next as a table, with the command that writes a change."""
    steps = [step_of(row) for row in report.get("next_steps", [])]
    if not steps:
        yield Section("What to try next", "Nothing stands out in the numbers.")
        return
    rows = tuple(Row((step.id, step.title, step.why, step.changes, step.expected, step.cost)) for step in steps)
    writable = next((step.id for step in steps if step.patch), None)
    how = (
        ""
        if writable is None
        else f" A change is written by `fine-tune-pipeline apply {report['use_case']} {writable}`; one at a time shows what it did."
    )
    yield Section("What to try next", f"The first thing first, each with the numbers that it rests on.{how}", COLUMNS, rows)


def step_rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Next steps as a table of the web UI."""
    steps = [step_of(row) for row in report.get("next_steps", [])]
    return [{"step": step.id, "what to try": step.title, "why": step.why, "change": step.changes, "cost": step.cost} for step in steps]
