"""All rules beside Presidio and the model, in one call: what they find, and what they make of the model's findings."""

from collections.abc import Collection, Iterable

from fine_tune_pipeline.programs.pii.personal_data import Span, plausible
from fine_tune_pipeline.programs.pii.recognizers import addresses, fields, listed, phrases, tidy

OWN_ENTITIES = ("AGE", "TITLE", "ZIP_CODE")
"""Kinds that only these rules find."""


def find(text: str, entities: Collection[str], *, skip: Collection[str] = ()) -> list[Span]:
    """Spans of these entities by rules; they may overlap.

    Args:
        skip: groups of rules that are not asked, as `dataset.pii.skip` names them.
    """
    spans = [] if "fields" in skip else fields.find(text, entities)
    spans += listed.find(text, [entity for entity in entities if listed.GROUPS.get(entity) not in skip])
    spans += [] if "phrases" in skip else phrases.find(text, entities)
    spans += addresses.find(text) if "LOCATION" in entities and "addresses" not in skip else []
    kept = [span for found in spans if (span := found if found.entity in OWN_ENTITIES else plausible(found, text)) is not None]
    return [
        span for span in kept if span.entity not in ("ORGANIZATION", "PERSON") or not tidy.nobody(text[span.start : span.end], span.entity)
    ]


def tidied(spans: Iterable[Span], text: str, *, skip: Collection[str] = ()) -> list[Span]:
    """The model's findings put right, and addresses among all findings taken to their end."""
    right = list(spans) if "repairs" in skip else tidy.tidied(spans, text)
    return right if "addresses" in skip else [addresses.grown(span, text) if _numbered(span, text) else span for span in right]


def _numbered(span: Span, text: str) -> bool:
    return span.entity == "LOCATION" and any(map(str.isdigit, text[span.start : span.end]))
