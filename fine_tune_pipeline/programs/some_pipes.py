"""Parts of a spaCy pipeline behind Presidio's NLP engine: entities without lemmas, lemmas without entities, with the same outcome."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine, SlimSpacyNlpEngine, SpacyNlpEngine
from spacy.language import Language
from spacy.tokens import Doc, Token

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
        return _by_engine(engine, texts, language)
    wanted = _present(nlp, "tok2vec", "tagger", "attribute_ruler", "lemmatizer")
    return _artifacts(engine, run(nlp, texts, wanted=wanted), language)


def with_entities(engine: NlpEngine, texts: Sequence[str], language: str) -> Iterator[NlpArtifacts]:
    """The model's entities in each text; tokens and lemmas may be missing."""
    nlp = language_of(engine, language)
    if nlp is None or not _is_known(nlp):
        return _by_engine(engine, texts, language)
    return _artifacts(engine, map(_Entities, _named(nlp, texts)), language)


def finds_entities(engine: NlpEngine, language: str) -> bool:
    """Whether the engine's pipeline has a part that may find entities."""
    nlp = language_of(engine, language)
    return nlp is None or not _is_known(nlp) or "ner" in nlp.pipe_names


class _Entities:
    """A doc of which only the entities are read: lists of all its tokens would be made for nobody."""

    def __init__(self, doc: Doc) -> None:
        self.ents = doc.ents

    def __iter__(self) -> Iterator[Token]:
        return iter(())


def _named(nlp: Language, texts: Sequence[str]) -> list[Doc]:
    """Docs with entities, by the NER alone, and by what it asks of the parser only where that can count.

    The NER never lets an entity go over the start of a sentence, which the parser sets. Without these starts it takes the same steps up to
    the first token that begins a sentence inside an entity. So a text without such an entity needs no parser.
    """
    heard = "tok2vec" in nlp.pipe_names and "ner" in nlp.get_pipe("tok2vec").listening_components
    ner = _present(nlp, "ner", "tok2vec") if heard else _present(nlp, "ner")
    docs = list(run(nlp, texts, wanted=ner))
    if _before(nlp, "parser", "ner"):
        parser = _present(nlp, "tok2vec", "parser")
        long = [place for place, doc in enumerate(docs) if any(len(entity) > 1 for entity in doc.ents)]
        parsed = run(nlp, [texts[place] for place in long], wanted=parser)
        cut = [place for place, other in zip(long, parsed, strict=True) if _cuts(other, docs[place])]
        for place, doc in zip(cut, run(nlp, [texts[place] for place in cut], wanted=parser | ner), strict=True):
            docs[place] = doc
    return docs


def run(nlp: Language, texts: Iterable[str], *, wanted: frozenset[str]) -> Iterator[Doc]:
    """Docs by the wanted parts of a pipeline."""
    return nlp.pipe(texts, batch_size=_BATCH, disable=[name for name in nlp.pipe_names if name not in wanted])


def _cuts(parsed: Doc, doc: Doc) -> bool:
    """Whether a sentence begins inside an entity."""
    return any(parsed[place].is_sent_start for entity in doc.ents for place in range(entity.start + 1, entity.end))


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


def _by_engine(engine: NlpEngine, texts: Sequence[str], language: str) -> Iterator[NlpArtifacts]:
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
