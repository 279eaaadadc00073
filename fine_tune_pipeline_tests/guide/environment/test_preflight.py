from typing import Any

import pytest

from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.base_model.memory import GIB
from fine_tune_pipeline.guide.environment.preflight import forecast, mistakes, passed, problems_of
from fine_tune_pipeline.guide.technique.plan import Job, Place, Plan, make_plan
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.preflight_requests import MistakeCheck, PreflightResult
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.spec.technique import Auto
from fine_tune_pipeline.spec.training import TrainingSpec
from fine_tune_pipeline_tests.guide.technique.stand_ins import use_case

GEMMA = model_named("gemma-3-270m").architecture


CUT = MistakeCheck(id="truncation_share", passed=False, seen="3 of 100 rows are too long", change="raise training.max_length")


def seen(**changes: Any) -> PreflightResult:
    facts = {
        "device": "cpu",
        "versions": {},
        "cpu_cores": 2,
        "memory_total_bytes": 24 * GIB,
        "memory_available_bytes": 20 * GIB,
        "disk_free_bytes": 10 * GIB,
        "rows": 100,
        "longest_tokens": 80,
        "over_long": (),
        "tokens_p50": 40,
        "tokens_p95": 80,
        "batch_rows": 8,
        "step_seconds": 10.0,
        "tokens_per_second": 50.0,
        "peak_memory_bytes": 3 * GIB,
        "loss": 3.0,
        "bfloat16_speedup": 0.2,
        **changes,
    }
    return PreflightResult(**facts)


