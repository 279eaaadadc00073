"""Labels are judged by meaning where the encoder is there, and say so where it is not."""

import pytest

from fine_tune_pipeline.guide.dataset.cleaning import embedding
from fine_tune_pipeline_tests.guide.dataset.test_assets import House


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def test_labels_are_judged_by_words_and_meaning_and_nothing_of_the_program_stays(house):
    house.run()
    shown = house.shown("clean_examples")
    assert (shown["labels_judged"], shown["labels_judged_by"]) == (81, "words and meaning (MiniLM)")
    assert not (house.artifact("clean_examples").folder / "program").exists()


def test_without_the_encoder_words_decide_visibly_and_installing_it_is_a_reason_to_build_again(house, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(embedding, "PACKAGE", "no-such-package")
        house.run()
        assert house.shown("clean_examples")["labels_judged_by"] == "words"
    house.run()
    assert house.shown("clean_examples")["changed"] == "encoder"
