"""Parts of a spaCy pipeline behind Presidio's NLP engine: entities without lemmas, lemmas without entities, with the same outcome.

A text becomes a doc once; the parts that turn out to be needed go over that doc one after the other.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine, SlimSpacyNlpEngine, SpacyNlpEngine
from spacy.language import Language
from spacy.tokens import Doc, Span, Token

from fine_tune_pipeline.programs.pii.entity_steps import Entity, EntitySteps

_KNOWN = {"tok2vec", "tagger", "parser", "attribute_ruler", "lemmatizer", "ner"}
"""Parts of which it is known what they read; a pipeline with any other is run whole."""

_BATCH = 64
_TOKENS = 1500
"""Tokens that go through the NER at once: what it computes of them stays in the processor's cache, and long texts do not add up."""


@dataclass
class Reading:
    """A text, and what is known of it so far."""

    text: str
    nlp: Language | None

    @cached_property
    def doc(self) -> Doc:
        assert self.nlp is not None
        return self.nlp.make_doc(self.text)


def language_of(engine: NlpEngine, language: str) -> Language | None:
    """The engine's pipeline, if it is one of which parts can be run."""
    if type(engine) not in (SpacyNlpEngine, SlimSpacyNlpEngine) or language not in (engine.nlp or {}):
        return None
    nlp = engine.nlp[language]
    return nlp if isinstance(nlp, Language) else None


def with_lemmas(engine: NlpEngine, readings: Sequence[Reading], language: str) -> Iterator[NlpArtifacts]:
    """Tokens and lemmas of each text."""
    nlp = language_of(engine, language)
    if nlp is None or not _is_known(nlp):
        return _by_engine(engine, readings, language)
    docs = [reading.doc for reading in readings]
    _add_vectors(nlp, docs)
    return _artifacts(engine, run(nlp, docs, wanted=_present(nlp, "tagger", "attribute_ruler", "lemmatizer")), language)


def with_entities(
    engine: NlpEngine, readings: Sequence[Reading], language: str, entities: Sequence[str]
) -> Iterator[tuple[int, NlpArtifacts]]:
    """The model's findings of these entities, with the place of each text that has any; tokens and lemmas may be missing."""
    nlp = language_of(engine, language)
    if nlp is None or not _is_known(nlp):
        return enumerate(_by_engine(engine, readings, language))
    docs = [reading.doc for reading in readings]
    wanted = _labels(engine, nlp, entities)
    found = _named(nlp, docs) if EntitySteps.of(nlp.get_pipe("ner")) is None else stepped(nlp, docs, wanted=wanted)
    some = {place: spans for place, spans in enumerate(found) if spans}
    return zip(some, _artifacts(engine, map(_Entities, some.values()), language), strict=True)


def finds_entities(engine: NlpEngine, language: str) -> bool:
    """Whether the engine's pipeline has a part that may find entities."""
    nlp = language_of(engine, language)
    return nlp is None or not _is_known(nlp) or "ner" in nlp.pipe_names


class _Entities:
    """A doc of which only the entities are read: lists of all its tokens would be made for nobody."""

    def __init__(self, ents: Sequence[Span]) -> None:
        self.ents = ents

    def __iter__(self) -> Iterator[Token]:
        return iter(())


def stepped(nlp: Language, docs: Sequence[Doc], *, wanted: frozenset[str]) -> list[list[Span]]:
    """The wanted entities of each doc, by the NER alone, and by what it asks of the parser only where that can count.

    The NER never lets an entity go over the start of a sentence, which the parser sets.
    """
    steps = EntitySteps.of(nlp.get_pipe("ner"))
    assert steps is not None
    found = [entities for group in _groups(docs) for entities in _of_group(nlp, group, steps, wanted)]
    return [[Span(doc, *entity) for entity in entities if entity.label in wanted] for doc, entities in zip(docs, found, strict=True)]


