import math
import random
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.base_model.price import Cost as Money
from fine_tune_pipeline.guide.evaluation.cost_limit import cost_verdict, money_per_1000
from fine_tune_pipeline.guide.evaluation.predictions import Cost
from fine_tune_pipeline.guide.evaluation.scoring import Scores, scored
from fine_tune_pipeline.guide.evaluation.statistics import NoItems, UnusableScore, gain_bounds, mean_bounds
from fine_tune_pipeline.guide.evaluation.verdicts import all_met, judged, memory_verdict, spent
from fine_tune_pipeline.guide.objective.evidence import rows_to_detect
from fine_tune_pipeline.guide.objective.task import Task, classification
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.spec.objective import Criterion, Evidence, Limits
from fine_tune_pipeline_tests.guide.objective.use_cases import use_case

INVENTORY = Inventory(place="here", devices=(Device(kind="cpu", name="CPU", memory_bytes=1, bfloat16=False),), cpu_cores=1, memory_bytes=1)
TASK = classification(["yes", "no"])


def scores(rows: int, *, systems: dict[str, int], metrics: tuple[str, ...] = ("accuracy",)) -> Scores:
    """Each system is right on its first so many rows."""
    examples = [Example(str(number), "?", "yes") for number in range(rows)]
    answers = {name: ["yes"] * right + ["no"] * (rows - right) for name, right in systems.items()}
    return scored(examples, answers, task=TASK, metrics=metrics)


def verdict(given: Scores, **criterion: Any):
    return judged("success", Criterion.model_validate({"metric": "accuracy", **criterion}), given, evidence=Evidence())


@pytest.mark.parametrize(("right", "answer"), [(90, "met"), (82, "cannot tell"), (80, "cannot tell"), (60, "not met")])
def test_target_is_judged_by_the_bound_not_by_the_estimate(right: int, answer: str):
    found = verdict(scores(100, systems={"fine_tuned": right}), at_least=0.8)
    assert found.verdict == answer
    assert found.estimate == right / 100
    assert found.criterion == "accuracy at least 0.8"


def test_more_rows_turn_cannot_tell_into_met():
    assert verdict(scores(1000, systems={"fine_tuned": 830}), at_least=0.8).verdict == "met"


@pytest.mark.parametrize(
    ("base", "own", "by", "answer"),
    [(40, 80, 0.1, "met"), (60, 70, 0.05, "cannot tell"), (80, 40, 0.0, "not met"), (70, 70, 0.0, "cannot tell"), (60, 72, 0.3, "not met")],
)
def test_beating_is_judged_by_the_paired_bound(base: int, own: int, by: float, answer: str):
    found = verdict(scores(100, systems={"fine_tuned": own, "base_few_shot": base}), beats="base_few_shot", by=by)
    assert found.verdict == answer
    assert found.estimate == pytest.approx((own - base) / 100)


def test_cannot_tell_says_how_many_rows_would():
    given = scores(100, systems={"fine_tuned": 70, "base_few_shot": 60})
    found = verdict(given, beats="base_few_shot", by=0.05)
    assert f"about {rows_to_detect(0.05, level=0.95, power=0.8, disagreement=0.1)} held-out rows" in found.reason


def test_a_lead_over_a_system_that_was_not_run_cannot_be_told():
    found = verdict(scores(100, systems={"fine_tuned": 99}), beats="classifier")
    assert (found.verdict, found.estimate) == ("cannot tell", None)
    assert "classifier" in found.reason


def text_scores(ours: list[str], theirs: list[str]) -> Scores:
    examples = [Example(str(number), "?", "the cat sat on the mat") for number in range(len(ours))]
    answers = {"fine_tuned": ours, "base_few_shot": theirs}
    return scored(examples, answers, task=Task(type="generation"), metrics=["edit_rate", "length_ratio", "rouge_l"])


def test_less_is_better_where_the_metric_says_so():
    draw = random.Random(0)
    near = ["the cat sat on the " + draw.choice(["mat", "map", "hat"]) for _ in range(60)]
    far = [draw.choice(["a dog", "no cat here", "what"]) for _ in range(60)]
    given = text_scores(near, far)
    at_most = Criterion(metric="edit_rate", at_most=0.1)
    assert judged("success", at_most, given, evidence=Evidence()).verdict == "met"
    assert judged("success", at_most, given, evidence=Evidence(), system="base_few_shot").verdict == "not met"
    beats = judged("success", Criterion(metric="edit_rate", beats="base_few_shot", by=0.2), given, evidence=Evidence())
    assert beats.verdict == "met"
    assert beats.estimate is not None
    assert beats.estimate > 0


