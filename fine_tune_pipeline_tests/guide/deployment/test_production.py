"""The snapshot of production: counts and shares of what lies in the log, and nothing made up where there is nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.traffic import Feedback, TrafficLog
from fine_tune_pipeline.guide.deployment.production import build_production_traffic, percentile, summary
from fine_tune_pipeline_tests.artifacts.test_traffic import ROW


def test_an_empty_log_gives_counts_of_zero_and_no_shares(tmp_path: Path):
    found = build_production_traffic(TrafficLog.at(tmp_path / "log"), last=50, state="stopped", folder=tmp_path).metadata
    assert (found["requests"], found["answered"], found["valid_share"], found["latency_p95_ms"]) == (0, 0, None, None)
    assert (found["endpoint"], found["errors"], found["log_dropped"]) == ("stopped", "none", 0)
    assert read_rows(tmp_path / "requests.jsonl") == []


def test_the_last_requests_are_counted_and_written_as_they_lie_in_the_log(tmp_path: Path):
    log = TrafficLog.at(tmp_path / "log")
    rows = [replace(ROW, id=str(number), ts=float(number), latency_ms=float(number), valid=number % 4 != 0) for number in range(1, 21)]
    log.append([*rows, replace(ROW, id="late", ts=30.0, status=504, valid=None, prompt_scrubbed=None)])
    log.feedback(Feedback("20", thumb="down", corrected="fees"))
    log.feedback(Feedback("19", thumb="up"))
    log.drop(2, reason="disk full")
    found = build_production_traffic(log, last=11, state="running", folder=tmp_path).metadata
    assert (found["requests"], found["answered"], found["errors"], found["not_scrubbed"]) == (11, 10, "1 x 504", 1)
    assert (found["thumbs_up"], found["thumbs_down"], found["corrections"]) == (1, 1, 1)
    assert found["valid_share"] == pytest.approx(7 / 10)
    assert (found["latency_p50_ms"], found["latency_p95_ms"]) == (15.0, 20.0)
    assert (found["log_dropped"], found["requests_in_log"], found["from"]) == (2, 21, "1970-01-01T00:00:11+00:00")
    written = read_rows(tmp_path / "requests.jsonl")
    assert [row["id"] for row in written] == [*(str(number) for number in range(11, 21)), "late"]
    assert written[9]["feedback"] == [{"request_id": "20", "thumb": "down", "corrected": "fees", "source": "user"}]


def test_a_percentile_is_a_value_that_was_seen():
    assert [percentile([1.0, 2.0, 3.0, 4.0], percent) for percent in (1, 50, 51, 95, 100)] == [1.0, 2.0, 3.0, 4.0, 4.0]
    assert summary([])["latency_p99_ms"] is None