def _of_group(nlp: Language, docs: Sequence[Doc], steps: EntitySteps, wanted: frozenset[str]) -> list[list[Entity]]:
    if _hears(nlp, "ner"):
        _add_vectors(nlp, docs)
    places = [place for place, doc in enumerate(docs) if len(doc)]
    taken = dict(zip(places, steps([docs[place] for place in places]), strict=True)) if places else {}
    found = {place: each.entities() for place, each in taken.items()}
    if _before(nlp, "parser", "ner"):
        unsure = [place for place, each in taken.items() if each.may_change(found[place], wanted.__contains__)]
        _add_vectors(nlp, [docs[place] for place in unsure])
        for place, doc in zip(unsure, run(nlp, [docs[place] for place in unsure], wanted=_present(nlp, "parser")), strict=True):
            found[place] = taken[place].entities(frozenset(token.i for token in doc if token.is_sent_start))
    return [found.get(place, []) for place in range(len(docs))]


def _groups(docs: Sequence[Doc]) -> Iterator[list[Doc]]:
    """Docs in groups of about as many tokens as go through the NER at once."""
    group, tokens = list[Doc](), 0
    for doc in docs:
        group.append(doc)
        tokens += len(doc)
        if tokens >= _TOKENS:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def _named(nlp: Language, docs: Sequence[Doc]) -> list[Sequence[Span]]:
    """Entities of each doc by a NER whose steps are not known: the pipeline as it is, without what it does not hear of."""
    parts = _present(nlp, "ner", *(["parser"] if _before(nlp, "parser", "ner") else []))
    heard = any(_hears(nlp, part) for part in parts)
    return [doc.ents for doc in run(nlp, docs, wanted=parts | _present(nlp, "tok2vec") if heard else parts)]


def run(nlp: Language, texts: Iterable[str | Doc], *, wanted: frozenset[str]) -> Iterator[Doc]:
    """Docs by the wanted parts of a pipeline."""
    return nlp.pipe(texts, batch_size=_BATCH, disable=[name for name in nlp.pipe_names if name not in wanted])


def _add_vectors(nlp: Language, docs: Sequence[Doc]) -> None:
    """Have the docs that have none yet get the vectors that several parts share."""
    if "tok2vec" in nlp.pipe_names:
        list(run(nlp, [doc for doc in docs if not len(doc.tensor)], wanted=frozenset({"tok2vec"})))


def _labels(engine: SpacyNlpEngine, nlp: Language, entities: Sequence[str]) -> frozenset[str]:
    """The model's labels that become one of these entities."""
    mapping = engine.ner_model_configuration.model_to_presidio_entity_mapping
    return frozenset(label for label in nlp.get_pipe("ner").labels if mapping.get(label, label) in entities)


class _Ready:
    """Stands where an engine keeps its pipeline, and hands out docs that are made already."""

    def __init__(self, nlp: Language, docs: Iterable[Any]) -> None:
        self.vocab = nlp.vocab
        self._docs = iter(docs)

    def __call__(self, text: str) -> Any:
        return next(self._docs)


def _artifacts(engine: NlpEngine, docs: Iterable[Any], language: str) -> Iterator[NlpArtifacts]:
    """What the engine makes of docs: it maps and filters the model's labels."""
    ready = copy.copy(engine)
    made = list(docs)
    ready.nlp = {language: _Ready(engine.nlp[language], made)}
    for _ in made:
        yield ready.process_text("", language)


def _by_engine(engine: NlpEngine, readings: Sequence[Reading], language: str) -> Iterator[NlpArtifacts]:
    for _, artifacts in engine.process_batch([reading.text for reading in readings], language=language, batch_size=_BATCH):
        yield artifacts


def _names(nlp: Language) -> dict[str, str]:
    return {name: nlp.pipe_factories[name] for name in nlp.pipe_names}


def _is_known(nlp: Language) -> bool:
    """Whether there is at most one of each part, under its own name, and no other."""
    return all(name == factory and factory in _KNOWN for name, factory in _names(nlp).items())


def _hears(nlp: Language, name: str) -> bool:
    """Whether a part reads the shared vectors."""
    return "tok2vec" in nlp.pipe_names and name in nlp.get_pipe("tok2vec").listening_components


def _present(nlp: Language, *names: str) -> frozenset[str]:
    return frozenset(names).intersection(nlp.pipe_names)


def _before(nlp: Language, first: str, second: str) -> bool:
    names = list(nlp.pipe_names)
    return first in names and names.index(first) < names.index(second)
