"""Variants of rows: which rows get some, and the plain ways to make them. Models make theirs in `paraphrase.py`."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import regex
from jinja2 import StrictUndefined
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.chance import by_hash
from fine_tune_pipeline.guide.dataset.more.made_rows import MADE_FROM, SYNTHETIC
from fine_tune_pipeline.guide.dataset.more.typos import with_typos
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.more import Augmentation, MoreSpec, Paraphrases, Phrases, Templates, Typos

Plain = Typos | Phrases | Templates


class BrokenVariant(ValueError):
    """A template of `augment` is not Jinja, or fails on a row."""


@dataclass(frozen=True)
class Plan:
    """One variant to make: of which row, how, and the how-manieth of that row."""

    origin: Example
    how: Plain | Paraphrases
    number: int

    @property
    def rank(self) -> bytes:
        """An order by hash, for when not all can be made."""
        return by_hash(f"{self.origin.id}\n{self.how.type}\n{self.number}")


def planned(rows: Sequence[Example], spec: MoreSpec, *, task: Task, hard: Collection[str], seed: int) -> list[Plan]:
    """Variants that the spec asks for.

    Args:
        rows: those that variants may be made of.
        hard: ids of the rows in hard slices.
    """
    return [
        Plan(row, how, number)
        for place, how in enumerate(spec.augment)
        for row in chosen(rows, how, task=task, hard=hard, seed=f"{seed}:{place}")
        for number in range(how.copies)
    ]


def chosen(rows: Sequence[Example], how: Augmentation, *, task: Task, hard: Collection[str], seed: str) -> list[Example]:
    """The rows of the wanted classes and slices, and of these the share with the smallest hashes, in their own order."""
    fit = [row for row in rows if (not how.classes or task.class_of(row.completion) in how.classes) and (not how.hard or row.id in hard)]
    ranked = sorted(fit, key=lambda row: by_hash(f"{seed}:{row.id}"))
    taken = {row.id for row in ranked[: round(how.share * len(fit))]}
    return [row for row in fit if row.id in taken]


def variant(row: Example, how: Plain, *, number: int, seed: int) -> Example | None:
    """A variant by plain means; None where there is nothing to change.

    Raises:
        BrokenVariant: names the template and the row.
    """
    drawn = int.from_bytes(by_hash(f"{seed}:{row.id}")[:4]) + number
    if isinstance(how, Typos):
        prompt = with_typos(row.prompt, share=how.words, seed=f"{seed}:{number}")
    elif isinstance(how, Phrases):
        prompt = _other_phrase(row.prompt, how.phrases, drawn)
    else:
        prompt = _rendered(row, how.templates[drawn % len(how.templates)])
    return None if prompt == row.prompt else made_of(row, prompt, how.type)


def made_of(row: Example, prompt: str, kind: str) -> Example:
    """A row that says in its metadata how it was made and from which."""
    digest = hashlib.sha256(prompt.encode("utf-8")).hexdigest()[:8]
    return replace(
        row,
        id=f"{row.id}~{kind}-{digest}",
        prompt=prompt,
        source=source_of(kind),
        metadata={**row.metadata, SYNTHETIC: kind, MADE_FROM: row.id},
    )


def source_of(kind: str) -> str:
    """The source of made rows, as the tables of sources show it."""
    return f"made: {kind}"


def _other_phrase(text: str, phrases: Mapping[str, Sequence[str]], drawn: int) -> str:
    """The text with one phrase said in another way; which one, and how, is drawn."""
    found = [
        (match.span(), other)
        for phrase, others in phrases.items()
        for match in regex.finditer(rf"(?i)(?<!\w){regex.escape(phrase)}(?!\w)", text)
        for other in others
    ]
    if not found:
        return text
    (start, end), other = found[drawn % len(found)]
    return text[:start] + (other[:1].upper() + other[1:] if text[start].isupper() else other) + text[end:]


def _rendered(row: Example, template: str) -> str:
    columns: dict[str, Any] = {**row.metadata, "prompt": row.prompt}
    try:
        return SandboxedEnvironment(undefined=StrictUndefined, autoescape=False).from_string(template).render(columns)
    # What a template can raise is decided by the data in it.
    except (TemplateError, SecurityError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BrokenVariant(
            f"dataset.more.augment: templates: {template!r} fails on row {row.id} ({type(error).__name__}: {error}); "
            f"the row has {', '.join(columns)}"
        ) from error
