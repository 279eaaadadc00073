"""Parts of a spaCy pipeline behind Presidio's NLP engine: entities without lemmas, lemmas without entities, with the same outcome."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine, SlimSpacyNlpEngine, SpacyNlpEngine
from spacy.language import Language
from spacy.tokens import Doc

_KNOWN = {"tok2vec", "tagger", "parser", "attribute_ruler", "lemmatizer", "ner"}
"""Parts of which it is known what they read; a pipeline with any other is run whole."""

_BATCH = 256


def language_of(engine: NlpEngine, language: str) -> Language | None:
    """The engine's pipeline, if it is one of which parts can be run."""
    if type(engine) not in (SpacyNlpEngine, SlimSpacyNlpEngine) or language not in (engine.nlp or {}):
        return None
    nlp = engine.nlp[language]
    return nlp if isinstance(nlp, Language) else None


def with_lemmas(engine: NlpEngine, texts: Sequence[str], language: str) -> Iterator[NlpArtifacts]:
    """Tokens and lemmas of each text."""
    nlp = language_of(engine, language)
    if nlp is None or not _is_known(nlp):
        return _artifacts(engine, texts, language)
    return _artifacts(_narrowed(engine, language, _Some(nlp, wanted=_present(nlp, "tok2vec", "tagger", "attribute_ruler", "lemmatizer"))), texts, language)


def with_entities(engine: NlpEngine, texts: Sequence[str], language: str) -> Iterator[NlpArtifacts]:
    """The model's entities in each text."""
    nlp = language_of(engine, language)
    if nlp is None or not _is_known(nlp):
        return _artifacts(engine, texts, language)
    return _artifacts(_narrowed(engine, language, _Entities(nlp)), texts, language)


def finds_entities(engine: NlpEngine, language: str) -> bool:
    """Whether the engine's pipeline has a part that may find entities."""
    nlp = language_of(engine, language)
    return nlp is None or not _is_known(nlp) or "ner" in nlp.pipe_names


class _Some:
    """Stands where an engine keeps its pipeline, and runs some parts of it."""

    def __init__(self, nlp: Language, wanted: frozenset[str]) -> None:
        self.vocab = nlp.vocab
        self._nlp = nlp
        self._wanted = wanted

    def pipe(self, texts: Iterable[str], *, as_tuples: bool, batch_size: int, n_process: int) -> Iterator[Doc]:
        yield from run(self._nlp, texts, wanted=self._wanted)


class _Entities:
    """Runs the NER alone, and what it asks of the parser only where that can count.

    The NER never lets an entity go over the start of a sentence, which the parser sets. Without these starts it takes the same steps up to
    the first token that begins a sentence inside an entity. So a text without such an entity needs no parser.
    """

    def __init__(self, nlp: Language) -> None:
        self.vocab = nlp.vocab
        self._nlp = nlp
        names = _names(nlp)
        heard = "tok2vec" in names and "ner" in nlp.get_pipe("tok2vec").listening_components
        self._ner = _present(nlp, "ner", "tok2vec") if heard else _present(nlp, "ner")
        self._parser = _present(nlp, "tok2vec", "parser") if _before(nlp, "parser", "ner") else frozenset[str]()

    def pipe(self, texts: Iterable[str], *, as_tuples: bool, batch_size: int, n_process: int) -> Iterator[Doc]:
        docs = list(run(self._nlp, texts, wanted=self._ner))
        if self._parser:
            long = [place for place, doc in enumerate(docs) if any(len(entity) > 1 for entity in doc.ents)]
            parsed = run(self._nlp, [docs[place].text for place in long], wanted=self._parser)
            cut = [place for place, other in zip(long, parsed, strict=True) if _cuts(other, docs[place])]
            again = run(self._nlp, [docs[place].text for place in cut], wanted=self._parser | self._ner)
            for place, doc in zip(cut, again, strict=True):
                docs[place] = doc
        yield from docs


def run(nlp: Language, texts: Iterable[str], *, wanted: frozenset[str]) -> Iterator[Doc]:
    """Docs by the wanted parts of a pipeline."""
    return nlp.pipe(texts, batch_size=_BATCH, disable=[name for name in nlp.pipe_names if name not in wanted])


def _cuts(parsed: Doc, doc: Doc) -> bool:
    """Whether a sentence begins inside an entity."""
    return any(parsed[place].is_sent_start for entity in doc.ents for place in range(entity.start + 1, entity.end))


def _narrowed(engine: NlpEngine, language: str, pipeline: Any) -> NlpEngine:
    narrowed = copy.copy(engine)
    narrowed.nlp = {language: pipeline}
    return narrowed


def _artifacts(engine: NlpEngine, texts: Sequence[str], language: str) -> Iterator[NlpArtifacts]:
    for _, artifacts in engine.process_batch(texts, language=language, batch_size=_BATCH):
        yield artifacts


def _names(nlp: Language) -> dict[str, str]:
    return {name: nlp.pipe_factories[name] for name in nlp.pipe_names}


def _is_known(nlp: Language) -> bool:
    """Whether there is at most one of each part, under its own name, and no other."""
    return all(name == factory and factory in _KNOWN for name, factory in _names(nlp).items())


def _present(nlp: Language, *names: str) -> frozenset[str]:
    return frozenset(names).intersection(nlp.pipe_names)


def _before(nlp: Language, first: str, second: str) -> bool:
    names = list(nlp.pipe_names)
    return first in names and names.index(first) < names.index(second)
