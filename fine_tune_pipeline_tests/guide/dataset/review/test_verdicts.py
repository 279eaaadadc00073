"""One verdict from one line, and what several people together decide."""

import pytest

from fine_tune_pipeline.guide.dataset.review.verdicts import Line, Verdict, content, known, read_verdicts, settled, shown
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT

ROWS = shown([{"id": id_, "prompt": f"what is {id_}?", "completion": "apple"} for id_ in ("r0", "r1", "007", "81234567890123")])
KNOWN = known(ROWS, [])
C0 = content("what is r0?", "apple")
ALL_YES = {"correct": "yes", "complete": "yes", "tone": "yes", "private": "yes"}


def read(*fields):
    verdicts, refused = read_verdicts([Line(f"f:{number}", row) for number, row in enumerate(fields, start=1)], KNOWN, FRUIT)
    return verdicts, [(row.reason, row.detail) for row in refused]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"id": "zzz", "verdict": "accept", "by": "Kim"}, "unknown_id"),
        ({"verdict": "accept", "by": "Kim"}, "unknown_id"),
        ({"id": "r0", "verdict": "maybe", "by": "Kim"}, "unknown_verdict"),
        ({"id": "r0", "by": "Kim"}, "unknown_verdict"),
        ({"id": "r0", "verdict": ["accept"], "by": "Kim"}, "unknown_verdict"),
        ({"id": "r0", "verdict": "accept"}, "no_reviewer"),
        ({"id": "r0", "verdict": "accept", "by": " "}, "no_reviewer"),
        ({"id": "r0", "verdict": "accept", "by": 7}, "no_reviewer"),
        ({"id": "r0", "verdict": "fix", "by": "Kim"}, "invalid_fix"),
        ({"id": "r0", "verdict": "fix", "by": "Kim", "completion": "plum"}, "invalid_fix"),
        ({"id": "r0", "verdict": "fix", "by": "Kim", "corrected": "apple"}, "invalid_fix"),
        ({"id": "r0", "verdict": "accept", "by": "Kim", "correct": "perhaps"}, "unknown_answer"),
        ({"id": "r0", "verdict": "accept", "by": "Kim", "correct": "no"}, "contradiction"),
        ({"id": "r0", "verdict": "accept", "by": "Kim", "corrected": "pear"}, "contradiction"),
        ({"id": "r0", "by": "Kim", **ALL_YES, "tone": ""}, "unknown_verdict"),
        ({"id": "r0", "content": "c0123", "verdict": "accept", "by": "Kim"}, "unknown_content"),
        ({"id": "r1", "content": C0, "verdict": "accept", "by": "Kim"}, "edited_id"),
        ({"id": "8.1234E+13", "verdict": "accept", "by": "Kim"}, "id_became_a_number"),
        ({"id": "r0", "prompt": "x", "completion": "pear", "corrected": "", "verdict": "accept", "by": "Kim"}, "edited_answer"),
    ],
)
def test_a_line_that_is_no_verdict_is_refused_with_its_reason_and_place(line, reason):
    verdicts, [(found, detail)] = read(line)
    assert (verdicts, found) == ([], reason)
    assert detail.startswith("f:1: ")


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (ALL_YES, "accept"),
        ({**ALL_YES, "complete": "no"}, "reject"),
        ({"tone": "NO"}, "reject"),
        ({"correct": "no", "corrected": "pear"}, "fix"),
        ({"corrected": "pear"}, "fix"),
        ({"verdict": "Accept "}, "accept"),
        ({"verdict": "accept", "corrected": "apple"}, "accept"),
        ({"verdict": "reject", **ALL_YES}, "reject"),
        ({"correct": True, "complete": 1, "tone": "y", "private": "TRUE"}, "accept"),
        ({"verdict": "accept", "private": False}, "reject"),
        ({"verdict": "fix", "corrected": "pear", "private": "no"}, "reject"),
    ],
)
def test_a_verdict_is_given_or_follows_from_the_answers(given, verdict):
    [found], refused = read({"id": "r0", "by": "Kim", **given})
    assert (found.verdict, refused) == (verdict, [])
    assert found.completion == ("pear" if verdict == "fix" else None)


def test_answers_are_kept_and_what_was_not_answered_is_none():
    [found], _ = read({"id": "r0", "by": " Kim ", "verdict": "reject", "private": "no", "tone": "yes", "note": "a name"})
    assert found == Verdict("r0", "reject", "Kim", note="a name", tone=True, private=False, content=C0)


@pytest.mark.parametrize("id_", ["007", 7, 7.0, ""])
def test_the_content_says_which_row_it_is_where_a_spreadsheet_changed_the_id(id_):
    [found], _ = read({"id": id_, "content": content("what is 007?", "apple"), "verdict": "accept", "by": "Kim"})
    assert found.id == "007"


def test_an_id_cut_to_six_digits_is_known_by_its_content():
    [found], _ = read({"id": "8.12346E+13", "content": ROWS[3].content, "verdict": "accept", "by": "Kim"})
    assert found.id == "81234567890123"


def test_rows_of_a_hand_out_that_nobody_filled_in_say_nothing():
    assert read({"id": "r0", "prompt": "x", "verdict": "", "correct": None, "by": "Kim"}) == ([], [])


def test_the_content_begins_with_a_letter_and_depends_on_all_that_is_shown():
    assert content("a", "b")[0] == "c"
    assert len({content("a", "b"), content("ab", ""), content("a", "c"), content("a", "b", "c")}) == 4


def by(person, verdict="accept", completion=None, **more):
    return Verdict("r0", verdict, person, completion, content="c1", **more)


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        ([by("Kim")], "accept"),
        ([by("Kim"), by("Kim", "reject")], "reject"),
        ([by("Kim"), by(" KIM", "reject")], "reject"),
        ([by("Kim"), by("Lee")], "accept"),
        ([by("Kim"), by("Lee", "reject")], None),
        ([by("Kim"), by("Lee", "reject"), by("Max", "reject")], "reject"),
        ([by("Kim"), by("Lee", "reject"), by("Max", "fix", "pear")], None),
        ([by("Kim", "fix", "pear"), by("Lee", "fix", "plum")], None),
        ([by("Kim"), by("Lee", "reject"), by("Lee")], "accept"),
        ([by("Kim"), by("Lee"), by("Max", "reject", private=False)], "reject"),
        ([by("Kim", "reject", private=False), by("Kim")], "accept"),
    ],
)
def test_the_latest_of_each_person_counts_and_most_must_say_the_same(verdicts, outcome):
    found = settled(verdicts)["c1"]
    assert (found.verdict and found.verdict.verdict) == outcome