def test_length_ratio_can_be_bounded_on_both_sides():
    given = text_scores(["the cat sat on the mat"] * 40, ["a " * 30] * 40)
    low, high = Criterion(metric="length_ratio", at_least=0.5), Criterion(metric="length_ratio", at_most=2.0)
    assert [judged("guard", one, given, evidence=Evidence()).verdict for one in (low, high)] == ["met", "met"]
    assert [judged("guard", one, given, evidence=Evidence(), system="base_few_shot").verdict for one in (low, high)] == ["met", "not met"]


def test_memory_limit_is_a_measurement():
    assert memory_verdict(Limits(), peak_bytes=1) == []
    (within,) = memory_verdict(Limits(memory_gib=2), peak_bytes=2**31)
    (above,) = memory_verdict(Limits(memory_gib=2), peak_bytes=2**31 + 2**28)
    assert (within.verdict, above.verdict) == ("met", "not met")
    assert "2.25 GiB" in above.reason


def test_cannot_tell_does_not_pass():
    met = verdict(scores(100, systems={"fine_tuned": 95}), at_least=0.8)
    open_ = verdict(scores(100, systems={"fine_tuned": 82}), at_least=0.8)
    assert all_met([met])
    assert not all_met([met, open_])


def test_a_guard_is_met_when_the_model_is_surely_not_worse_by_more_than_the_margin():
    given = scores(400, systems={"fine_tuned": 300, "base_few_shot": 304})
    assert verdict(given, versus="base", margin=0.1).verdict == "met"
    assert verdict(given, versus="base").verdict == "not met"
    lost = scores(400, systems={"fine_tuned": 200, "base_few_shot": 304})
    assert verdict(lost, versus="base", margin=0.1).verdict == "not met"
    close = verdict(scores(100, systems={"fine_tuned": 60, "base_few_shot": 68}), versus="base_few_shot", margin=0.1)
    assert close.verdict == "cannot tell"
    assert close.criterion == "accuracy not worse than base_few_shot by more than 0.1"


def test_base_is_the_prompted_form_that_was_run():
    both = scores(200, systems={"fine_tuned": 150, "base_zero_shot": 10, "base_few_shot": 199})
    assert verdict(both, versus="base", margin=0.05).verdict == "not met"
    assert verdict(scores(200, systems={"fine_tuned": 150, "base_zero_shot": 10}), versus="base", margin=0.05).verdict == "met"


def test_a_slice_is_judged_on_its_rows_alone():
    given = scores(200, systems={"fine_tuned": 100})
    mail = replace(given, rows=[replace(row, metadata={"channel": "mail" if int(row.id) < 100 else "app"}) for row in given.rows])
    found = [verdict(mail, at_least=0.8, slice={"where": {"channel": channel}}) for channel in ("mail", "app", "fax")]
    assert [one.verdict for one in found] == ["met", "not met", "cannot tell"]
    assert [one.estimate for one in found] == [1.0, 0.0, None]
    assert found[2].reason.startswith("0 rows of the slice were seen, want at least 50")


@pytest.mark.parametrize(("limit", "answer"), [(1.0, "met"), (0.9, "not met")])
def test_money_for_answers_is_measured_by_the_hours_of_the_device(tmp_path: Path, limit: float, answer: str):
    price = {"device": "CPU", "per_hour": 3.6, "currency": "EUR", "as_of": date(2026, 11, 1)}
    spec = use_case(tmp_path, environment={"prices": [price]})
    money = money_per_1000(Cost("fine_tuned", rows=10, seconds=10), spec, INVENTORY, base="tiny")
    assert money == Money(1.0, "EUR")
    (found,) = cost_verdict(Limits(cost_per_1000=limit), money)
    assert (found.verdict, found.estimate) == (answer, 1.0)
    assert cost_verdict(Limits(), money) == []


