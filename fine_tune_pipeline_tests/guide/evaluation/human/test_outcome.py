"""What judgements say together, beside the figures worked out by hand and people whose ways are known."""

import random
from collections.abc import Callable

import pytest

from fine_tune_pipeline.guide.evaluation.human.judgements import Judgement
from fine_tune_pipeline.guide.evaluation.human.outcome import Result, result
from fine_tune_pipeline.guide.evaluation.human.pairs import HandOut, Pair, Secret
from fine_tune_pipeline.guide.evaluation.human.reviewers import win_rate
from fine_tune_pipeline.guide.evaluation.human.rubric import Choice

KEY = {
    "p001": Secret("r1", "fine_tuned", "base_few_shot"),
    "p002": Secret("r2", "base_few_shot", "fine_tuned"),
    "p003": Secret("r1", "base_few_shot", "fine_tuned", repeats="p001"),
    "p004": Secret("r3", "fine_tuned", "base_few_shot"),
}
HANDED_OUT = HandOut(pairs=[Pair(name, "?", "a", "b") for name in KEY], key=KEY, identical=0, rows=4)


def judge(*judgements: tuple[str, Choice], by: str = "ann", **more) -> Result:
    return result([Judgement(pair, choice, by) for pair, choice in judgements], HANDED_OUT, level=0.95, seed=0, **more)


def test_win_rate_is_over_items_with_ties_as_one_half():
    # r1 won and lost on its repeat: one half; r2 won; r3 is a tie.
    found = judge(("p001", "A"), ("p003", "A"), ("p002", "B"), ("p004", "equal"))
    assert found.win_rate is not None
    assert found.win_rate.estimate == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found.ties is not None
    assert found.ties.estimate == pytest.approx(1 / 3)
    assert (found.answered, found.pairs, found.rows, found.waiting, found.partial) == (4, 4, 3, False, False)


def test_repeats_show_whether_people_follow_the_answer():
    shares = [judge(("p001", "A"), ("p003", side)).consistent for side in ("B", "A")]  # type: ignore[arg-type]
    assert [None if share is None else share.estimate for share in shares] == [1.0, 0.0]
    assert judge(("p001", "A")).consistent is None


def test_nothing_is_known_while_nobody_has_answered():
    found = judge()
    unknown = (found.win_rate, found.lower, found.ties, found.unusable, found.side_a, found.consistent, found.alpha)
    assert unknown == (None,) * 7
    assert (found.answered, found.reviewers, found.waiting, found.partial) == (0, (), True, False)


def test_interval_covers_the_estimate_and_is_not_a_point():
    found = judge(("p001", "A"), ("p002", "B"), ("p004", "A"))
    assert found.win_rate is not None
    assert found.win_rate.lower < found.win_rate.estimate == 1.0
    # Whoever wins less often than this wins three of three in less than 5 % of evaluations.
    assert found.lower == pytest.approx(0.05 ** (1 / 3))


@pytest.mark.parametrize("items", [10, 30, 100])
@pytest.mark.parametrize("ties", [0.0, 0.3])
def test_a_model_that_is_no_better_passes_one_half_as_seldom_as_asked(items: int, ties: float):
    passed = 0
    for seed in range(300):
        draw = random.Random(1000 * seed + items)
        points = [(str(row), 0.5 if draw.random() < ties else float(draw.random() < 0.5)) for row in range(items)]
        passed += win_rate(points, level=0.95, clusters={}).lower > 0.5
    # Two standard errors above 5 % of 300.
    assert passed <= 0.075 * 300


def test_rows_of_one_group_that_are_judged_alike_count_as_one():
    passed = {True: 0, False: 0}
    for seed in range(300):
        draw = random.Random(seed)
        said = [float(draw.random() < 0.5) for _ in range(12)]
        points = [(f"{group} {copy}", said[group]) for group in range(12) for copy in range(5)]
        together = {row: row.split()[0] for row, _ in points}
        for grouped in passed:
            passed[grouped] += win_rate(points, level=0.95, clusters=together if grouped else {}).lower > 0.5
    # Two standard errors above 5 % of 300; as if they were alone they would pass far more often.
    assert passed[True] <= 0.075 * 300 < 0.15 * 300 < passed[False]


def test_part_of_the_pairs_gives_a_partial_result_that_is_marked():
    found = judge(("p001", "A"), ("p002", "B"))
    assert found.partial
    assert found.win_rate is not None
    assert found.warnings[0].startswith("partial")


def test_each_named_reviewer_is_waited_for():
    said: list[tuple[str, Choice]] = [(name, "A") for name in KEY]
    found = judge(*said, named=["Ann", "Bob"])
    assert found.unfinished == {"Ann": 0, "Bob": 4}
    assert found.state == "waiting for people (4 of 4; missing of Bob 4)"
    assert not judge(*said, named=["Ann"]).waiting


