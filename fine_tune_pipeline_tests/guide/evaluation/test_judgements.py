import json

import pytest

from fine_tune_pipeline.guide.evaluation.judgements import Judgement, read_judgements, result
from fine_tune_pipeline.guide.evaluation.pairs import HandOut, Pair, Secret

KEY = {
    "p001": Secret("r1", "fine_tuned", "base_few_shot"),
    "p002": Secret("r2", "base_few_shot", "fine_tuned"),
    "p003": Secret("r1", "base_few_shot", "fine_tuned", repeats="p001"),
    "p004": Secret("r3", "fine_tuned", "base_few_shot"),
}
HANDED_OUT = HandOut(pairs=[Pair(name, "?", "a", "b") for name in KEY], key=KEY, identical=0, rows=4)


def line(pair: object, choice: object, by: object = "Ann") -> str:
    return json.dumps({"id": pair, "choice": choice, "by": by})


def test_valid_lines_become_judgements():
    kept, refused = read_judgements([line("p001", "A"), "", line("p002", "equal", " Bob ")], known=KEY)
    assert kept == [Judgement("p001", "A", "ann"), Judgement("p002", "equal", "bob")]
    assert refused == []


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("{", "not_json"),
        ('["p001", "A"]', "not_json"),
        (line("p999", "A"), "unknown_pair"),
        (line(["p001"], "A"), "unknown_pair"),
        (line("p001", "C"), "unknown_choice"),
        (line("p001", ["A"]), "unknown_choice"),
        (line("p001", "A", ""), "nobody"),
        (line("p001", "A", None), "nobody"),
        ('{"id": "p001", "choice": "A"}', "nobody"),
    ],
)
def test_invalid_lines_are_quarantined_with_reason_and_line(written: str, reason: str):
    kept, refused = read_judgements([line("p002", "B"), written], known=KEY)
    assert [judgement.pair for judgement in kept] == ["p002"]
    assert [(row.id, row.reason) for row in refused] == [("line 2", reason)]


def test_a_changed_mind_counts_once_and_the_earlier_line_is_kept_aside():
    kept, refused = read_judgements([line("p001", "A", "Ann"), line("p001", "B", "Bob"), line("p001", "B", "ANN")], known=KEY)
    assert kept == [Judgement("p001", "B", "bob"), Judgement("p001", "B", "ann")]
    assert [(row.id, row.reason) for row in refused] == [("line 1", "superseded")]
    assert refused[0].original == {"id": "p001", "choice": "A", "by": "Ann"}


def judge(*judgements: tuple[str, str]):
    return result([Judgement(pair, choice, "ann") for pair, choice in judgements], HANDED_OUT, level=0.95, seed=0)  # type: ignore[arg-type]


def test_win_rate_is_over_items_with_ties_as_one_half():
    # r1 won and lost on its repeat: one half; r2 won; r3 is a tie.
    found = judge(("p001", "A"), ("p003", "A"), ("p002", "B"), ("p004", "equal"))
    assert found.win_rate is not None
    assert found.win_rate.estimate == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert (found.answered, found.pairs, found.waiting) == (4, 4, False)


def test_repeats_show_whether_people_follow_the_answer():
    assert judge(("p001", "A"), ("p003", "B")).consistent == 1.0
    assert judge(("p001", "A"), ("p003", "A")).consistent == 0.0
    assert judge(("p001", "A")).consistent is None


def test_choices_of_the_first_side_are_counted():
    found = judge(("p001", "A"), ("p002", "A"), ("p004", "unusable"))
    assert found.first_side is not None
    assert found.first_side.estimate == 1.0
    assert found.unusable == pytest.approx(1 / 3)


def test_nothing_is_known_while_nobody_has_answered():
    found = judge()
    assert (found.answered, found.win_rate, found.lower, found.unusable, found.first_side, found.consistent) == (
        0,
        None,
        None,
        None,
        None,
        None,
    )
    assert found.waiting


def test_interval_covers_the_estimate_and_is_not_a_point():
    found = judge(("p001", "A"), ("p002", "B"), ("p004", "A"))
    assert found.win_rate is not None
    assert found.win_rate.lower < found.win_rate.estimate == 1.0
    assert found.lower == pytest.approx(3 / (3 + 1.6448536**2))
