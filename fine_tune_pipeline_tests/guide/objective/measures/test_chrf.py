import random

import pytest
from sacrebleu.metrics import CHRF

from fine_tune_pipeline.guide.objective.figures import figure
from fine_tune_pipeline.guide.objective.measures.item import Item
from fine_tune_pipeline.guide.objective.metrics import metric_named, score_one
from fine_tune_pipeline.guide.objective.task import Task

TEXT = Task(type="generation")
METRIC = metric_named("chrf", TEXT)


def text(draw: random.Random) -> str:
    return " ".join("".join(draw.choice("abcé字") for _ in range(draw.randint(1, 5))) for _ in range(draw.randint(1, 8)))


@pytest.mark.parametrize("seed", range(40))
def test_chrf_of_all_texts_equals_sacrebleus(seed: int):
    draw = random.Random(seed)
    given = [Item(draw.choice([text(draw), ""]), text(draw), TEXT) for _ in range(draw.randint(1, 12))]
    theirs = CHRF().corpus_score([item.prediction for item in given], [[item.reference for item in given]]).score
    assert figure(METRIC, given) == pytest.approx(theirs / 100, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_chrf_of_one_text_equals_sacrebleus(seed: int):
    draw = random.Random(seed)
    one, other = text(draw), text(draw)
    ours = score_one(one, other, task=TEXT, metrics=["chrf"])["chrf"]
    assert ours == pytest.approx(CHRF().sentence_score(one, [other]).score / 100, abs=1e-12)


def test_chrf_of_empty_texts_is_a_number():
    assert [score_one(one, other, task=TEXT, metrics=["chrf"])["chrf"] for one, other in (("", ""), ("", "a"), ("a", ""))] == [1, 0, 0]
