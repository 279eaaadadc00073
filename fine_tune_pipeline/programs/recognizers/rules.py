"""All rules beside Presidio and the model, in one call: what they find, and what they make of the model's findings."""

from collections.abc import Collection, Iterable

from fine_tune_pipeline.programs.personal_data import Span, plausible
from fine_tune_pipeline.programs.recognizers import addresses, fields, listed, phrases, tidy

OWN_ENTITIES = ("AGE", "TITLE", "ZIP_CODE")
"""Kinds that only these rules find."""


def find(text: str, entities: Collection[str]) -> list[Span]:
    """Spans of these entities by rules; they may overlap."""
    spans = [*fields.find(text, entities), *listed.find(text, entities), *phrases.find(text, entities)]
    if "LOCATION" in entities:
        spans += addresses.find(text)
    kept = [span for found in spans if (span := found if found.entity in OWN_ENTITIES else plausible(found, text)) is not None]
    return [
        span for span in kept if span.entity not in ("ORGANIZATION", "PERSON") or not tidy.nobody(text[span.start : span.end], span.entity)
    ]


def tidied(spans: Iterable[Span], text: str) -> list[Span]:
    """The model's findings put right, and addresses among all findings grown to their end."""
    return [
        addresses.grown(span, text) if span.entity == "LOCATION" and any(map(str.isdigit, text[span.start : span.end])) else span
        for span in tidy.tidied(spans, text)
    ]