def problems(tmp_path, *, sections: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    return problems_of(seen(**changes), use_case(tmp_path, **(sections or {})))


def test_nothing_is_wrong_when_all_demands_hold(tmp_path):
    assert problems(tmp_path) == []


def test_what_the_program_found_is_passed_on(tmp_path):
    assert problems(tmp_path, problems=("no adapter was trained",)) == ["no adapter was trained"]


@pytest.mark.parametrize(
    ("changes", "sections", "said"),
    [
        ({"disk_free_bytes": GIB}, {}, r"disk: 1\.0 GiB are free, environment\.disk_free_gib asks for 3"),
        ({"peak_memory_bytes": 22 * GIB}, {}, r"memory: the measured peak is 22\.00 GiB, 21\.60 GiB may be used \(10% stay free"),
        ({"mistakes": (CUT,)}, {}, r"truncation_share: 3 of 100 rows are too long; raise training\.max_length"),
    ],
)
def test_an_unmet_demand_is_named_with_what_was_seen(tmp_path, changes, sections, said):
    import re

    [problem] = problems(tmp_path, sections=sections, **changes)
    assert re.search(said, problem)


def test_demands_can_be_met_exactly(tmp_path):
    assert problems(tmp_path, over_long=("a", "b"), disk_free_bytes=3 * GIB) == []


HEALTHY = MistakeCheck(id="duplicate_ids", passed=True, seen="100 rows, as many ids", seconds=0.25)
DENSE = MistakeCheck(id="frozen_experts", passed=None, seen="the model has no experts")


def test_every_mistake_is_a_row_and_those_that_were_found_come_first():
    rows = mistakes(seen(mistakes=(HEALTHY, DENSE, CUT)))
    assert [(row["check"], row["result"]) for row in rows] == [
        ("truncation_share", "failed"),
        ("duplicate_ids", "passed"),
        ("frozen_experts", "does not apply"),
    ]
    assert rows[0]["change"] == "raise training.max_length"
    assert rows[1] == {"check": "duplicate_ids", "result": "passed", "seen": "100 rows, as many ids", "change": "", "seconds": 0.25}


def test_the_check_names_every_mistake_that_was_found(tmp_path):
    also = MistakeCheck(id="doubled_bos", passed=False, seen="24 rows have two", change="write one")
    found = seen(mistakes=(HEALTHY, DENSE, CUT, also))
    check = passed(found, gemma_plan(), problems_of(found, use_case(tmp_path)))
    assert not check.passed
    assert check.metadata["failed"] == ["truncation_share", "doubled_bos"]
    assert "truncation_share: 3 of 100 rows are too long" in check.description
    assert "doubled_bos: 24 rows have two; write one" in check.description


def gemma_plan(*, bfloat16: bool = False, **training: Any) -> Plan:
    device = Device(kind="cpu", name="CPU", memory_bytes=24 * GIB, bfloat16=bfloat16)
    where = Place.of(Inventory(place="test", devices=(device,), cpu_cores=2, memory_bytes=24 * GIB), headroom=0.1)
    work = Workload(rows=500, tokens=25_000, labelled_tokens=8_000, longest_tokens=100, longest_bound=150)
    return make_plan(Job(model=GEMMA, context=32768, work=work, technique=Auto(), training=TrainingSpec(**training)), where)[0]


def test_minutes_follow_from_the_measured_speed():
    whole = forecast(seen(), gemma_plan(epochs=2), GEMMA, training_rows=90)
    # 90 rows of about 50 tokens, twice, at 50 tokens a second.
    assert whole.minutes == pytest.approx(90 * 50 * 2 / 50 / 60)


def test_no_minutes_are_forecast_when_no_step_could_be_measured():
    assert forecast(seen(tokens_per_second=0.0, step_seconds=0.0), gemma_plan(), GEMMA, training_rows=90).minutes is None


@pytest.mark.parametrize(("units", "speedup", "warned"), [(True, 0.2, True), (True, 2.5, False), (False, 0.2, False)])
def test_bfloat16_that_is_slower_than_float32_is_said_with_what_to_do(units, speedup, warned):
    said = passed(seen(bfloat16_speedup=speedup), gemma_plan(bfloat16=units), []).description
    assert ("0.20 of the speed of float32 here: write training.dtype: float32" in said) == warned


def test_the_peak_is_predicted_at_the_lengths_that_were_measured():
    plan = gemma_plan()
    short, long = (forecast(seen(longest_tokens=length), plan, GEMMA, training_rows=100) for length in (40, 80))
    assert long.predicted_peak_bytes > short.predicted_peak_bytes
    assert long.peak_ratio == pytest.approx(3 * GIB / long.predicted_peak_bytes)


def test_rows_that_are_cut_out_do_not_count_as_the_longest():
    plan = gemma_plan(max_length=48)
    assert (
        forecast(seen(longest_tokens=2000), plan, GEMMA, training_rows=100).predicted_peak_bytes
        == forecast(seen(longest_tokens=48), plan, GEMMA, training_rows=100).predicted_peak_bytes
    )


def parts_plan(**together: Any) -> Plan:
    device = Device(kind="cuda", name="L4", memory_bytes=24 * GIB, bfloat16=True)
    inventory = Inventory(place="test", devices=(device,) * 4, cpu_cores=2, memory_bytes=24 * GIB, **together)
    work = Workload(rows=500, tokens=25_000, labelled_tokens=8_000, longest_tokens=100, longest_bound=150)
    training = TrainingSpec(effective_batch=16)
    asked = Job(model=GEMMA, context=32768, work=work, technique=Auto(), training=training)
    return make_plan(asked, Place.of(inventory, headroom=0.1))[0]


NOT_TRIED = {"not_tried": "the model lies in parts", "step_seconds": 0.0, "tokens_per_second": 0.0, "loss": 0.0}


def test_minutes_are_those_of_one_device_divided_by_the_devices():
    alone, four = (forecast(seen(), parts_plan(**how), GEMMA, training_rows=90) for how in ({}, {"processes": 4}))
    assert four.minutes == pytest.approx(alone.minutes / 4)


def test_without_a_trial_the_check_says_so_and_nothing_is_forecast_from_it():
    plan = parts_plan(processes=4, parallel="fsdp2")
    found = seen(**NOT_TRIED)
    check = passed(found, plan, [])
    assert check.passed
    assert check.description.startswith("trial: not run: the model lies in parts; all else on cpu was looked at")
    whole = forecast(found, plan, GEMMA, training_rows=90)
    assert (whole.minutes, whole.peak_ratio) == (None, None)
