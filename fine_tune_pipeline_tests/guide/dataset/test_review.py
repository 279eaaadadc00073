"""Hand-out, verdicts, and what follows from them."""

import json

import pytest

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.quarantine import read_quarantine
from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.guide.dataset.collect import FEEDBACK
from fine_tune_pipeline.guide.dataset.review import chosen, hand_out, read_verdicts, reviewed
from fine_tune_pipeline.guide.dataset.steps import read_steps
from fine_tune_pipeline.spec.dataset import ReviewSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, example, ids, jsonl

EXPERTS = ReviewSpec(policy="experts", share=0.2)


def rows(count=10):
    return [example(f"r{number}", f"prompt {number}") for number in range(count)]


def test_experts_see_a_share_and_all_that_is_marked_or_comes_from_production():
    examples = [*rows(), example("m", "odd", metadata={"marked": "label_disagrees"}), example("f", "fixed", source=FEEDBACK)]
    sample = chosen(examples, EXPERTS, seed=0)
    assert len(sample) == 4
    assert {"m", "f"} < set(ids(sample))


def test_the_sample_depends_on_seed_and_ids_only():
    once = chosen(rows(100), EXPERTS, seed=0)
    assert len(once) == 20
    assert set(ids(chosen(rows(100)[::-1], EXPERTS, seed=0))) == set(ids(once))
    assert ids(chosen(rows(100), EXPERTS, seed=1)) != ids(once)


def test_nobody_is_asked_under_auto_accept():
    assert chosen(rows(), ReviewSpec(policy="auto_accept"), seed=0) == []


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        ({"id": "zzz", "verdict": "accept", "by": "Kim"}, "unknown_id"),
        ({"verdict": "accept", "by": "Kim"}, "unknown_id"),
        ({"id": "r0", "verdict": "maybe", "by": "Kim"}, "unknown_verdict"),
        ({"id": "r0", "by": "Kim"}, "unknown_verdict"),
        ({"id": "r0", "verdict": ["accept"], "by": "Kim"}, "unknown_verdict"),
        ({"id": "r0", "verdict": "accept"}, "no_reviewer"),
        ({"id": "r0", "verdict": "accept", "by": " "}, "no_reviewer"),
        ({"id": "r0", "verdict": "fix", "by": "Kim"}, "invalid_fix"),
        ({"id": "r0", "verdict": "fix", "by": "Kim", "completion": "plum"}, "invalid_fix"),
    ],
)
def test_a_verdict_that_is_none_is_kept_with_its_reason(verdict, reason):
    verdicts, refused = read_verdicts([verdict], {"r0": example("r0", "x")}, FRUIT)
    assert verdicts == {}
    assert [(row.reason, row.original) for row in refused] == [(reason, verdict)]


def test_the_latest_verdict_on_an_example_wins_and_a_broken_one_does_not_undo_it():
    given = [{"id": "r0", "verdict": word, "by": "Kim"} for word in ("accept", "reject", "nonsense")]
    verdicts, refused = read_verdicts(given, {"r0": example("r0", "x")}, FRUIT)
    assert verdicts["r0"].verdict == "reject"
    assert len(refused) == 1


class Room:
    """The step's folders, and the step itself."""

    def __init__(self, folder, examples, spec=EXPERTS):
        self.scrubbed, self.out, self.spec = folder / "scrubbed", folder / "out", spec
        self.scrubbed.mkdir()
        self.out.mkdir()
        write_examples(self.scrubbed / "examples.jsonl", examples)
        write_rows(self.scrubbed / "steps.jsonl", [])
        self.reviews = ReviewFolder.at(folder / "reviews", use_case="fruit", kind="examples", fingerprint="abc")

    def run(self):
        hand_out(self.scrubbed, spec=self.spec, reviews=self.reviews, seed=0)
        return reviewed(self.scrubbed, self.out, spec=self.spec, task=FRUIT, reviews=self.reviews, seed=0)

    @property
    def handed_out(self):
        return ids_of(read_rows(self.reviews.folder / "handout.jsonl"))

    def answer(self, verdicts):
        jsonl(self.reviews.verdict_file, verdicts)


def ids_of(rows):
    return [row["id"] for row in rows]


def test_the_check_waits_for_people_and_says_where_and_how(tmp_path):
    room = Room(tmp_path, rows())
    built = room.run()
    [check] = built.checks
    assert (check.name, check.passed, check.blocking) == ("reviewed", False, True)
    assert "waiting for people: 0 of 2" in check.description
    assert str(room.reviews.verdict_file) in check.description
    assert '"verdict"' in check.description
    assert len(room.handed_out) == 2


def test_half_the_verdicts_still_wait(tmp_path):
    room = Room(tmp_path, rows())
    room.run()
    room.answer([{"id": room.handed_out[0], "verdict": "accept", "by": "Kim"}, {"id": "zzz", "verdict": "accept", "by": "Kim"}])
    built = room.run()
    assert "waiting for people: 1 of 2" in built.checks[0].description
    assert "'zzz' was not handed out" in built.checks[0].description
    assert [row["reason"] for row in read_rows(room.out / "refused_verdicts.jsonl")] == ["unknown_id"]


def test_accept_fix_and_reject_do_what_they_say_and_the_counts_add_up(tmp_path):
    room = Room(tmp_path, [*rows(), example("m", "odd", metadata={"marked": "x"})])
    room.run()
    one, two, three = room.handed_out
    room.answer(
        [
            {"id": one, "verdict": "accept", "by": "Kim"},
            {"id": two, "verdict": "fix", "by": "Lee", "completion": "pear"},
            {"id": three, "verdict": "reject", "by": "Kim", "note": "makes no sense"},
        ]
    )
    built = room.run()
    kept = {row.id: row for row in read_examples(room.out / "examples.jsonl")}
    [gone] = read_quarantine(room.out)
    assert built.checks[0].passed
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
    assert built.checks[0].passed
    assert "without any human look" in built.markdown["review"]
    assert {row.metadata["review"] for row in read_examples(room.out / "examples.jsonl")} == {"auto_accept"}
    assert not room.reviews.folder.exists()


def test_a_hand_out_is_one_json_object_a_line_with_the_reason_for_looking(tmp_path):
    room = Room(tmp_path, [example("m", "odd", metadata={"marked": "label_disagrees: x"})])
    room.run()
    [line] = (room.reviews.folder / "handout.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"id": "m", "prompt": "odd", "completion": "apple", "source": "", "why": "label_disagrees: x"}
