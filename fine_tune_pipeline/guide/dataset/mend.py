"""Repairs that change how a text is written and not what it says, each counted by name."""

import unicodedata

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


def mend(text: str) -> tuple[str, list[str]]:
    """A prompt as it was meant, and the names of the repairs that changed it."""
    return _run(text, {**_REPAIRS, "whitespace": _without_gaps})


def mend_answer(text: str) -> tuple[str, list[str]]:
    """A completion as it was meant: gaps inside it may be part of the answer, only those around it go."""
    return _run(text, {**_REPAIRS, "whitespace": str.strip})


def _run(text: str, repairs: dict) -> tuple[str, list[str]]:
    done = []
    for name, repair in repairs.items():
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


_REPAIRS = {
    # UTF-8 that was read as another encoding, once or several times.
    "mojibake": fix_encoding,
    "unicode_form": lambda text: unicodedata.normalize("NFC", text),
    "invisible_characters": lambda text: _CONTROL.sub("", _INVISIBLE.sub("", text)),
}
