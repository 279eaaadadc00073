"""Agreement between reviewers of examples; the figures themselves are tested in people/test_agreement.py."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from fine_tune_pipeline.guide.dataset.review.agreement import agreement
from fine_tune_pipeline.guide.dataset.review.verdicts import VERDICTS, Verdict


def given(*rows, people=("Kim", "Lee")):
    """Verdicts on rows: a word for each of the people, `-` where one did not look."""
    return [
        Verdict(f"r{number}", word, person, "pear" if word == "fix" else None, content=f"c{number}")
        for number, row in enumerate(rows)
        for person, word in zip(people, row.split(), strict=True)
        if word != "-"
    ]


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed):
    draw = np.random.default_rng(seed)
    first = draw.integers(0, 3, 40)
    second = np.where(draw.random(40) < 0.6, first, draw.integers(0, 3, 40))
    rows = [f"{VERDICTS[a]} {VERDICTS[b]}" for a, b in zip(first, second, strict=True)]
    found = agreement(given(*rows), seed=0)
    assert found.beyond_chance.name == "Cohen's kappa"
    assert found.beyond_chance.value == pytest.approx(cohen_kappa_score(first, second))
    assert found.agree == (first == second).sum()


def test_many_people_in_changing_pairs_are_compared_by_alpha():
    rows = given("accept accept -", "- reject reject", "accept - accept", "reject - accept", people=("Kim", "Lee", "Max"))
    found = agreement(rows, seed=0)
    assert found.beyond_chance.name == "Krippendorff's alpha"
    assert (found.rows, found.agree) == (4, 3)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Two people who agree with kappa 0.6 by design, 100 times on 60 rows."""
    held, draw = 0, np.random.default_rng(0)
    for _ in range(100):
        first = draw.integers(0, 2, 60)
        second = np.where(draw.random(60) < 0.6, first, draw.integers(0, 2, 60))
        found = agreement(given(*(f"{VERDICTS[a]} {VERDICTS[b]}" for a, b in zip(first, second, strict=True))), seed=0)
        held += found.beyond_chance.lower <= 0.6 <= found.beyond_chance.upper
    assert held >= 89


def test_what_a_person_said_first_counts_since_they_may_talk_later():
    talked = [*given("accept reject"), *given("- accept")]
    assert agreement(talked, seed=0).agree == 0


def test_two_corrections_agree_only_if_they_are_the_same():
    first, second = given("fix fix")
    other = Verdict("r0", "fix", "Max", "plum", content="c0")
    assert agreement([first, second], seed=0).agree == 1
    assert agreement([first, other], seed=0).agree == 0


def test_nothing_judged_twice_is_said_to_be_nothing():
    found = agreement(given("accept -", "- reject"), seed=0)
    assert (found.metadata(), found.table()) == ({"judged_twice": 0}, {})
    assert "not measured" in found.said


def test_when_all_say_the_same_chance_cannot_be_told_apart():
    found = agreement(given("accept accept", "accept accept"), seed=0)
    assert found.beyond_chance is None
    assert "agree on 2 (100%" in found.said
    assert found.lower < 0.5


def test_each_question_is_compared_where_two_people_answered_it():
    rows = [
        Verdict("r", "accept", "Kim", content="c", tone=True, private=True),
        Verdict("r", "accept", "Lee", content="c", tone=False, private=True),
        Verdict("s", "accept", "Kim", content="d", tone=True),
        Verdict("s", "accept", "Lee", content="d"),
    ]
    found = agreement(rows, seed=0)
    assert found.questions == {"correct": (0, 0), "complete": (0, 0), "tone": (1, 0), "private": (1, 1)}
    assert {name: value for name, value in found.table().items() if "alike" in name} == {
        "tone (alike)": "0 of 1",
        "private (alike)": "1 of 1",
    }
