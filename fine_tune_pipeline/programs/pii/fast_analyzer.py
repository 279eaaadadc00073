"""Presidio's analyzer with less work: the same spans, types and scores as `AnalyzerEngine` gives with the same parts.

What is left out is only what cannot change a result: patterns that cannot match, regions where no number can be valid, lemmas where no
context word can count, pipes that nobody reads. Recognisers and enhancers of other classes are called as Presidio does.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex
from presidio_analyzer import AnalyzerEngine, BatchAnalyzerEngine, EntityRecognizer, PatternRecognizer, RecognizerResult
from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine
from presidio_analyzer.predefined_recognizers import IbanRecognizer, PhoneRecognizer, SpacyRecognizer

from fine_tune_pipeline.programs.pii.context_bounds import ContextBounds
from fine_tune_pipeline.programs.pii.pattern_filter import Filter, pattern_filter
from fine_tune_pipeline.programs.pii.phone_windows import PhoneWindows
from fine_tune_pipeline.programs.pii.some_pipes import Reading, finds_entities, language_of, with_entities, with_lemmas

_BATCH = 256
_FLAGS = regex.DOTALL | regex.MULTILINE | regex.IGNORECASE
_ID = RecognizerResult.RECOGNIZER_IDENTIFIER_KEY
_NAME = RecognizerResult.RECOGNIZER_NAME_KEY
_RAISED = RecognizerResult.IS_SCORE_ENHANCED_BY_CONTEXT_KEY

_EVERY_DETAIL = ("return_decision_process", "ad_hoc_recognizers", "nlp_artifacts")
"""Options whose requests Presidio itself answers."""


class LazyArtifacts(NlpArtifacts):
    """What the NLP engine makes of a text, made when somebody first looks at it."""

    def __init__(self, engine: NlpEngine, text: str, language: str) -> None:
        self._make = lambda: engine.process_text(text, language)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_make" not in self.__dict__:
            raise AttributeError(name)
        self.__dict__.update(vars(self.__dict__.pop("_make")()))
        return getattr(self, name)

    def to_json(self) -> str:
        len(self.tokens)
        return str(super().to_json())


@dataclass(frozen=True)
class _Plan:
    """Who is asked for what, for one language and one choice of entities."""

    entities: list[str]
    recognizers: list[EntityRecognizer]
    patterns: list[PatternRecognizer]
    """Copies of recognisers that have one pattern each; those of one recogniser share its identifier, and stand together."""
    may_match: Filter
    phones: list[PhoneWindows]
    names: list[SpacyRecognizer]
    others: list[EntityRecognizer]
    by_id: dict[str, EntityRecognizer]
    own_context: list[EntityRecognizer]
    """Recognisers with their own idea of context."""


@dataclass
class _Text:
    """A text on its way."""

    reading: Reading
    results: list[RecognizerResult] = field(default_factory=list)
    undecided: list[RecognizerResult] = field(default_factory=list)
    """Results whose score may depend on lemmas."""

    @property
    def text(self) -> str:
        return self.reading.text


@dataclass(frozen=True)
class _Asked:
    """What the caller asked for, beside texts and entities."""

    language: str
    score_threshold: float | None = None
    context: list[str] | None = None
    allow_list: list[str] | None = None
    allow_list_match: str = "exact"
    regex_flags: int = _FLAGS


class FastAnalyzer(AnalyzerEngine):
    """Takes the parts of a configured engine. Give it many texts at once (`analyze_iterator`): the model is much quicker then."""

    def __init__(self, engine: AnalyzerEngine) -> None:
        super().__init__(
            registry=engine.registry,
            nlp_engine=engine.nlp_engine,
            app_tracer=engine.app_tracer,
            log_decision_process=engine.log_decision_process,
            default_score_threshold=engine.default_score_threshold,
            supported_languages=engine.supported_languages,
            context_aware_enhancer=engine.context_aware_enhancer,
        )
        self._plans: dict[Any, _Plan] = {}
        self._bounds: dict[str, ContextBounds | None] = {}

    def analyze(self, text: str, language: str, entities: list[str] | None = None, **options: Any) -> list[RecognizerResult]:
        """Find personal data in one text; arguments and results as `AnalyzerEngine.analyze`."""
        if self.log_decision_process or any(options.get(name) for name in _EVERY_DETAIL):
            return list(super().analyze(text, language, entities, **options))
        return self.analyze_iterator([text], language, entities=entities, **options)[0]

    def analyze_iterator(
        self, texts: Iterable[str], language: str, batch_size: int = _BATCH, n_process: int = 1, **options: Any
    ) -> list[list[RecognizerResult]]:
        """Find personal data in many texts; arguments and results as `BatchAnalyzerEngine.analyze_iterator`.

        `n_process` is taken for the sake of that interface, and has no use: copying what a second process finds costs more than it saves.
        """
        if self.log_decision_process or any(options.get(name) for name in _EVERY_DETAIL):
            return list(BatchAnalyzerEngine(self).analyze_iterator(texts, language, batch_size, n_process, **options))
        given = [str(text) for text in texts]
        once = list(dict.fromkeys(given))
        plan = self._plan(language, options.pop("entities", None))
        asked = _Asked(language, **{name: value for name, value in options.items() if name not in (*_EVERY_DETAIL, "correlation_id")})
        found: dict[str, list[RecognizerResult]] = {}
        for start in range(0, len(once), batch_size):
            batch = once[start : start + batch_size]
            found.update(zip(batch, self._of_batch(batch, plan, asked), strict=True))
        return list(_each(given, found))

    def _of_batch(self, texts: Sequence[str], plan: _Plan, asked: _Asked) -> Iterator[list[RecognizerResult]]:
        nlp = language_of(self.nlp_engine, asked.language)
        works = [_Text(Reading(text, nlp), self._without_model(text, plan, asked.language)) for text in texts]
        if plan.names and finds_entities(self.nlp_engine, asked.language):
            readings = [work.reading for work in works]
            for place, artifacts in with_entities(self.nlp_engine, readings, asked.language, plan.entities):
                for recognizer in plan.names:
                    works[place].results += recognizer.analyze(texts[place], plan.entities, artifacts)
        for work in works:
            if work.results:
                self._raise_certain(work, plan, asked)
        undecided = [work for work in works if work.undecided]
        if undecided:
            lemmas = with_lemmas(self.nlp_engine, [work.reading for work in undecided], asked.language)
            for work, artifacts in zip(undecided, lemmas, strict=True):
                work.results += self._raised(work.text, work.undecided, artifacts, plan, asked)
        for work in works:
            yield self._finished(work, plan, asked) if work.results else []

    def _without_model(self, text: str, plan: _Plan, language: str) -> list[RecognizerResult]:
        """Findings of all recognisers but those that read the model's entities."""
        found: list[RecognizerResult] = []
        matching: dict[str, list[PatternRecognizer]] = defaultdict(list)
        for place in plan.may_match(text):
            matching[plan.patterns[place].id].append(plan.patterns[place])
        for copies in matching.values():
            results = [result for one in copies for result in one.analyze(text, plan.entities)]
            # Presidio does so before it looks at context, and with all patterns of a recogniser together.
            found += EntityRecognizer.remove_duplicates(results) if len(copies) > 1 and len(results) > 1 else results
        for phones in plan.phones:
            results = phones(text, plan.entities)
            found += EntityRecognizer.remove_duplicates(results) if len(results) > 1 else results
        if plan.others:
            artifacts = LazyArtifacts(self.nlp_engine, text, language)
            for recognizer in plan.others:
                found += _signed(recognizer.analyze(text=text, entities=plan.entities, nlp_artifacts=artifacts), recognizer)
        return found

    def _raise_certain(self, work: _Text, plan: _Plan, asked: _Asked) -> None:
        """Raise the scores that certainly rise, and set those aside that need lemmas."""
        enhancer = self.context_aware_enhancer
        if plan.own_context or type(enhancer) is not LemmaContextAwareEnhancer or asked.context:
            work.results, work.undecided = [], work.results
            return
        tokens = None
        bounds = self._bounds_of(asked.language)
        kept = []
        for result in work.results:
            words = self._context_words(result, plan, asked)
            if not words:
                kept.append(result)
                continue
            if bounds is not None:
                tokens = bounds.tokens(work.reading.doc) if tokens is None else tokens
                raised = bounds.raised(tokens, result.start, words)
            if bounds is None or raised == "unknown":
                work.undecided.append(result)
                continue
            if raised == "yes":
                result = copy.copy(result)
                result.score = _raised_score(result.score, enhancer)
            kept.append(result)
        work.results = kept

    def _context_words(self, result: RecognizerResult, plan: _Plan, asked: _Asked) -> Sequence[str]:
        """The words that could raise a result's score; none if it cannot rise, or stays below what is asked for even then."""
        recognizer = plan.by_id.get(result.recognition_metadata[_ID])
        if recognizer is None or not recognizer.context or result.recognition_metadata.get(_RAISED):
            return ()
        best = _raised_score(result.score, self.context_aware_enhancer)
        return () if best == result.score or best < self._threshold(result, plan, asked) else recognizer.context

    def _raised(
        self, text: str, results: list[RecognizerResult], artifacts: NlpArtifacts, plan: _Plan, asked: _Asked
    ) -> list[RecognizerResult]:
        """Results after Presidio's own look at their context."""
        if plan.own_context:
            by_id = {recognizer.id: [r for r in results if r.recognition_metadata[_ID] == recognizer.id] for recognizer in plan.recognizers}
            results = [
                result
                for recognizer in plan.recognizers
                for result in recognizer.enhance_using_context(
                    text=text,
                    raw_recognizer_results=by_id[recognizer.id],
                    other_raw_recognizer_results=[r for r in results if r.recognition_metadata[_ID] != recognizer.id],
                    nlp_artifacts=artifacts,
                    context=asked.context,
                )
            ]
        return list(
            self.context_aware_enhancer.enhance_using_context(
                text=text, raw_results=results, nlp_artifacts=artifacts, recognizers=plan.recognizers, context=asked.context
            )
        )

    def _finished(self, work: _Text, plan: _Plan, asked: _Asked) -> list[RecognizerResult]:
        results = [result for result in work.results if result.score >= self._threshold(result, plan, asked) and result.score != 0]
        if len(results) > 1:
            results = EntityRecognizer.remove_duplicates(results)
        if asked.allow_list:
            results = self._remove_allow_list(results, asked.allow_list, work.text, asked.regex_flags, asked.allow_list_match)
        for result in results:
            result.analysis_explanation = None
        return results

    def _threshold(self, result: RecognizerResult, plan: _Plan, asked: _Asked) -> float:
        """The score that a result needs: the caller's, else the recogniser's for the entity or for all, else the engine's."""
        if asked.score_threshold is not None:
            return asked.score_threshold
        recognizer = plan.by_id.get((result.recognition_metadata or {}).get(_ID, ""))
        thresholds = recognizer.score_thresholds if recognizer is not None else {}
        default = thresholds.get("default")
        found = thresholds.get(result.entity_type, self.default_score_threshold if default is None else default)
        return float(self.default_score_threshold if found is None else found)

    def _bounds_of(self, language: str) -> ContextBounds | None:
        if language not in self._bounds:
            nlp = language_of(self.nlp_engine, language)
            self._bounds[language] = None if nlp is None else ContextBounds(nlp, self.context_aware_enhancer)
        return self._bounds[language]

    def _plan(self, language: str, entities: list[str] | None) -> _Plan:
        key = (language, tuple(entities or ()), tuple(_state(recognizer) for recognizer in self.registry.recognizers))
        if key not in self._plans:
            # An engine has few: one per choice of entities, and one more whenever somebody changes the registry.
            recognizers = self.registry.get_recognizers(language=language, entities=entities, all_fields=not entities)
            self._plans[key] = _planned(recognizers, list(entities or self.get_supported_entities(language=language)))
        return self._plans[key]


