import json

import pytest

from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.review.files.exchange import json_lines
from fine_tune_pipeline.guide.evaluation.human.judgements import Asked, Judgement, digest, read_judgements

ASKED = Asked(("p001", "p002"), ("correct", "tone"), "abc")


def line(pair: object, choice: object, by: object = "Ann", **more: object) -> str:
    return json.dumps({"id": pair, "choice": choice, "by": by, **more})


def read(*written: str) -> tuple[list[Judgement], list[Quarantined]]:
    return read_judgements(json_lines("v.jsonl", "\n".join(written)), ASKED)


def test_valid_lines_become_judgements():
    kept, refused = read(line("p001", "A"), "", line("p002", "equal", " Bob ", correct="both", tone="", note=" so ", handout="abc"))
    assert kept == [Judgement("p001", "A", "ann"), Judgement("p002", "equal", "bob", {"correct": "both"}, "so")]
    assert refused == []


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("{", "not_json"),
        ('["p001", "A"]', "not_json"),
        (line("p999", "A"), "unknown_pair"),
        (line(["p001"], "A"), "unknown_pair"),
        (line("p001", "A", handout="xyz"), "other_handout"),
        (line("p001", "C"), "unknown_choice"),
        (line("p001", ["A"]), "unknown_choice"),
        (line("p001", None, correct="A"), "unfinished"),
        ('{"id": "p001", "correct": "A", "by": "Ann"}', "unfinished"),
        (line("p001", "A", ""), "nobody"),
        (line("p001", "A", None), "nobody"),
        ('{"id": "p001", "choice": "A"}', "nobody"),
        (line("p001", "A", "default", asked_of="ann"), "stranger"),
        (line("p001", "A", tone="yes"), "unknown_answer"),
        (line("p001", "A", tone=["A"]), "unknown_answer"),
        (line("p001", "A", correct="B", tone="neither"), "contradiction"),
        (line("p001", "unusable", correct="B", tone="both"), "contradiction"),
    ],
)
def test_invalid_lines_are_quarantined_with_reason_and_line(written: str, reason: str):
    kept, refused = read(line("p002", "B"), written)
    assert [judgement.pair for judgement in kept] == ["p002"]
    assert [(row.id, row.reason) for row in refused] == [("v.jsonl:2", reason)]


@pytest.mark.parametrize(
    "written",
    [
        line("p001", "A", correct="B"),
        line("p001", "A", correct="neither", tone="neither"),
        line("p001", "A", correct="B", tone="A"),
        line("p001", "equal", correct="A", tone="A"),
        line("p001", "unusable", correct="A", tone="neither"),
        line("p001", "A", "ANN", asked_of="ann"),
    ],
)
def test_a_choice_that_may_be_meant_is_no_contradiction(written: str):
    assert read(written)[1] == []


def test_a_changed_mind_counts_once_and_the_earlier_line_is_kept_aside():
    kept, refused = read(line("p001", "A", "Ann"), line("p001", "B", "Bob"), line("p001", "B", "ANN"))
    assert kept == [Judgement("p001", "B", "bob"), Judgement("p001", "B", "ann")]
    assert [(row.id, row.reason) for row in refused] == [("v.jsonl:1", "superseded")]
    assert refused[0].original == {"id": "p001", "choice": "A", "by": "Ann"}


def test_the_same_line_handed_in_twice_is_no_changed_mind():
    kept, refused = read(line("p001", "A"), line("p002", "B"), line("p001", "A"))
    assert len(kept) == 2
    assert refused == []


def test_the_digest_is_of_all_that_was_said_and_none_where_nothing_was():
    one, other = read(line("p001", "A")), read(line("p001", "A", note="so"))
    assert digest(*read()) is None
    assert len({digest(*one), digest(*other), digest(*read(line("p001", "A"), "{"))}) == 3
    assert digest(*one) == digest(*read(line("p001", "A")))
