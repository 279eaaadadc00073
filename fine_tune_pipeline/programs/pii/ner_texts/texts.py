"""Texts with known names in them, made of templates of our own writing: what the adapted NER is trained and judged on."""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml

from fine_tune_pipeline.programs.pii.ner_texts.values import Values

Side = Literal["train", "held_back"]

LABELS = {
    **dict.fromkeys(("person", "person_caps", "first", "last", "initials"), "PERSON"),
    **dict.fromkeys(("city", "city_caps", "country", "country_caps"), "GPE"),
    **dict.fromkeys(("region",), "GPE"),
    **dict.fromkeys(("street", "street_caps", "streetname", "address", "address_lines", "postcode", "facility"), "FAC"),
    **dict.fromkeys(("org", "org_caps", "team", "band", "university", "school", "hospital", "paper", "acronym"), "ORG"),
    **dict.fromkeys(("nationality",), "NORP"),
}
"""Slot -> label of the packaged NER; other slots are no findings."""

OPEN = frozenset({"metric", "product", "ref", "date", "job"})
"""Slots of which we say nothing: whether `ROE` or `Smart Meter` names somebody, the packaged NER may say."""

HELD_BACK_TEMPLATES = 5
"""One template in so many is held back."""

NAMELESS = ("nobody", "prose")
"""Genres without any name: what is written between names."""

_SLOT = re.compile(r"\{(\w+)\}")
_GLUED = re.compile(r"(?:\{last\}, \{first\}|\{first\} \{last\}|\{initials\} \{last\}|\{last\} \{first\})")
"""Slots that are one name together."""


@dataclass(frozen=True)
class Template:
    """A text with slots; `genre` is what kind of text it is."""

    genre: str
    text: str

    @property
    def side(self) -> Side:
        """Which side it is on; by a hash, so that it stays there when others are added."""
        return "held_back" if hashlib.sha256(self.text.encode()).digest()[0] % HELD_BACK_TEMPLATES == 0 else "train"


@dataclass(frozen=True)
class Named:
    """From `start` up to `end` of the text stands a name of the NER's `label`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class NamedText:
    """A text and every name in it. In the parts (start, end) that are `open` there may be others."""

    text: str
    names: tuple[Named, ...]
    open: tuple[tuple[int, int], ...] = ()


@cache
def templates(side: Side) -> tuple[Template, ...]:
    """The templates of one side; none is on both."""
    read = yaml.safe_load(files(__package__).joinpath("templates.yaml").read_text(encoding="utf-8"))
    every = [Template(genre, line.strip()) for genre, lines in read.items() for line in lines.splitlines() if line.strip()]
    return tuple(template for template in every if template.side == side)


def made(side: Side, count: int, *, seed: int) -> list[NamedText]:
    """So many texts of one side; the same for the same seed."""
    draw = random.Random(f"{side}:{seed}")
    values = Values(draw, held=side == "held_back")
    return [_text(templates(side), values, draw) for _ in range(count)]


def _text(every: Sequence[Template], values: Values, draw: random.Random) -> NamedText:
    """One to four fillings after each other, as somebody might write them."""
    values.move()
    first = draw.choice(every)
    same = [template for template in every if template.genre in (first.genre, *NAMELESS)]
    parts = [first, *(draw.choice(same) for _ in range(draw.choices((0, 1, 2, 3), (60, 25, 10, 5))[0]))]
    between = draw.choice((" ", " ", "\n"))
    text, names, free = "", list[Named](), list[tuple[int, int]]()
    for part in parts:
        filled = fill(part.text, values)
        at = len(text) + len(between) if text else 0
        text = text + between + filled.text if text else filled.text
        names += [Named(name.start + at, name.end + at, name.label) for name in filled.names]
        free += [(start + at, end + at) for start, end in filled.open]
    return _written(NamedText(text, tuple(names), tuple(free)), draw)


def fill(template: str, values: Values) -> NamedText:
    """A template with values in its slots."""
    text, names, free, at = "", list[Named](), list[tuple[int, int]](), 0
    template = template.replace("⏎", "\n")
    joined = {place for match in _GLUED.finditer(template) for place in range(match.start(), match.end())}
    for match in _SLOT.finditer(template):
        text += template[at : match.start()]
        start, slot = len(text), match.group(1)
        text += values.of(slot)
        at = match.end()
        if slot in OPEN:
            free.append((start, len(text)))
        if slot not in LABELS:
            continue
        if names and {match.start(), match.start() - 1} <= joined:
            start = names.pop().start
        names.append(Named(start, len(text), LABELS[slot]))
    return NamedText(text + template[at:], tuple(names), tuple(free))


def _written(text: NamedText, draw: random.Random) -> NamedText:
    """The same text in small letters, in capitals or without its last stop: people write so. No character moves."""
    change = draw.random()
    if change < 0.04:
        return _as(text, "".join(sign.lower() if len(sign.lower()) == 1 else sign for sign in text.text))
    if change < 0.06:
        return _as(text, "".join(sign.upper() if len(sign.upper()) == 1 else sign for sign in text.text))
    if change < 0.15 and text.text.endswith(".") and (not text.names or text.names[-1].end < len(text.text)):
        return _as(text, text.text[:-1])
    return text


def _as(text: NamedText, written: str) -> NamedText:
    return replace(text, text=written)