def _state(recognizer: EntityRecognizer) -> tuple[Any, ...]:
    """What a plan takes over from a recogniser, so that a change makes a new plan."""
    patterns = getattr(recognizer, "patterns", None) or ()
    regions = getattr(recognizer, "supported_regions", ())
    return (recognizer, getattr(recognizer, "global_regex_flags", None), tuple(regions), *((each.regex, each.score) for each in patterns))


def _planned(recognizers: list[EntityRecognizer], entities: list[str]) -> _Plan:
    for recognizer in recognizers:
        if not recognizer.is_loaded:
            recognizer.load()
            recognizer.is_loaded = True
    patterned = [recognizer for recognizer in recognizers if _by_patterns_only(recognizer)]
    phoned = [recognizer for recognizer in recognizers if type(recognizer) is PhoneRecognizer]
    named = [recognizer for recognizer in recognizers if type(recognizer) is SpacyRecognizer]
    copies = [one for recognizer in patterned for one in _one_by_one(recognizer)]
    return _Plan(
        entities=entities,
        recognizers=recognizers,
        patterns=copies,
        may_match=pattern_filter([(one.patterns[0].regex, one.global_regex_flags) for one in copies]),
        phones=[PhoneWindows(recognizer) for recognizer in phoned],
        names=named,
        others=[recognizer for recognizer in recognizers if recognizer not in (*patterned, *phoned, *named)],
        by_id={recognizer.id: recognizer for recognizer in recognizers},
        own_context=[each for each in recognizers if type(each).enhance_using_context is not EntityRecognizer.enhance_using_context],
    )


