"""Which examples people look at."""

from collections import Counter

from fine_tune_pipeline.guide.dataset.review.sample import choose, content_of, residue_sample
from fine_tune_pipeline.guide.dataset.review.verdicts import Settled, Verdict
from fine_tune_pipeline.guide.dataset.sources.collect import FEEDBACK
from fine_tune_pipeline.spec.dataset import ReviewSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, OPEN, example, ids
from fine_tune_pipeline_tests.guide.dataset.reviewing import experts, rows


def choose_from(examples, spec, seed=0, task=FRUIT):
    return choose(examples, spec, task=task, seed=seed)


def marked(id_, mark):
    return example(id_, f"odd {id_}", metadata={"marked": mark})


def test_experts_see_a_share_and_all_that_is_marked_or_comes_from_production():
    examples = [
        *rows(100),
        marked("m", "label_disagrees"),
        marked("p", "personal_data_unsure: PERSON"),
        example("f", "fixed", source=FEEDBACK),
    ]
    sample = choose_from(examples, experts())
    assert {"m", "p", "f"} < sample.ids
    assert len(sample.random) == round(0.2 * 103)
    assert {name: part.name for name, part in sample.part.items() if name in "mpf"} == {
        "m": "doubt", "p": "personal_data", "f": "correction",
    }  # fmt: skip


def test_the_random_part_depends_on_seed_and_content_only():
    once = choose_from(rows(100), experts())
    assert len(once.rows) == 20
    assert choose_from(rows(100)[::-1], experts()).random == once.random
    assert choose_from(rows(100), experts(), seed=1).random != once.random
    renamed = [example(f"other{number}", f"prompt {number}") for number in range(100)]
    assert {content_of(row) for row in choose_from(renamed, experts()).rows} == {content_of(row) for row in once.rows}


def test_nobody_is_asked_under_auto_accept():
    assert choose_from(rows(), ReviewSpec(policy="auto_accept")).rows == []


def test_of_each_class_enough_are_seen_one_of_each_cluster():
    apples = [example(f"a{n}", f"apple {n}", metadata={"cluster": f"a{n // 3}"}) for n in range(60)]
    pears = [example(f"p{n}", f"pear {n}", "pear", metadata={"cluster": f"p{n // 20}"}) for n in range(60)]
    sample = choose_from([*apples, *pears], experts(share=0.01, per_class=5))
    assert Counter(row.completion for row in sample.rows) == {"apple": 5, "pear": 3}
    clusters = [row.metadata["cluster"] for row in sample.rows]
    assert len(clusters) == len(set(clusters))


def test_rows_chosen_for_another_reason_count_for_their_class():
    flagged = [example(f"m{n}", f"odd {n}", metadata={"marked": "x"}) for n in range(6)]
    sample = choose_from([*flagged, *rows(50)], experts(share=0.001, per_class=5))
    assert len(sample.rows) == 7
    assert "coverage" not in {row["part"] for row in sample.table()}


def test_an_open_task_is_one_class():
    assert len(choose_from(rows(100), experts(share=0.01, per_class=20), task=OPEN).rows) == 20


def test_the_limit_takes_the_most_urgent_first_and_says_what_it_left_out():
    doubts = [marked(f"m{n}", "label_disagrees") for n in range(5)]
    personal = [marked(f"p{n}", "personal_data_unsure: PERSON") for n in range(3)]
    sample = choose_from([*rows(400), *doubts, *personal], experts(most=6, per_class=20))
    assert [(row["part"], row["rows"]) for row in sample.table()][:3] == [("personal_data", 3), ("doubt", 2), ("random", 1)]
    assert sample.left_out["doubt"] == 3
    assert len(sample.held_back) == 3
    assert len(sample.rows) == 6


def test_a_fifth_of_the_limit_is_kept_for_the_random_part():
    sample = choose_from([*rows(50), *(marked(f"m{n}", "x") for n in range(50))], experts(share=0.5, most=20))
    assert len(sample.rows) == 20
    assert len(sample.random) >= 4


def test_the_random_part_stays_fair_under_a_limit():
    """Marked rows that are random too stay in, while unmarked ones go: only the part before the first that went may be used."""
    marks = [marked(f"m{n}", "x") for n in range(50)]
    sample = choose_from([*rows(50), *marks], experts(share=0.5, most=60))
    whole = choose_from([*rows(50), *marks], experts(share=0.5))
    assert sample.random < whole.random
    assert 0 < sum(id_.startswith("m") for id_ in sample.random) < sum(id_.startswith("m") for id_ in whole.random)


def test_two_people_judge_a_share_of_what_is_handed_out():
    sample = choose_from(rows(200), experts(share=0.5, double_share=0.1))
    assert len(sample.twice) == 10
    assert sample.twice < sample.ids


def test_only_the_random_part_says_how_much_personal_data_is_left():
    examples = [*rows(20), marked("mm", "personal_data_unsure: PERSON")]
    sample = choose_from(examples, experts(share=0.5))
    assert "mm" not in sample.random
    settled = {}
    for number, row in enumerate(sample.rows):
        private = None if number == 0 else row.id != "mm" and number != 1
        verdict = Verdict(row.id, "accept", "Kim", private=private, content=content_of(row))
        settled[verdict.content] = Settled(verdict, ("Kim",))
    # Of 10 random rows one has no answer and one still holds some; the marked one does too, and does not count.
    assert residue_sample(settled, sample) == (9, 1)
    assert residue_sample({}, sample) == (0, 0)


def test_the_sample_keeps_the_order_of_the_data():
    sample = choose_from(rows(50), experts(share=0.5))
    assert ids(sample.rows) == sorted(ids(sample.rows), key=lambda id_: int(id_[1:]))
