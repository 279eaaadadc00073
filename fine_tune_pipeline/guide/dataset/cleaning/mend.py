"""Repairs that change how a text is written and not what it says, each counted by name."""

import html
import unicodedata
from collections.abc import Callable, Collection, Mapping

import regex
from ftfy import fix_encoding

# Joiners stay inside scripts and emoji that need them; beside plain letters they only hide words.
_INVISIBLE = regex.compile(
    r"[\u00ad\u200b\u200e\u200f\u2060-\u2064\u2066-\u2069\u202a-\u202e\ufeff]|(?<=[\x00-\x7f]|^)[\u200c\u200d]|[\u200c\u200d](?=[\x00-\x7f]|$)"
)
_CONTROL = regex.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_LINE_BREAK = regex.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")
_GAP_IN_LINE = regex.compile(r"(?<=\S)[^\S\n]+(?=\S)|[^\S\n]+(?=\n|$)")
_EMPTY_LINES = regex.compile(r"\n{3,}")

_HIDDEN = regex.compile(r"(?is)<(script|style|head)\b[^<>]*>.*?</\1\s*>|<!--.*?-->")
_LINE_TAG = regex.compile(r"(?i)<(?:br|/p|/div|/li|/tr|/h[1-6]|hr)\b[^<>]*>")
_TAG = regex.compile(
    r"(?i)</?(?:a|abbr|address|article|b|blockquote|body|br|center|code|dd|div|dl|dt|em|font|footer|h[1-6]|head|header|hr|html|i|img|li|main|"
    r"ol|p|pre|s|script|section|small|span|strong|style|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|u|ul)(?:\s[^<>]*)?/?>"
)
_MAIL_FOOTER = regex.compile(
    r"(?im)^-- ?$|^sent from my [^\n]{2,40}$|^get outlook for \w+$|"
    r"^(?:this|the (?:information|contents?)[^\n]{0,40}) (?:e-?mail|message|in this e-?mail)[^\n]{0,120}"
    r"\b(?:confidential|privileged|intended)\b"
)


def mend(text: str, *, skip: Collection[str] = ()) -> tuple[str, list[str]]:
    """A prompt as it was meant, and the names of the repairs that changed it; those named in `skip` are not made."""
    return _run(text, _PROMPT_REPAIRS, skip)


def mend_answer(text: str, *, skip: Collection[str] = ()) -> tuple[str, list[str]]:
    """A completion as it was meant: marks and gaps inside it may be part of the answer, only gaps around it go."""
    return _run(text, _ANSWER_REPAIRS, skip)


def _run(text: str, repairs: Mapping[str, Callable[[str], str]], skip: Collection[str]) -> tuple[str, list[str]]:
    done = []
    for name, repair in repairs.items():
        if name in skip:
            continue
        better = repair(text)
        if better != text:
            done.append(name)
        text = better
    return text, done


def _without_gaps(text: str) -> str:
    """Single blanks, no blanks at the ends of lines, at most one empty line; the indentation of lines stays."""
    text = _LINE_BREAK.sub("\n", text)
    text = _GAP_IN_LINE.sub(lambda match: "" if match.end() == len(text) or text[match.end()] == "\n" else " ", text)
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _without_html(text: str) -> str:
    """Text as a browser shows it, if it holds HTML: tags that end a line end one, others go, `&amp;` is `&`. Other `<…>` stays."""
    if not _TAG.search(text):
        return text
    for part in (_HIDDEN, _LINE_TAG, _TAG):
        text = part.sub("\n" if part is _LINE_TAG else "", text)
    return html.unescape(text)


def _without_mail_footer(text: str) -> str:
    """A mail without what stands below every mail: the signature after `-- `, `Sent from my …`, the notice of confidentiality."""
    found = _MAIL_FOOTER.search(text)
    # A message that is nothing else stays.
    return text if found is None or not text[: found.start()].strip() else text[: found.start()].rstrip()


_REPAIRS: dict[str, Callable[[str], str]] = {
    # UTF-8 that was read as another encoding, once or several times.
    "mojibake": fix_encoding,
    "unicode_form": lambda text: unicodedata.normalize("NFC", text),
    "invisible_characters": lambda text: _CONTROL.sub("", _INVISIBLE.sub("", text)),
}
_PROMPT_REPAIRS = {**_REPAIRS, "html": _without_html, "mail_footer": _without_mail_footer, "whitespace": _without_gaps}
_ANSWER_REPAIRS = {**_REPAIRS, "whitespace": str.strip}
