"""The hand-out as one HTML file that works without any network and gives back `verdicts.jsonl`."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from fine_tune_pipeline.guide.dataset.review.verdicts import QUESTIONS

SHOWN = ("id", "content", "why", "look", "source", "prompt", "completion")


def write_html(path: Path, rows: Sequence[Mapping[str, Any]], *, use_case: str) -> None:
    """Write the form with its rows inside. Its policy lets the browser run this script only, and load nothing."""
    path.write_text(form(rows, use_case=use_case), encoding="utf-8")


def form(rows: Sequence[Mapping[str, Any]], *, use_case: str) -> str:
    """The text of the form."""
    page = files("fine_tune_pipeline.guide.dataset.review.files").joinpath("review_form.html").read_text(encoding="utf-8")
    handout = {
        "use_case": use_case,
        "questions": QUESTIONS,
        "rows": [{name: str(row.get(name) or "") for name in SHOWN} for row in rows],
    }
    filled = {"policy": _policy(page), "title": html.escape(f"Review of {use_case}"), "rows": embedded(handout)}
    return re.sub(r"\{\{(policy|title|rows)\}\}", lambda match: filled[match.group(1)], page)


def embedded(value: Any) -> str:
    """JSON that cannot end the element it stands in, nor begin another one."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(page: str) -> str:
    """The Content-Security-Policy: this one script and this one style by their hashes, and nothing from anywhere."""
    script, style = (re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("script", "style"))
    assert script is not None
    assert style is not None
    return (
        f"default-src 'none'; script-src {_source(script[1])}; style-src {_source(style[1])}; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
