"""The entity recogniser's steps against spaCy's own: the same entities, wherever sentences begin."""

import random

import pytest
import spacy

from fine_tune_pipeline.programs.pii import some_pipes
from fine_tune_pipeline.programs.pii.entity_steps import Entity, EntitySteps
from fine_tune_pipeline.programs.pii.fast_analyzer import FastAnalyzer
from fine_tune_pipeline.programs.pii.scrubbing import stock_engine
from fine_tune_pipeline_tests.programs.pii.analyzers import DATA, findings, shared_texts
from fine_tune_pipeline_tests.programs.pii.hostile_texts import hostile_texts

TEXTS = [
    "Julia Fischer of Bank of America met Barack Obama in New York City last Monday at half past nine. Thanks, Anna",
    "Thanks Anna Smith\nBest regards Tom\n\nLondon Bridge Road 12, New  York, the United Arab Emirates",
    "between 5 and 10 million dollars in the first quarter of 2019, up 12.5 percent from the fourth quarter of 2018 at Apple Inc",
    " ",
    "\n Paris",
    "Paris",
    "New York",
]


@pytest.fixture(scope="module")
def engine():
    return stock_engine()


@pytest.fixture(scope="module")
def nlp(engine):
    return engine.nlp_engine.get_nlp("en")


@pytest.fixture(scope="module")
def texts():
    shared = [text for _, text in shared_texts() if len(text) < 1000] if DATA.exists() else []
    return [*TEXTS, *hostile_texts(60, seed=5), *random.Random(3).sample(shared, min(len(shared), 200))]


def begun(nlp, text, starts):
    """A doc in which sentences begin at these tokens and nowhere else."""
    doc = nlp.make_doc(text)
    for token in doc:
        token.is_sent_start = token.i == 0 or token.i in starts
    return doc


def by_spacy(nlp, docs):
    return [[Entity(one.start, one.end, one.label_) for one in doc.ents] for doc in nlp.get_pipe("ner").pipe(iter(docs))]


def test_entities_are_spacys(nlp, texts):
    steps = EntitySteps.of(nlp.get_pipe("ner"))
    found = [each.entities() for each in steps([nlp.make_doc(text) for text in texts])]
    assert found == by_spacy(nlp, [nlp.make_doc(text) for text in texts])
    assert sum(map(len, found)) > 20


def test_no_entity_goes_over_the_start_of_a_sentence_as_with_spacy(nlp, texts):
    steps, draw = EntitySteps.of(nlp.get_pipe("ner")), random.Random(7)
    starts = [frozenset(place for place in range(1, len(nlp.make_doc(text))) if draw.random() < 0.4) for text in texts]
    taken = steps([nlp.make_doc(text) for text in texts])
    found = [each.entities(begin) for each, begin in zip(taken, starts, strict=True)]
    assert found == by_spacy(nlp, [begun(nlp, text, begin) for text, begin in zip(texts, starts, strict=True)])


@pytest.mark.parametrize("labels", [{"PERSON", "GPE", "LOC", "FAC"}, {"DATE", "CARDINAL"}, {"ORG"}])
def test_where_no_start_of_a_sentence_counts_any_starts_leave_the_wanted_entities_as_they_are(nlp, texts, labels):
    steps, draw = EntitySteps.of(nlp.get_pipe("ner")), random.Random(9)
    sure = 0
    for each in steps([nlp.make_doc(text) for text in texts]):
        found = each.entities()
        if each.may_change(found, labels.__contains__) or all(entity.end - entity.start == 1 for entity in found):
            continue
        sure += 1
        wanted = [entity for entity in found if entity.label in labels]
        for share in (1, 0.7, 0.5, 0.3, 0.2, 0.1):
            starts = frozenset(place for place in range(1, len(each.doc)) if draw.random() < share)
            assert [entity for entity in each.entities(starts) if entity.label in labels] == wanted
    assert sure > 3


def test_a_start_that_splits_a_wanted_entity_counts_and_one_in_an_unwanted_one_does_not(nlp):
    [each] = EntitySteps.of(nlp.get_pipe("ner"))([nlp.make_doc("Julia Fischer paid 5 million dollars")])
    found = each.entities()
    assert found == [Entity(0, 2, "PERSON"), Entity(3, 6, "MONEY")]
    assert each.may_change(found, {"PERSON"}.__contains__)
    assert not each.may_change(found, {"GPE"}.__contains__)


def test_the_parser_reads_only_texts_in_which_a_wanted_entity_could_be_split(engine, monkeypatch):
    parsed = []
    run = some_pipes.run

    def counted(nlp, texts, *, wanted):
        texts = list(texts)
        if "parser" in wanted:
            parsed.extend(str(text) for text in texts)
        return run(nlp, texts, wanted=wanted)

    monkeypatch.setattr(some_pipes, "run", counted)
    fast = FastAnalyzer(engine)
    texts = ["Julia Fischer called", "Julia called in the first quarter of 2019", "nobody called"]
    fast.analyze_iterator(texts, "en", entities=["PERSON", "LOCATION"])
    assert parsed == ["Julia Fischer called"]
    fast.analyze_iterator(texts, "en", entities=["DATE_TIME"])
    assert parsed[1:] == ["Julia called in the first quarter of 2019"]


def test_long_texts_go_through_one_after_the_other(engine, monkeypatch):
    sizes = []
    of_group = some_pipes._of_group

    def counted(nlp, docs, steps, wanted):
        sizes.append([len(doc) for doc in docs])
        return of_group(nlp, docs, steps, wanted)

    monkeypatch.setattr(some_pipes, "_of_group", counted)
    texts = ["", "Julia Fischer called. " * 500, "Tom Lund called. " * 500, "", "hello", "Anna Lund called", ""]
    found = FastAnalyzer(engine).analyze_iterator(texts, "en", entities=["PERSON"])
    assert [sum(size > 0 for size in group) for group in sizes] == [1, 1, 2]
    assert [len(each) > 0 for each in found] == [False, True, True, False, False, True, False]


@pytest.mark.parametrize("change", [{"use_upper": False}, {"extra_state_tokens": True}, {"maxout_pieces": 1}])
def test_a_recogniser_with_other_steps_is_left_to_spacy(change):
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy.TransitionBasedParser.v2", "state_type": "ner", "hidden_width": 8, "maxout_pieces": 2}
    tok2vec = {"@architectures": "spacy.HashEmbedCNN.v2", "width": 8, "depth": 1, "embed_size": 20, "pretrained_vectors": None}
    rest = {"window_size": 1, "maxout_pieces": 2, "subword_features": True}
    shape = {"extra_state_tokens": False, "use_upper": True, "tok2vec": tok2vec | rest}
    ner = nlp.add_pipe("ner", config={"model": model | shape | change})
    ner.add_label("PERSON")
    nlp.initialize()
    assert EntitySteps.of(ner) is None


def test_a_pipeline_whose_recogniser_takes_other_steps_has_the_findings_of_presidio_too(engine, monkeypatch):
    monkeypatch.setattr(EntitySteps, "of", lambda ner: None)
    fast = FastAnalyzer(engine)
    for text, found in zip(TEXTS, fast.analyze_iterator(TEXTS, "en"), strict=True):
        assert findings(found) == findings(engine.analyze(text, "en"))
