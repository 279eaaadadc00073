"""Hand-out, verdicts, and what follows from them."""

import json

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows
from fine_tune_pipeline.artifacts.quarantine import read_quarantine
from fine_tune_pipeline.guide.dataset.review.sample import content_of
from fine_tune_pipeline.guide.dataset.steps import read_steps
from fine_tune_pipeline.guide.objective.task import classification
from fine_tune_pipeline.spec.dataset import ReviewSpec
from fine_tune_pipeline_tests.guide.dataset.make import example
from fine_tune_pipeline_tests.guide.dataset.reviewing import Room, experts, rows


def accept(id_, by="Kim", **more):
    return {"id": id_, "verdict": "accept", "by": by, **more}


def test_the_check_waits_for_people_and_says_where_and_how(tmp_path):
    room = Room(tmp_path, rows())
    room.run()
    assert (room.check.passed, room.check.blocking) == (False, True)
    assert "waiting for people: 0 of 2" in room.check.description
    assert str(room.reviews.verdict_file) in room.check.description
    assert '"verdict"' in room.check.description
    assert len(room.handed_out) == 2


def test_half_the_verdicts_still_wait(tmp_path):
    room = Room(tmp_path, rows())
    room.run()
    first, _ = room.handed_out
    room.answer([accept(first), accept("zzz")])
    room.run()
    assert "waiting for people: 1 of 2" in room.check.description
    assert "'zzz' was not handed out" in room.check.description
    assert [row["reason"] for row in room.refused] == ["unknown_id"]
    assert first not in room.handed_out


def test_accept_fix_and_reject_do_what_they_say_and_the_counts_add_up(tmp_path):
    room = Room(tmp_path, [*rows(), example("m", "odd", metadata={"marked": "x"})])
    room.run()
    one, two, three = room.handed_out
    fix = {"id": two, "verdict": "fix", "by": "Lee", "completion": "pear"}
    room.answer([accept(one), fix, {"id": three, "verdict": "reject", "by": "Kim", "note": "makes no sense"}])
    room.run()
    kept = room.kept
    [gone] = read_quarantine(room.out)
    assert room.check.passed
    assert kept[one].metadata == {"review": "accept", "reviewed_by": "Kim"}
    assert (kept[two].completion, kept[two].metadata["review"], kept[two].metadata["reviewed_by"]) == ("pear", "fix", "Lee")
    assert (gone.id, gone.reason) == (three, "rejected_by_expert")
    assert "makes no sense" in gone.detail
    assert sum(row.metadata["review"] == "not_sampled" for row in kept.values()) == 8
    [step] = read_steps(room.out)
    assert step.notes["reviewers"] == {"Kim": 2, "Lee": 1}
    assert step.notes["verdicts"] == {"not_sampled": 8, "accept": 1, "fix": 1, "reject": 1}
    assert (step.rows_in, step.kept) == (11, 10)


def test_auto_accept_passes_and_says_that_nobody_looked(tmp_path):
    room = Room(tmp_path, rows(), ReviewSpec(policy="auto_accept"))
    built = room.run()
    assert [check.passed for check in built.checks] == [True, True]
    assert "without any human look" in built.markdown["review"]
    assert {row.metadata["review"] for row in room.kept.values()} == {"auto_accept"}
    assert not (tmp_path / "reviews").exists()


def test_a_hand_out_is_one_json_object_a_line_with_the_reason_for_looking(tmp_path):
    odd = example("m", "odd", metadata={"marked": "label_disagrees: x"})
    room = Room(tmp_path, [odd])
    room.run()
    [line] = (room.reviews.folder / "handout.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "id": "m", "content": content_of(odd), "prompt": "odd", "completion": "apple", "source": "", "why": "label_disagrees: x",
        "look": "one person", "people": 1,
    }  # fmt: skip


def test_people_see_the_whole_conversation_and_another_history_is_another_row(tmp_path):
    long = example("m", "and now?", metadata={"marked": "x"}, history=[{"role": "system", "content": "Be brief."}])
    room = Room(tmp_path, [long])
    room.run()
    assert room.handout[0]["prompt"] == "system: Be brief.\nuser: and now?"
    assert content_of(long) != content_of(example("m", "and now?"))


def test_people_see_the_answer_that_is_to_be_liked_less(tmp_path):
    room = Room(tmp_path, [example("m", "odd", metadata={"marked": "x"}, rejected="a stone")])
    room.run()
    assert room.handout[0]["why"] == "x; the answer that is to be liked less: a stone"


def test_a_correction_that_is_the_rejected_answer_leaves_nothing_to_compare(tmp_path):
    room = Room(tmp_path, [example("m", "odd", metadata={"marked": "x"}, rejected="pear"), *rows()], experts(share=1.0))
    room.run()
    room.answer([accept(id_, verdict="fix", completion="pear") if id_ == "m" else accept(id_) for id_ in room.handed_out])
    room.run()
    [found] = [row for row in read_examples(room.out / "examples.jsonl") if row.id == "m"]
    assert (found.completion, found.rejected) == ("pear", None)


