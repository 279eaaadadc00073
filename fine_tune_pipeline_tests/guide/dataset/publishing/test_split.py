"""Sides are stable, like prompts stay together, classes get their share."""

import random
from collections import Counter

import pytest

from fine_tune_pipeline.guide.dataset.publishing.split import split
from fine_tune_pipeline.spec.dataset import SplitSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, example, ids

SPEC = SplitSpec(validation=0.15, test=0.2)
LONG = "my card was charged twice for one coffee at the station this morning"
LIKE = "my card was charged twice for one coffee at the airport this morning"


def rows(count, seed=0, **more):
    draw = random.Random(seed)
    return [
        example(f"r{seed}-{n}", " ".join(f"w{draw.randrange(10**6)}" for _ in range(8)), ("apple", "pear")[n % 2], **more)
        for n in range(count)
    ]


def sides(result):
    return {row.id: name for name, part in result.parts().items() for row in part}


def test_every_example_is_on_exactly_one_side_in_its_order():
    examples = rows(300)
    result = split(examples, spec=SPEC, task=FRUIT)
    assert sorted(sides(result)) == sorted(ids(examples))
    assert sum(len(part) for part in result.parts().values()) == 300
    assert ids(result.train) == [id_ for id_ in ids(examples) if sides(result)[id_] == "train"]


def test_shares_hold_for_the_whole_and_within_each_class():
    result = split(rows(2000), spec=SPEC, task=FRUIT)
    for part, share in ((result.test, 0.2), (result.validation, 0.15)):
        counts = Counter(row.completion for row in part)
        # Four standard deviations of a binomial of 1,000 draws are 0.05.
        assert all(abs(counts[label] / 1000 - share) < 0.05 for label in ("apple", "pear"))


def test_an_example_keeps_its_side_when_data_grows_or_is_reordered():
    examples = rows(600)
    before = sides(split(examples[:400], spec=SPEC, task=FRUIT))
    grown = sides(split(examples[::-1], spec=SPEC, task=FRUIT))
    assert {id_: grown[id_] for id_ in before} == before


def test_another_seed_gives_other_sides():
    examples = rows(200)
    other = split(examples, spec=SplitSpec(validation=0.15, test=0.2, seed=1), task=FRUIT)
    assert sides(other) != sides(split(examples, spec=SPEC, task=FRUIT))


@pytest.mark.parametrize("seed", range(8))
def test_every_class_gets_two_thirds_of_its_share_even_if_it_is_small(seed):
    examples = rows(60, seed=seed)
    result = split(examples, spec=SPEC, task=FRUIT)
    for part in (result.test, result.validation):
        counts = Counter(row.completion for row in part)
        # Of 30 rows a class, 20 % and 15 %: 6 and 4.5.
        assert min(counts["apple"], counts["pear"]) >= (4 if part is result.test else 3)


def test_like_prompts_are_on_one_side():
    pairs = [example(f"{n}{which}", f"{n} {text} {n}") for n in range(40) for which, text in (("a", LONG), ("b", LIKE))]
    distinct = [example(f"d{n}", f"{n * 7919} " * 9) for n in range(40)]
    found = sides(split([*distinct, *pairs], spec=SPEC, task=FRUIT))
    assert len({found[f"{n}{which}"] for n in range(40) for which in "ab"}) == 1
    assert len({found[f"d{n}"] for n in range(40)}) == 3


@pytest.mark.parametrize("name", ["cluster", "conversation"])
def test_what_an_earlier_step_put_in_one_cluster_or_conversation_stays_together(name):
    examples = [example(f"r{n}", row.prompt, metadata={name: f"c{n // 2}"}) for n, row in enumerate(rows(200))]
    found = sides(split(examples, spec=SPEC, task=FRUIT))
    assert all(found[f"r{n}"] == found[f"r{n + 1}"] for n in range(0, 200, 2))


def test_held_out_examples_are_the_test_and_nothing_else_is():
    held_out = rows(20, seed=9, held_out=True)
    result = split([*rows(200), *held_out], spec=SPEC, task=FRUIT)
    assert ids(result.test) == ids(held_out)
    assert result.by_held_out
    assert 10 <= len(result.validation) <= 50


