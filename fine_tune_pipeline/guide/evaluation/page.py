"""The report for people: what the shared page shows of it."""

from collections.abc import Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.sections import overall, sections
from fine_tune_pipeline.pages.document import Page, html
from fine_tune_pipeline.pages.document import markdown as page_markdown

TITLES = {
    "met": "the fine-tuned model meets the objective",
    "not met": "the fine-tuned model does not meet the objective",
    "cannot tell": "the test set cannot tell whether the fine-tuned model meets the objective",
}


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    return page_markdown(_page(report))


def html_page(report: Mapping[str, Any]) -> str:
    """The report as a page of its own."""
    return html(_page(report))


def _page(report: Mapping[str, Any]) -> Page:
    return Page(
        title=f"{report['use_case']}: {TITLES[overall(report['verdicts'])]}",
        advice=report["recommendation"]["sentence"],
        about=f"Goal: {report['goal']}",
        sections=sections(report),
    )