def test_a_row_that_still_holds_personal_data_goes_out_and_counts_as_residue(tmp_path):
    room = Room(tmp_path, [*rows(), example("m", "odd", metadata={"marked": "x"})], experts(share=1.0))
    room.run()
    answers = [accept(id_, private="yes") for id_ in room.handed_out]
    answers[0] = accept(room.handed_out[0], private="no", note="a name")
    gone_id = room.handed_out[0]
    room.answer(answers)
    built = room.run()
    [gone] = read_quarantine(room.out)
    assert (gone.id, gone.reason) == (gone_id, "personal_data_by_expert")
    assert "a name" in gone.detail
    [step] = read_steps(room.out)
    assert step.notes["residue_sample"] == {"looked_at": 11, "still_private": 1}
    assert built.metadata["random_rows_with_personal_data"] == 1
    assert "still holding personal data 1" in built.markdown["review"]


def test_two_who_disagree_need_a_third_who_decides(tmp_path):
    room = Room(tmp_path, [example("m", "odd", metadata={"marked": "x"})])
    room.run()
    room.answer([accept("m", "Kim"), {"id": "m", "verdict": "reject", "by": "Lee"}])
    room.run()
    assert not room.check.passed
    assert "On 1 people disagree, so a third has to look: m" in room.check.description
    assert room.handout[0]["look"] == "one more person, since Kim, Lee disagree"
    assert "reject" not in json.dumps(room.handout)
    assert read_rows(room.out / "disagreements.jsonl")[0]["said"] == "Kim: accept; Lee: reject"
    room.answer([accept("m", "Kim"), {"id": "m", "verdict": "reject", "by": "Lee"}, accept("m", "Max")])
    room.run()
    assert room.check.passed
    assert room.kept["m"].metadata["reviewed_by"] == "Kim, Lee, Max"


def test_a_second_look_is_asked_for_by_another_person_and_does_not_hold_up_training(tmp_path):
    room = Room(tmp_path, rows(), experts(share=1.0, double_share=0.3))
    room.run()
    twice = [row["id"] for row in room.handout if row["look"] == "two people"]
    assert len(twice) == 3
    room.answer([accept(id_) for id_ in room.handed_out])
    built = room.run()
    assert room.check.passed
    assert [(row["id"], row["look"]) for row in room.handout] == [(id_, "two people, the second: not Kim") for id_ in twice]
    second = built.checks[1]
    assert (second.name, second.passed, second.blocking) == ("agreement", False, False)
    assert "3 of 3 rows for two people lack a second one" in second.description
    room.put("lee.jsonl").write_text("".join(json.dumps(accept(id_, "Lee")) + "\n" for id_ in twice), encoding="utf-8")
    built = room.run()
    assert built.checks[1].passed
    assert built.metadata["judged_twice"] == 3
    assert "they agree on 3 (100%" in built.markdown["review"]
    assert room.handout == []


def test_marked_rows_above_the_limit_go_to_the_quarantine_and_the_report_says_so(tmp_path):
    marked = [example(f"m{number}", f"odd {number}", metadata={"marked": "x"}) for number in range(3)]
    room = Room(tmp_path, [*rows(), *marked], experts(most=2))
    room.run()
    room.answer([accept(id_) for id_ in room.handed_out])
    built = room.run()
    assert room.check.passed
    [gone] = read_quarantine(room.out)
    assert (gone.reason, gone.id in {"m0", "m1", "m2"}) == ("left_out_of_review", True)
    assert {row["part"]: (row["rows"], row["left_out"]) for row in built.metadata["sample"]}["doubt"] == (2, 1)
    assert "1 of them may not go on unseen and are in the quarantine" in built.markdown["review"]


def test_a_fix_that_is_no_valid_answer_any_more_waits_again(tmp_path):
    room = Room(tmp_path, [example("m", "odd", metadata={"marked": "x"})])
    room.run()
    room.answer([{"id": "m", "verdict": "fix", "by": "Kim", "completion": "pear"}])
    room.run()
    assert room.kept["m"].completion == "pear"
    room.task = classification(["apple", "plum"])
    room.run()
    assert not room.check.passed
    assert {row["reason"] for row in room.refused} == {"invalid_fix"}


def test_the_same_text_twice_is_asked_once_and_both_follow(tmp_path):
    twins = [example(id_, "odd", metadata={"marked": "x"}) for id_ in ("m", "n")]
    room = Room(tmp_path, twins)
    room.run()
    assert room.handed_out == ["m"]
    room.answer([accept("m")])
    room.run()
    assert room.check.passed
    assert {row.metadata["review"] for row in room.kept.values()} == {"accept"}
