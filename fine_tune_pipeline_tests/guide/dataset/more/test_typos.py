"""Slips are small, in plain words only, and the same each time."""

import difflib

import pytest

from fine_tune_pipeline.guide.dataset.more.typos import NEIGHBOURS, with_typos

TEXT = "My replacement card has never arrived, please send another one to the branch in Leeds"


def test_the_same_text_and_seed_give_the_same_slips_and_another_seed_others():
    assert with_typos(TEXT, share=0.3, seed="1") == with_typos(TEXT, share=0.3, seed="1")
    assert len({with_typos(TEXT, share=0.3, seed=str(seed)) for seed in range(20)}) > 15


@pytest.mark.parametrize(("share", "changed"), [(0.01, 1), (0.5, 4), (1.0, 9)])
def test_the_share_of_words_is_kept_and_at_least_one_slips(share, changed):
    words = zip(TEXT.split(), with_typos(TEXT, share=share, seed="0").split(), strict=True)
    assert sum(before != after for before, after in words) == changed


def test_a_slip_is_one_key_and_leaves_the_first_letter():
    for seed in range(200):
        slipped = with_typos("arrived", share=1, seed=str(seed))
        assert slipped[0] == "a"
        assert abs(len(slipped) - 7) <= 1
        assert difflib.SequenceMatcher(None, "arrived", slipped).ratio() > 0.7


@pytest.mark.parametrize(
    "text", ["", "I am at it", "<PERSON> <EMAIL_ADDRESS>", "ann@fruit.example", "b0de3d2d18 4929-1234", "https://fruit.example/x"]
)
def test_short_words_numbers_addresses_and_placeholders_stay(text):
    assert with_typos(text, share=1, seed="0") == text


def test_neighbours_lie_beside_above_or_below():
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(NEIGHBOURS["q"]) == set("wa")
    assert all(letter in NEIGHBOURS[near] for letter, others in NEIGHBOURS.items() for near in others)