def _by_patterns_only(recognizer: EntityRecognizer) -> bool:
    """Whether a recogniser finds nothing but what its patterns match."""
    if not isinstance(recognizer, PatternRecognizer) or "analyze" in vars(recognizer):
        return False
    return type(recognizer) is IbanRecognizer or type(recognizer).analyze is PatternRecognizer.analyze


def _one_by_one(recognizer: PatternRecognizer) -> Iterator[PatternRecognizer]:
    for pattern in recognizer.patterns or ():
        one = copy.copy(recognizer)
        one.patterns = [pattern]
        yield one


def _raised_score(score: float, enhancer: LemmaContextAwareEnhancer) -> float:
    return min(max(score + enhancer.context_similarity_factor, enhancer.min_score_with_context_similarity), EntityRecognizer.MAX_SCORE)


def _signed(results: list[RecognizerResult] | None, recognizer: EntityRecognizer) -> list[RecognizerResult]:
    """Results that say whose they are."""
    for result in results or ():
        result.recognition_metadata = result.recognition_metadata or {}
        result.recognition_metadata.setdefault(_ID, recognizer.id)
        result.recognition_metadata.setdefault(_NAME, recognizer.name)
    return results or []


def _each(texts: Iterable[str], found: dict[str, list[RecognizerResult]]) -> Iterator[list[RecognizerResult]]:
    """The results of each text; the second text that is the same gets results of its own."""
    given = set[str]()
    for text in texts:
        yield copy.deepcopy(found[text]) if text in given else found[text]
        given.add(text)
