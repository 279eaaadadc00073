"""A form for people as one HTML file: it works without any network, keeps what is entered, and gives back `verdicts.jsonl`."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_PLACE = re.compile(r"\{\{(policy|title|style|shared|handout)\}\}")


def fill(template: str, *, title: str, handout: Mapping[str, Any]) -> str:
    """The text of a form. Its policy lets the browser run this script only, and load nothing.

    Args:
        template: a page with the places policy, title, style, shared (what all forms have in common) and handout.
        handout: what the script reads; `storage` names what this browser remembers of it, and no other hand-out may have that name.
    """
    parts = {"style": _shared("form.css"), "shared": _shared("form.js"), "title": html.escape(title), "handout": embedded(handout)}
    policy = _policy(_PLACE.sub(lambda match: parts.get(match[1], ""), template))
    # Once more from the template: what a row says is never looked through for places.
    return _PLACE.sub(lambda match: {**parts, "policy": policy}[match[1]], template)


def embedded(value: Any) -> str:
    """JSON that cannot end the element it stands in, nor begin another one."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shared(name: str) -> str:
    return files("fine_tune_pipeline.people").joinpath(name).read_text(encoding="utf-8")


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
