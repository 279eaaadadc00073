"""The hand-out of examples as a form for the browser."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from fine_tune_pipeline.guide.dataset.review.verdicts import QUESTIONS
from fine_tune_pipeline.people.form import fill

SHOWN = ("id", "content", "why", "look", "source", "prompt", "completion")


def write_html(path: Path, rows: Sequence[Mapping[str, Any]], *, use_case: str) -> None:
    """Write the form with its rows inside."""
    path.write_text(form(rows, use_case=use_case), encoding="utf-8")


def form(rows: Sequence[Mapping[str, Any]], *, use_case: str) -> str:
    """The text of the form."""
    template = files("fine_tune_pipeline.guide.dataset.review.files").joinpath("review_form.html").read_text(encoding="utf-8")
    handout = {
        "storage": f"fine_tune_pipeline review of {use_case}",
        "questions": QUESTIONS,
        "rows": [{name: str(row.get(name) or "") for name in SHOWN} for row in rows],
    }
    return fill(template, title=f"Review of {use_case}", handout=handout)
