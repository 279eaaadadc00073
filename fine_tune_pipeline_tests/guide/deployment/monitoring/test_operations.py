"""Figures of a window against limits."""

from typing import Any

import pytest

from fine_tune_pipeline.guide.deployment.monitoring.assets import limits_of, prices_of
from fine_tune_pipeline.guide.deployment.monitoring.operations import OperationLimits, Prices, measured
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline_tests.guide.deployment.world import use_case

LIMITS = OperationLimits(error_share=0.1, p95_latency_seconds=0.5, cost_per_1000=None)


def rows(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"ts": 36.0 * place, "status": 200, "latency_ms": 10.0 * (place + 1), "prompt_tokens": 30, "new_tokens": 5, **fields}
        for place in range(count)
    ]


def figures(found: list[dict[str, Any]], prices: Prices | None = None, limits: OperationLimits = LIMITS) -> dict[str, float | None]:
    return {measure.name: measure.value for measure in measured(found, limits, prices)}


def test_latency_is_of_answers_and_errors_are_ours_alone():
    found = [*rows(18), *rows(1, status=504, latency_ms=60000.0), *rows(1, status=413, latency_ms=1.0)]
    assert figures(found) == {"p50_latency": 0.09, "p95_latency": 0.18, "error_share": 0.05, "cost_per_1000": None}
    assert [measure.name for measure in measured(found, LIMITS, None) if measure.broken] == []
    slow = [*found, *rows(3, status=500), *rows(2, latency_ms=900.0)]
    assert [measure.name for measure in measured(slow, LIMITS, None) if measure.broken] == ["p95_latency", "error_share"]


def test_a_window_without_an_answer_has_no_latency_and_breaks_no_limit_of_it():
    found = measured(rows(5, status=503), LIMITS, None)
    assert [(measure.name, measure.value, measure.broken) for measure in found[:3]] == [
        ("p50_latency", None, False),
        ("p95_latency", None, False),
        ("error_share", 1.0, True),
    ]


def test_a_thousand_answers_cost_the_hours_that_the_window_took_or_the_providers_tokens():
    # 101 answers within an hour.
    assert figures(rows(101), Prices("EUR", per_hour=2.02))["cost_per_1000"] == pytest.approx(20.0)
    tokens = Prices("USD", per_input_token=1e-6, per_output_token=4e-6)
    assert figures(rows(7), tokens)["cost_per_1000"] == pytest.approx(1000 * (30e-6 + 20e-6))
    assert figures(rows(5, status=503), tokens)["cost_per_1000"] is None


def test_the_objectives_limits_hold_where_the_monitor_has_none():
    assert limits_of(use_case()) == OperationLimits(error_share=0.02, p95_latency_seconds=30.0, cost_per_1000=None)
    own = use_case(monitoring={"limits": {"error_share": None, "p95_latency_seconds": 1.5, "cost_per_1000": 3.0}})
    assert limits_of(own) == OperationLimits(error_share=None, p95_latency_seconds=1.5, cost_per_1000=3.0)


def test_prices_are_those_that_the_use_case_names():
    cpu = Device(kind="cpu", name="CPU", memory_bytes=1 << 30, bfloat16=True)
    place = Inventory(place="test", devices=(cpu,), cpu_cores=1, memory_bytes=1 << 30)
    spec = use_case()
    assert prices_of(spec, place) is None
    price = {"device": "CPU", "per_hour": 0.5, "currency": "EUR", "as_of": "2026-11-01"}
    written = spec.model_dump(exclude={"folder"}, by_alias=True, exclude_unset=True)
    priced = spec.model_validate({**written, "environment": {"prices": [price]}})
    assert prices_of(priced, place) == Prices("EUR", per_hour=0.5)
