"""Presidio's own analyzer without a model, and what it finds in a form that can be compared."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import spacy
import tldextract
from presidio_analyzer import AnalyzerEngine, RecognizerResult
from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
from spacy.lookups import Lookups

DATA = Path(os.environ.get("FINE_TUNE_PIPELINE_TEST_DATA", "shared/data"))
"""Texts that are measured on, and not shipped."""

_LEMMAS = {
    "cards": "card",
    "charged": "charge",
    "numbers": "number",
    "phones": "phone",
    "calling": "call",
    "accounts": "account",
    "dating": "date",
    "saved": "save",
    "checking": "check",
    "cells": "cell",
    "links": "link",
    "states": "state",
    "identifications": "identification",
}


def pattern_engine() -> AnalyzerEngine:
    """Presidio on a blank pipeline with a short list of lemmas: all patterns and context words, no names."""
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    nlp = spacy.blank("en")
    lookups = Lookups()
    lookups.add_table("lemma_lookup", _LEMMAS)
    nlp.add_pipe("lemmatizer", config={"mode": "lookup"}).initialize(lookups=lookups)
    engine = SpacyNlpEngine(ner_model_configuration=NerModelConfiguration())
    engine.nlp = {"en": nlp}
    return AnalyzerEngine(nlp_engine=engine)


def findings(results: Iterable[RecognizerResult]) -> list[tuple[int, int, str, float]]:
    return [(result.start, result.end, result.entity_type, result.score) for result in results]


def shared_texts() -> Iterator[tuple[str, str]]:
    """Every text of the shared data, with the name of its set."""
    for name in ("pii_dev.jsonl", "earnings21/dev.jsonl", "ner_real/dev.jsonl"):
        yield from ((name, json.loads(line)["text"]) for line in (DATA / name).read_text(encoding="utf-8").split("\n") if line)
    for name in ("banking77/train.csv", "banking77/test.csv"):
        yield from ((name, line.rsplit(",", 1)[0].strip('"')) for line in (DATA / name).read_text(encoding="utf-8").splitlines()[1:])
    for part in json.loads((DATA / "clinc_oos/data_full.json").read_text(encoding="utf-8")).values():
        yield from (("clinc_oos", text) for text, _ in part)
    for name in ("tatqa/dev.json", "tatqa/test_gold.json"):
        for page in json.loads((DATA / name).read_text(encoding="utf-8")):
            texts = [paragraph["text"] for paragraph in page["paragraphs"]] + [question["question"] for question in page["questions"]]
            yield from ((name, text) for text in [*texts, "\n".join("\t".join(row) for row in page["table"]["table"])])
