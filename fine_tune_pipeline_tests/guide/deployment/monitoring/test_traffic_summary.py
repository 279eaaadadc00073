"""The numbers of the last requests, and the artifact that they stand in; nothing is made up where there is nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.traffic import Feedback, TrafficLog
from fine_tune_pipeline.guide.deployment.monitoring.traffic import build_production_traffic
from fine_tune_pipeline.guide.deployment.monitoring.traffic_summary import percentile, summary
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.monitoring import MonitoringSpec
from fine_tune_pipeline_tests.artifacts.test_traffic import ROW


def built(folder: Path, log: TrafficLog, *, window: int, state: str = "running") -> dict[str, Any]:
    made = build_production_traffic(
        log,
        monitoring=MonitoringSpec.model_construct(window=window),
        task=Task(type="question_answering"),
        state=state,
        before=None,
        folder=folder,
    )
    return made.metadata


def test_an_empty_log_gives_counts_of_zero_and_no_shares(tmp_path: Path):
    found = built(tmp_path, TrafficLog.at(tmp_path / "log"), window=50, state="stopped")
    assert (found["requests"], found["answered"], found["valid_share"], found["latency_p95_ms"]) == (0, 0, None, None)
    assert (found["endpoint"], found["errors"], found["log_dropped"]) == ("stopped", "none", 0)
    assert (found["closed_windows"], found["waiting"], found["labels"]) == (0, 0, 0)


def test_the_last_requests_are_counted_and_full_windows_are_closed(tmp_path: Path):
    log = TrafficLog.at(tmp_path / "log")
    rows = [replace(ROW, id=str(number), ts=float(number), latency_ms=float(number), valid=number % 4 != 0) for number in range(1, 21)]
    log.append([*rows, replace(ROW, id="late", ts=30.0, status=504, valid=None, prompt_scrubbed=None)])
    log.feedback(Feedback("20", thumb="down", corrected="fees"))
    log.feedback(Feedback("19", thumb="up"))
    log.drop(2, reason="disk full")
    found = built(tmp_path, log, window=11)
    assert (found["requests"], found["answered"], found["errors"], found["not_scrubbed"]) == (11, 10, "1 x 504", 1)
    assert (found["thumbs_up"], found["thumbs_down"], found["corrections"]) == (1, 1, 1)
    assert found["valid_share"] == pytest.approx(7 / 10)
    assert (found["latency_p50_ms"], found["latency_p95_ms"]) == (15.0, 20.0)
    assert (found["log_dropped"], found["requests_in_log"], found["from"]) == (2, 21, "1970-01-01T00:00:11+00:00")
    assert (found["closed_windows"], found["new_windows"], found["waiting"], found["labels"]) == (1, 1, 10, 2)
    assert [(line["window"], line["to"], line["versions"]) for line in found["windows"]] == [(1, "1970-01-01T00:00:11+00:00", "11 x 1")]


def test_a_percentile_is_a_value_that_was_seen():
    assert [percentile([1.0, 2.0, 3.0, 4.0], percent) for percent in (1, 50, 51, 95, 100)] == [1.0, 2.0, 3.0, 4.0, 4.0]
    assert summary([])["latency_p99_ms"] is None
