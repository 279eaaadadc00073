"""The report for people: what the shared page shows of it."""

from collections.abc import Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.sections import sections
from fine_tune_pipeline.pages.document import Page, html
from fine_tune_pipeline.pages.document import markdown as page_markdown


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    return page_markdown(_page(report))


def html_page(report: Mapping[str, Any]) -> str:
    """The report as a page of its own."""
    return html(_page(report))


def _page(report: Mapping[str, Any]) -> Page:
    return Page(
        title=report["outcome"]["line"],
        advice=report["recommendation"]["sentence"],
        about=f"{report['use_case']}. Goal: {report['goal']}",
        sections=sections(report),
    )
