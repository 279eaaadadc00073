"""What the traffic log gives back to step 3."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Store, content_of
from fine_tune_pipeline.artifacts.traffic import Feedback, TrafficLog
from fine_tune_pipeline.guide.dataset.cleaning.rules import refused
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import deduplicate
from fine_tune_pipeline.guide.dataset.publishing.split import split
from fine_tune_pipeline.guide.dataset.review.sample import DOUBT, choose
from fine_tune_pipeline.guide.dataset.sources.production import FAR, FEEDBACK, REQUEST, Production, drawn, production_rows
from fine_tune_pipeline.guide.dataset.steps import MARK
from fine_tune_pipeline.spec.dataset import CleanSpec, ReviewSpec, SplitSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, example, ids
from fine_tune_pipeline_tests.guide.dataset.publishing.test_split import rows, sides
from fine_tune_pipeline_tests.guide.deployment.release.log_rows import logged


def use_case(*, policy: str = "experts", feedback: bool = True, **retrain: object) -> UseCaseSpec:
    return UseCaseSpec.model_validate(
        {
            "name": "bank",
            "objective": {
                "goal": "Name the fruit that a customer means",
                "task": {"type": "classification", "labels": ["apple", "pear"]},
                "success": [{"metric": "accuracy", "at_least": 0.6}],
            },
            "dataset": {"sources": [{"type": "jsonl", "path": "rows.jsonl"}], "review": {"policy": policy}, "feedback": feedback},
            "deployment": {"retrain": retrain},
        }
    )


@pytest.fixture
def log(tmp_path):
    """Five requests: liked, not liked, corrected, unlike the others, failed."""
    made = TrafficLog.at(tmp_path)
    fields = ({}, {}, {}, {}, {"status": 500})
    made.append([logged(n, answer_scrubbed="apple", **more).request for n, more in enumerate(fields)])
    made.feedback(Feedback("r0", thumb="up"))
    made.feedback(Feedback("r1", thumb="down"))
    made.feedback(Feedback("r2", thumb="down", corrected="pear"))
    made.feedback(Feedback("r4", thumb="down"))
    return made


@pytest.fixture
def store(tmp_path):
    """Its drift report has found that two requests, one of them corrected since, are unlike all others."""
    made = Store.at(str(tmp_path / "store"))
    with made.draft("bank", content_of(asset="drift_report", version=1, what={}, upstream={})) as draft:
        (draft.folder / FAR).write_text("".join(json.dumps({"id": id_}) + "\n" for id_ in ("r2", "r3")), encoding="utf-8")
        draft.finish(Built())
    return made


def test_experts_are_asked_about_disliked_and_far_requests_that_nobody_has_corrected(log, store):
    found = production_rows(use_case(), log, store)
    assert [(row["id"], row["completion"]) for row in found.corrections] == [("r2", "pear")]
    assert [(row["id"], row["why"].partition(":")[0]) for row in found.questions] == [("r1", "thumbs_down"), ("r3", "far")]


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        (use_case(ask=["far"]), ["r3"]),
        (use_case(ask=["thumbs_down"]), ["r1"]),
        (use_case(ask=[]), []),
        (use_case(policy="auto_accept"), []),
    ],
)
def test_nobody_is_asked_about_what_the_use_case_does_not_name_or_without_reviewers(log, store, spec, asked):
    found = production_rows(spec, log, store)
    assert [row["id"] for row in found.questions] == asked
    assert len(found.corrections) == 1


def test_without_feedback_nothing_of_production_is_taken(log, store):
    assert production_rows(use_case(feedback=False), log, store) == Production()


def test_a_store_without_a_drift_report_and_a_log_that_was_never_written_give_nothing(tmp_path):
    assert production_rows(use_case(), TrafficLog.at(tmp_path), Store.at(str(tmp_path / "none"))) == Production([], [])


def test_rows_of_production_say_which_version_answered_which_request_and_why_people_should_look(log, store):
    corrected, *questions = production_rows(use_case(), log, store).examples()
    assert (corrected.source, corrected.metadata) == (FEEDBACK, {"model_version": "1", "request_id": "r2"})
    assert [(row.source, row.completion, row.metadata["request_id"]) for row in questions] == [
        (REQUEST, "apple", "r1"),
        (REQUEST, "apple", "r3"),
    ]
    assert all(row.metadata[MARK] for row in questions)


@pytest.mark.parametrize("answer", ["", "plum", "Sorry, I cannot help with that."])
def test_an_answer_that_is_none_keeps_a_request_from_nobody_but_refuses_other_rows(answer):
    asked = example("a", "which one is red and round", answer, source=REQUEST)
    assert refused(asked, CleanSpec(), FRUIT) is None
    assert refused(replace(asked, source=FEEDBACK), CleanSpec(), FRUIT) is not None


def test_questions_are_seen_by_people_or_go_no_further(log, store):
    questions = [row for row in production_rows(use_case(), log, store).examples() if row.source == REQUEST]
    seen = choose(questions, ReviewSpec(), task=FRUIT, seed=0)
    assert [seen.part[row.id] for row in questions] == [DOUBT, DOUBT]
    assert len(choose(questions, ReviewSpec(most=1), task=FRUIT, seed=0).held_back) == 1


def test_what_decides_the_output_is_the_content_of_the_rows(log, store):
    found = production_rows(use_case(), log, store)
    assert Production().what() == {"dataset.feedback": None}
    assert set(found.what()) == {"dataset.feedback", "dataset.questions"}
    assert Production(found.corrections, found.questions[:1]).what() != found.what()
    log.append([logged(9, answer_scrubbed="pear").request])
    log.feedback(Feedback("r9", thumb="up"))
    assert production_rows(use_case(), log, store).what() == found.what()


def test_a_limit_takes_the_answers_in_turn_and_keeps_what_it_took_when_more_come(log, store):
    some = [{"id": str(n), "prompt": f"p{n}", "completion": "pear" if n % 10 == 0 else "apple", "version": "1"} for n in range(100)]
    taken = drawn(some, 20, seed=0)
    assert Counter(row["completion"] for row in taken) == {"apple": 10, "pear": 10}
    assert [row["id"] for row in taken] == sorted((row["id"] for row in taken), key=int)
    assert {row["id"] for row in drawn(some[:50], 10, seed=0)} & {str(n) for n in range(50)} >= {
        row["id"] for row in drawn(some, 10, seed=0) if int(row["id"]) < 50
    }
    assert drawn(some, 200, seed=0) == some
    assert production_rows(use_case(production_rows=1), log, store).left_out == 0


def test_a_question_loses_against_a_source_row_with_the_same_prompt_and_takes_no_part_in_its_majority():
    sure, other = example("a", "red and round", "apple"), example("b", "red and round", "pear", source=REQUEST)
    found = deduplicate([sure, other], task=FRUIT, threshold=0.7)
    assert (ids(found.kept), [(row.id, row.reason) for row in found.quarantine]) == (["a"], [("b", "contradictory_labels")])


def test_of_questions_with_one_prompt_the_last_answer_is_asked_about():
    asked = [example(id_, "red and round", answer, source=REQUEST) for id_, answer in (("a", "apple"), ("b", "pear"))]
    assert ids(deduplicate(asked, task=FRUIT, threshold=0.7).kept) == ["b"]


SPEC = SplitSpec(validation=0.15, test=0.2)


def test_a_share_of_production_is_fresh_and_the_test_set_stays_what_it_was():
    old = rows(300)
    before = split(old, spec=SPEC, task=FRUIT)
    after = split([*old, *rows(400, seed=1, source=FEEDBACK)], spec=SPEC, task=FRUIT, fresh=0.2)
    assert ids(after.test) == ids(before.test)
    assert {row.source for row in after.fresh} == {FEEDBACK}
    # Four standard deviations of a binomial of 400 draws.
    assert abs(len(after.fresh) / 400 - 0.2) < 0.08
    assert len(after.together()) == 700
    assert {id_: sides(after)[id_] for id_ in sides(before)} == sides(before)


def test_a_fresh_row_stays_fresh_when_its_answer_is_corrected_again_and_others_come():
    one = rows(200, seed=1, source=FEEDBACK)
    again = [example(f"new-{row.id}", row.prompt, "pear", source=FEEDBACK) for row in one]
    first = split([*rows(100), *one], spec=SPEC, task=FRUIT, fresh=0.2)
    later = split([*rows(100), *again, *rows(200, seed=2, source=FEEDBACK)], spec=SPEC, task=FRUIT, fresh=0.2)
    moved = {row.prompt for row in first.fresh} - {row.prompt for row in later.fresh}
    # Only what filled a class's share may move back.
    assert len(moved) <= 2
    assert not {row.prompt for row in first.fresh} & {row.prompt for row in later.train} - moved


def test_without_a_share_nothing_is_fresh():
    found = split([*rows(100), *rows(100, seed=1, source=FEEDBACK)], spec=SPEC, task=FRUIT)
    assert (len(found.fresh), len(found.together())) == (0, 200)


@pytest.mark.parametrize("held_out", [True, False])
def test_no_row_of_production_that_is_like_a_test_row_is_trained_on(held_out):
    old = [*rows(100), *(rows(40, seed=3, held_out=True) if held_out else [])]
    tested = split(old, spec=SPEC, task=FRUIT).test
    copies = [example(f"p{n}", f"{row.prompt} please", row.completion, source=FEEDBACK) for n, row in enumerate(tested)]
    found = split([*old, *copies], spec=SPEC, task=FRUIT, fresh=0.2)
    assert ids(found.test) == ids(tested)
    assert not set(ids(copies)) & set(ids([*found.train, *found.validation]))
    gone = {row.id for row in found.quarantine} if held_out else set(ids(found.fresh))
    assert gone == set(ids(copies))
