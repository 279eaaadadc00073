"""The fast analyzer against Presidio's own: the same spans, types and scores, whatever is asked."""

import random

import pytest
from presidio_analyzer import EntityRecognizer, Pattern, PatternRecognizer, RecognizerResult

from fine_tune_pipeline.programs.pii import pattern_filter
from fine_tune_pipeline.programs.pii.fast_analyzer import FastAnalyzer
from fine_tune_pipeline.programs.pii.scrubbing import stock_engine
from fine_tune_pipeline_tests.programs.pii.analyzers import DATA, findings, pattern_engine, shared_texts
from fine_tune_pipeline_tests.programs.pii.hostile_texts import hostile_texts

TEXTS = [
    "",
    " ",
    "\n\n",
    "my phone number is 312-867-5309",
    "call 312 867 5309 or +44 7700 900518x12#",
    "card 4111 1111 1111 1111, ssn 536-90-4399",
    "I checked the account 123456789012 twice",
    "visa: 4111111111111111; the driving license is A1234567",
    "call\u00a0+1(312)5550147",
    "üñï@é.fr",
    "Julia Fischer of Bank of America met Barack Obama in New York last Monday. Thanks, Anna",
    "3 May 2024 and 05/06/2024, date: 2024-01-02",
]


@pytest.fixture(scope="module")
def patterns():
    return pattern_engine()


@pytest.fixture(scope="module")
def fast(patterns):
    return FastAnalyzer(patterns)


@pytest.fixture(scope="module")
def model():
    return stock_engine()


def differing(fast, stock, texts, **options):
    together = fast.analyze_iterator(texts, "en", **options)
    return [
        (text, findings(found), findings(want))
        for text, found in zip(texts, together, strict=True)
        if findings(found) != findings(want := stock.analyze(text, "en", **options))
    ]


def test_hostile_texts_have_the_findings_of_presidio(fast, patterns):
    assert differing(fast, patterns, [*TEXTS, *hostile_texts(100, seed=1)]) == []


def test_without_hyperscan_too(patterns, monkeypatch):
    monkeypatch.setattr(pattern_filter, "hyperscan", None)
    assert differing(FastAnalyzer(patterns), patterns, [*TEXTS, *hostile_texts(60, seed=0)]) == []


@pytest.mark.parametrize("entities", [None, ["PERSON", "PHONE_NUMBER", "US_SSN", "US_BANK_NUMBER"], ["DATE_TIME"], ["CREDIT_CARD"]])
def test_with_the_model_too(model, entities):
    texts = [*TEXTS, *hostile_texts(20, seed=3)]
    assert differing(FastAnalyzer(model), model, texts, entities=entities, score_threshold=0.4) == []


@pytest.mark.skipif(not DATA.exists(), reason="the shared texts are not here")
def test_texts_of_all_kinds_have_the_findings_of_presidio(model):
    texts = random.Random(5).sample([text for _, text in shared_texts() if len(text) < 1000], 60)
    assert differing(FastAnalyzer(model), model, texts) == []


@pytest.mark.parametrize(
    "options",
    [
        {"allow_list": ["312-867-5309", "May"]},
        {"allow_list": [r"^\d{3}-"], "allow_list_match": "regex"},
        {"context": ["Phone", "account"]},
        {"score_threshold": 0.7},
        {"score_threshold": 0.0, "entities": ["US_BANK_NUMBER", "US_DRIVER_LICENSE"]},
    ],
)
def test_options_are_presidios(fast, patterns, options):
    assert differing(fast, patterns, TEXTS, **options) == []


def test_a_single_text_and_a_request_for_details_are_answered_too(fast, patterns):
    text = "my phone number is 312-867-5309"
    assert findings(fast.analyze(text, "en")) == findings(patterns.analyze(text, "en"))
    told = fast.analyze(text, "en", return_decision_process=True)
    assert findings(told) == findings(patterns.analyze(text, "en"))
    assert told[0].analysis_explanation is not None


class Capitals(EntityRecognizer):
    """A user's recogniser that reads lemmas, gives the results no metadata, and raises scores by itself."""

    def load(self):
        pass

    def analyze(self, text, entities, nlp_artifacts):
        words = [token for token, lemma in zip(nlp_artifacts.tokens, nlp_artifacts.lemmas, strict=True) if token.text.isupper()]
        return [RecognizerResult("CAPITALS", word.idx, word.idx + len(word), 0.3) for word in words]

    def enhance_using_context(self, text, raw_recognizer_results, other_raw_recognizer_results, nlp_artifacts, context=None):
        for result in raw_recognizer_results:
            result.score = 0.5 if other_raw_recognizer_results else result.score
            result.recognition_metadata[RecognizerResult.IS_SCORE_ENHANCED_BY_CONTEXT_KEY] = True
        return raw_recognizer_results


class Doubled(PatternRecognizer):
    """A user's recogniser that finds more than its patterns match."""

    def analyze(self, text, entities, nlp_artifacts=None, regex_flags=None):
        more = [RecognizerResult("WORD", 0, 1, 0.2)] if text else []
        return super().analyze(text, entities, nlp_artifacts, regex_flags) + more


@pytest.mark.parametrize(
    "own",
    [
        Capitals(supported_entities=["CAPITALS"], context=["call"]),
        Doubled("WORD", patterns=[Pattern("word", "twice", 0.3)], context=["account"]),
        PatternRecognizer("TITLE", deny_list=["Mr.", "Mrs.", "ſir"], context=["card"]),
        PatternRecognizer("ODD", patterns=[Pattern("fuzzy", r"(?:phone){e<=1}", 0.3), Pattern("no digits", r"[^\d\s]{9,}(?<!_)", 0.3)]),
        PatternRecognizer("ODD", patterns=[Pattern("empty", "x*", 0.3), Pattern("letters", r"\p{Lu}\p{Ll}+|é", 0.3)], global_regex_flags=0),
    ],
)
def test_a_recogniser_that_is_added_later_is_called_as_presidio_does(own, monkeypatch):
    # Every change of the registry makes a new filter: two seconds for Hyperscan.
    monkeypatch.setattr(pattern_filter, "hyperscan", None)
    stock = pattern_engine()
    fast = FastAnalyzer(stock)
    fast.analyze("before", "en")
    stock.registry.add_recognizer(own)
    texts = [*TEXTS, "Mr. X and Mrs. Y call ME on 312-867-5309", "MR. phne fone \u0301abcdefghi_ ſir sir", *hostile_texts(10, seed=9)]
    assert differing(fast, stock, texts) == []
    own.score_thresholds = {"default": 0.45}
    assert differing(fast, stock, texts) == []


def test_the_same_text_is_looked_at_once_and_each_gets_results_of_its_own(patterns, monkeypatch):
    seen = []
    filter_made = pattern_filter.pattern_filter

    def counted(expressions):
        inner = filter_made(expressions)
        return lambda text: (seen.append(text), inner(text))[1]

    monkeypatch.setattr("fine_tune_pipeline.programs.pii.fast_analyzer.pattern_filter", counted)
    first, second = FastAnalyzer(patterns).analyze_iterator(["call 312-867-5309"] * 2, "en")
    assert seen == ["call 312-867-5309"]
    assert findings(first) == findings(second)
    assert all(one is not other for one, other in zip(first, second, strict=True))
