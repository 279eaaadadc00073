"""What Slack writes in angle brackets: mentions, channels, links, dates; as a reader sees it, but for the names of people."""

import re
from collections.abc import Callable

from fine_tune_pipeline.guide.dataset.sources.chats.conversations import MENTIONS

_BRACKETS = re.compile(r"<(?P<kind>[@#!]?)(?P<what>[^<>|\n]+)(?:\|(?P<label>[^<>\n]*))?>")


def plain_text(text: str, ours: Callable[[str], bool]) -> str:
    """The text of a message.

    Args:
        text: in Slack's markup, where `<`, `>` and `&` of the writer are escaped.
        ours: whether the user of an id is one of us.

    Source: Slack's reference of message formatting.
    """
    shown = _BRACKETS.sub(lambda found: _shown(found["kind"], found["what"], found["label"] or "", ours), text)
    # Last the ampersand: `&amp;lt;` is what somebody wrote about `&lt;`.
    return shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _shown(kind: str, what: str, label: str, ours: Callable[[str], bool]) -> str:
    if kind == "@":
        return MENTIONS[ours(what)]
    if kind == "#":
        return f"#{label or what}"
    if kind == "!":
        # <!here>, <!subteam^S1|@support>, <!date^1392734382^{date}|February 18th>
        return label or f"@{what.split('^')[0]}"
    target = what.removeprefix("mailto:").removeprefix("tel:")
    return target if not label or label in (target, what.split("://", 1)[-1]) or target != what else f"[{label}]({what})"