def test_training_rows_that_became_like_a_held_out_one_are_quarantined():
    examples = [
        example("t", "card <CREDIT_CARD> was stolen today"),
        *rows(20),
        example("h", "card <CREDIT_CARD> was stolen today!", held_out=True),
    ]
    result = split(examples, spec=SPEC, task=FRUIT)
    assert [(row.id, row.reason) for row in result.quarantine] == [("t", "duplicate_of_held_out")]
    assert "t" not in sides(result)


SAID = "i was charged twice for the same coffee"


def test_rows_that_share_eight_words_are_on_one_side():
    pairs = [
        example(f"{n}{which}", f"{text} w{n}a w{n}b w{n}c w{n}d w{n}e w{n}f w{n}g w{n}h {text}")
        for n in range(60)
        for which, text in (("a", "x" * 90), ("b", "y" * 90))
    ]
    found = sides(split([*rows(40), *pairs], spec=SPEC, task=FRUIT))
    assert all(found[f"{n}a"] == found[f"{n}b"] for n in range(60))
    assert len({found[f"{n}a"] for n in range(60)}) == 3
    apart = sides(split([*rows(40), *pairs], spec=SplitSpec(validation=0.15, test=0.2, shared_words=None), task=FRUIT))
    assert any(apart[f"{n}a"] != apart[f"{n}b"] for n in range(60))


def test_training_rows_that_share_words_with_a_held_out_one_are_quarantined_and_named():
    own = [example("t", f"hello there, {SAID}, can you look into it please"), example("u", "my card was charged twice")]
    result = split([*own, *rows(20), example("h", f"At the station {SAID}!", held_out=True)], spec=SPEC, task=FRUIT)
    assert [(row.id, row.reason) for row in result.quarantine] == [("t", "shares_words_with_held_out")]
    assert f"`{SAID}` with h" in result.quarantine[0].detail
    assert "u" in sides(result)


def test_what_the_assistant_said_before_is_nobodys_own_words():
    before = [{"role": "system", "content": SAID}, {"role": "user", "content": "hm"}, {"role": "assistant", "content": SAID + " indeed"}]
    own = [example("t", "and why did that happen to me of all people", history=before)]
    result = split([*own, *rows(20), example("h", f"At the station {SAID}!", held_out=True)], spec=SPEC, task=FRUIT)
    assert result.quarantine == []
    asked = [example("t", "and then?", history=[{"role": "user", "content": SAID}])]
    result = split([*asked, *rows(20), example("h", f"At the station {SAID}!", held_out=True)], spec=SPEC, task=FRUIT)
    assert [row.id for row in result.quarantine] == ["t"]


def test_a_row_between_two_others_that_is_taken_out_does_not_let_them_part():
    words = " ".join(f"w{n}" for n in range(8))
    for n in range(30):
        three = [
            example(f"a{n}", f"{'x' * 99} {words}"),
            example(f"b{n}", f"{'y' * 50} {words} {SAID}"),
            example(f"c{n}", f"{'z' * 99} {words}"),
        ]
        held_out = example("h", f"{'q' * 90} {SAID}", held_out=True)
        result = split([*rows(20, seed=n), *three, held_out], spec=SplitSpec(validation=0.5, seed=n), task=FRUIT)
        found = sides(result)
        assert ids(result.quarantine) == [f"b{n}"]
        assert found[f"a{n}"] == found[f"c{n}"]


def test_a_group_too_large_for_any_part_is_training():
    chain_of_rows = [
        example(f"c{n}", " ".join(f"v{k}" for k in range(n * 8, n * 8 + 16)) + " " + f"{n * 7919} " * 20, ("apple", "pear")[n % 2])
        for n in range(60)
    ]
    for seed in range(6):
        spec = SplitSpec(validation=0.15, test=0.2, seed=seed)
        result = split([*rows(200), *chain_of_rows], spec=spec, task=FRUIT)
        assert {side for id_, side in sides(result).items() if id_.startswith("c")} == {"train"}
        assert 20 <= len(result.test) <= 70


def test_a_row_that_joins_a_group_at_its_end_moves_no_other():
    examples = rows(400)
    before = sides(split(examples, spec=SPEC, task=FRUIT))
    grown = [*examples, *(example(f"new{n}", f"{examples[n].prompt} and more") for n in range(0, 400, 10))]
    after = sides(split(grown, spec=SPEC, task=FRUIT))
    assert sum(after[id_] != before[id_] for id_ in before) <= 8  # the ones that fill up a class may go back
    assert all(after[f"new{n}"] == after[examples[n].id] for n in range(0, 400, 10))