def test_a_provider_is_paid_by_tokens(tmp_path: Path):
    prices = {"input": 2.0, "output": 8.0, "as_of": date(2026, 11, 1), "source": "its page"}
    candidate = {"type": "api", "id": "mini", "model": "mini-1", "licence": "LicenseRef-Terms", "prices": prices}
    spec = use_case(tmp_path, base_model={"candidates": [candidate]})
    spent = Cost("fine_tuned", rows=10, seconds=1, prompt_tokens=1000, new_tokens=100)
    assert money_per_1000(spent, spec, INVENTORY, base="mini") == Money(pytest.approx(0.28), "USD")


def test_without_a_price_nothing_is_known_of_money(tmp_path: Path):
    money = money_per_1000(Cost("fine_tuned", rows=10, seconds=10), use_case(tmp_path), INVENTORY, base="tiny")
    (found,) = cost_verdict(Limits(cost_per_1000=1), money)
    assert found.verdict == "cannot tell"
    assert "environment.prices" in found.reason


def test_a_verdict_says_on_how_many_rows_how_sure_and_how():
    given = scores(200, systems={"fine_tuned": 160, "base_few_shot": 9})
    met = verdict(given, at_least=0.65)
    assert met.reason == "0.800 on 200 rows; with 95 % confidence it is at least 0.748"
    row = met.row()
    assert (row["rows"], row["clusters"], row["method"], row["bound"]) == (200, 200, "exact", row["lower"])
    assert row["lower"] < 0.8 < row["upper"]
    assert "Clopper-Pearson" in row["how"]
    beaten = verdict(given, beats="base_few_shot", by=0.1).row()
    assert beaten["reason"].startswith("0.755 on 200 rows; with 95 % confidence the gain is above 0.70")
    assert beaten["how"].startswith("Student's t with clustered errors")


def test_not_worse_is_met_missed_and_open_by_the_bound_of_the_loss():
    def against(own: int, rows: int = 1000, margin: float = 0.05) -> str:
        found = verdict(scores(rows, systems={"fine_tuned": own, "base_few_shot": 800}), versus="base_few_shot", margin=margin)
        return f"{found.verdict}: {found.reason}"

    assert against(800).startswith("met: 0.000 on 1,000 rows; with 95 % confidence it is worse by less than 0.00")
    assert against(780).startswith("met")
    assert against(700).startswith("not met")
    assert against(752).startswith("cannot tell")


def test_rows_that_were_looked_at_too_often_show_nothing_but_a_measured_limit_stays():
    given = scores(100, systems={"fine_tuned": 95})
    limit = memory_verdict(Limits(memory_gib=2), peak_bytes=2**30)
    found = spent([verdict(given, at_least=0.8), *limit], why="bring fresh rows")
    assert [(one.verdict, one.estimate) for one in found] == [("cannot tell", 0.95), ("met", 1.0)]
    assert found[0].reason == "bring fresh rows"


@pytest.mark.parametrize("demand", [{"at_least": 0.5}, {"at_most": 0.5}, {"beats": "base_few_shot"}, {"versus": "base_few_shot"}])
@pytest.mark.parametrize(("rows", "own", "base"), [(1, 1, 1), (1, 0, 1), (40, 40, 40), (40, 0, 40), (40, 40, 0), (2, 1, 1)])
@pytest.mark.parametrize("clusters", [1, 40])
def test_no_verdict_rests_on_nan_or_infinity(demand: dict[str, Any], rows: int, own: int, base: int, clusters: int):
    given = scores(rows, systems={"fine_tuned": own, "base_few_shot": base})
    marked = [replace(row, metadata={"cluster": str(place % clusters)}) for place, row in enumerate(given.rows)]
    found = judged("success", Criterion(metric="accuracy", **demand), replace(given, rows=marked), evidence=Evidence()).row()
    assert all(math.isfinite(found[name]) for name in ("estimate", "bound", "lower", "upper"))
    assert found["lower"] <= found["estimate"] <= found["upper"]
    if rows == 1 or clusters == 1:
        assert found["verdict"] == "cannot tell"


def test_no_rows_and_scores_that_are_no_numbers_are_named():
    with pytest.raises(NoItems, match="bring held-out rows"):
        mean_bounds([], level=0.95)
    with pytest.raises(UnusableScore, match="row 2 of 3: its score is nan"):
        gain_bounds([0.0, math.nan, 1.0], level=0.95)