def many(ways: dict[str, Callable[[random.Random, Secret], str]], *, items: int = 200, seed: int = 0, rubric: str | None = None) -> Result:
    """Judgements of people whose ways are known: each gives A, B, equal or unusable; `rubric` names a question that they answer alike."""
    draw = random.Random(seed)
    key = {f"p{n}": Secret(f"r{n}", *(("fine_tuned", "base") if n % 2 else ("base", "fine_tuned"))) for n in range(items)}
    said = []
    for pair, secret in key.items():
        for by, way in ways.items():
            choice = way(draw, secret)
            answers = {} if rubric is None else {rubric: {"equal": "both", "unusable": "neither"}.get(choice, choice)}
            said.append(Judgement(pair, choice, by, answers))  # type: ignore[arg-type]
    handed_out = HandOut(pairs=[Pair(name, "?", "a", "b") for name in key], key=key, identical=0, rows=items)
    return result(said, handed_out, level=0.95, seed=0, questions=[rubric] if rubric else [])


def side(secret: Secret, system: str) -> str:
    return {secret.A: "A", secret.B: "B"}[system]


def prefers(share: float) -> Callable[[random.Random, Secret], str]:
    return lambda draw, secret: side(secret, "fine_tuned" if draw.random() < share else "base")


def follows_a(share: float) -> Callable[[random.Random, Secret], str]:
    """Chooses A in a share of the pairs without looking, else the fine-tuned model."""
    return lambda draw, secret: "A" if draw.random() < share else side(secret, "fine_tuned")


def test_who_looks_at_the_answers_follows_no_side_however_much_better_one_is_and_wherever_it_stood():
    lopsided = {name: secret for name, secret in KEY.items() if secret.A == "fine_tuned"} | {"p002": KEY["p002"]}
    found = result(
        [Judgement(name, side(secret, "fine_tuned"), "ann") for name, secret in lopsided.items()],  # type: ignore[arg-type]
        HANDED_OUT, level=0.95, seed=0,
    )  # fmt: skip
    assert found.side_a is not None
    assert found.side_a.estimate == 0.5


def test_who_follows_the_side_is_named_and_the_others_are_not():
    found = many({"ann": prefers(0.7), "bob": follows_a(0.6)})
    ann, bob = found.reviewers
    assert bob.side_a is not None
    assert bob.side_a.estimate == pytest.approx(0.5 + 0.6 / 2, abs=0.07)
    assert ann.warnings == []
    assert "bob follows the side, not the answer" in found.warnings


def test_the_interval_of_the_side_holds_the_truth_as_often_as_it_says():
    held = 0
    for seed in range(300):
        found = many({"ann": follows_a(0.3)}, items=60, seed=seed).side_a
        assert found is not None
        held += found.lower <= 0.65 <= found.upper
    assert held >= 0.92 * 300


def test_who_lets_more_pass_than_the_others_is_named():
    strict = lambda draw, secret: "unusable" if draw.random() < 0.5 else side(secret, "fine_tuned")  # noqa: E731
    found = many({"ann": prefers(0.6), "bob": strict, "cid": prefers(0.6)}, rubric="correct")
    ann, bob, _ = found.reviewers
    assert ann.lenient is not None
    assert bob.lenient is not None
    # Ann lets one of two pass; Bob a quarter; the two others together three eighths.
    assert ann.lenient.estimate == pytest.approx(0.5 - 0.375, abs=0.03)
    assert bob.lenient.estimate == pytest.approx(0.25 - 0.5, abs=0.04)
    assert "bob lets less pass than the others" in found.warnings
    assert "ann lets more pass than the others" in found.warnings


def test_the_rubric_is_told_by_system_with_the_difference():
    found = many({"ann": prefers(0.8)}, rubric="correct")
    [correct] = found.rubric
    assert (correct.question, correct.rows) == ("correct", 200)
    assert correct.fine_tuned.estimate == pytest.approx(0.8, abs=0.06)
    assert correct.other.estimate == pytest.approx(1 - correct.fine_tuned.estimate)
    assert correct.gain.estimate == pytest.approx(correct.fine_tuned.estimate - correct.other.estimate)
    assert correct.gain.lower < correct.gain.estimate < correct.gain.upper


def test_people_who_agree_have_alpha_one_and_people_who_guess_about_none():
    always = lambda draw, secret: side(secret, "fine_tuned" if int(secret.example[1:]) % 3 else "base")  # noqa: E731
    agree, guess = many({"ann": always, "bob": always}), many({"ann": prefers(0.5), "bob": prefers(0.5)})
    assert agree.alpha is not None
    assert agree.alpha.value == 1.0
    assert guess.alpha is not None
    assert abs(guess.alpha.value) < 0.2
    assert any(warning.startswith("people agree little") for warning in guess.warnings)
