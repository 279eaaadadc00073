"""What lemmas a token may get, against those that the pipeline gives."""

import random

import pytest
import spacy

from fine_tune_pipeline.programs.pii.context_bounds import possible_lemmas
from fine_tune_pipeline.programs.pii.scrubbing import stock_engine
from fine_tune_pipeline_tests.programs.pii.analyzers import DATA, shared_texts
from fine_tune_pipeline_tests.programs.pii.hostile_texts import hostile_texts

TEXTS = [
    "I'm not sure it's ours, ain't it? Let's see: they've gonna sell nothin' and y'all gotta go. C'm on!",
    "Be quick: BE is a country. Numbers numbered, numbering; the licences of drivers who were driving; IDs and phones",
]


def test_every_lemma_of_the_model_is_among_those_that_were_possible():
    nlp = stock_engine().nlp_engine.get_nlp("en")
    lemmas = possible_lemmas(nlp)
    assert lemmas is not None
    shared = [text for _, text in shared_texts() if len(text) < 1000] if DATA.exists() else []
    texts = [*TEXTS, *hostile_texts(60, seed=12), *random.Random(8).sample(shared, min(len(shared), 150))]
    impossible = [(token.text, token.lemma_) for doc in nlp.pipe(texts) for token in doc if token.lemma_.lower() not in lemmas(token.text)]
    assert impossible == []
    assert len(lemmas("numbers")) < 6


@pytest.mark.parametrize(
    ("tokens", "index", "word", "possible"),
    [
        ([{"LOWER": "ca"}, {"LOWER": "n't"}], 0, "CA", {"x"}),
        ([{"LOWER": "ca"}, {"LOWER": "n't"}], 1, "ca", set()),
        ([{"TAG": "RB", "LOWER": {"IN": ["not", "nt"]}}], 0, "nt", {"x"}),
        ([{"LOWER": {"REGEX": "^n[ou]t"}}], 0, "Nothing", {"x"}),
        ([{"LOWER": {"REGEX": "^n[ou]t"}}], 0, "knot", set()),
    ],
)
def test_a_rule_gives_its_lemma_to_the_token_it_names(tokens, index, word, possible):
    nlp = spacy.blank("en")
    nlp.add_pipe("attribute_ruler").add([tokens], {"LEMMA": "X"}, index=index)
    assert possible_lemmas(nlp)(word) == {"", *possible}


@pytest.mark.parametrize("tokens", [[{"TAG": "NN"}], [{"LOWER": "a", "OP": "+"}, {"LOWER": "b"}], [{"LOWER": {"NOT_IN": ["a"]}}]])
def test_nothing_is_told_of_a_rule_that_may_name_any_token(tokens):
    nlp = spacy.blank("en")
    nlp.add_pipe("attribute_ruler").add([tokens], {"LEMMA": "X"})
    assert possible_lemmas(nlp) is None
