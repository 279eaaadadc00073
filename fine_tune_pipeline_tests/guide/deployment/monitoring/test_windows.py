"""Closed windows: every request in exactly one, whatever comes late, and nothing closed ever changes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.artifacts.traffic import Feedback, TrafficLog
from fine_tune_pipeline.guide.deployment.monitoring.windows import (
    KEPT_WINDOWS,
    LATE_SECONDS,
    TEXTS_SECONDS,
    Cursor,
    cursor_of,
    cut,
    read_traffic,
    read_window,
    write_windows,
)
from fine_tune_pipeline_tests.artifacts.test_traffic import ROW

NOW = 1e6
"""Long after all that is asked here, in seconds since 1970."""


@pytest.fixture
def log(tmp_path: Path) -> TrafficLog:
    return TrafficLog.at(tmp_path / "log")


def ask(log: TrafficLog, numbers: Sequence[int], *, seconds: float = 1.0) -> None:
    log.append([replace(ROW, id=str(number), ts=1000 + number * seconds) for number in numbers])


def kept(store: Store, log: TrafficLog, *, window: int = 4) -> Artifact:
    """One materialization."""
    before = store.peek("bank", "production_traffic")
    content = content_of(
        asset="production_traffic", version=2, what={"place": len(store.history("bank", "production_traffic"))}, upstream={}
    )
    with store.draft("bank", content) as draft:
        write_windows(
            cut(log, cursor_of(before), window=window, now=NOW), draft.folder, before=before, window=window, dropped=log.dropped()
        )
        return draft.finish(Built())


def ids(artifact: Artifact) -> list[list[str]]:
    return [[row["id"] for row in read_window(artifact, window)] for window in read_traffic(artifact).windows]


def test_full_windows_are_closed_and_the_rest_waits(log: TrafficLog):
    ask(log, range(10))
    found = cut(log, Cursor(), window=4, now=NOW)
    assert [[logged.request.id for logged in window] for window in found.windows] == [list("0123"), list("4567")]
    assert (found.waiting, found.cursor.closed, found.cursor.ts, found.left_out) == (2, 2, 1007.0, False)
    assert cut(log, found.cursor, window=4, now=NOW).windows == ()


def test_a_request_whose_texts_are_still_scrubbed_waits_for_them_a_minute(log: TrafficLog):
    ask(log, range(3))
    bare = replace(ROW, id="bare", ts=1003.0, prompt_scrubbed=None, scrubber="")
    log.append([bare, replace(bare, id="failed", scrubber="presidio")])
    soon = cut(log, Cursor(), window=4, now=1004.0)
    assert [[logged.request.id for logged in window] for window in soon.windows] == [["0", "1", "2", "failed"]]
    assert soon.waiting == 1
    ask(log, range(10, 13))
    later = cut(log, soon.cursor, window=4, now=1003.0 + TEXTS_SECONDS)
    assert [[logged.request.id for logged in window] for window in later.windows] == [["bare", "10", "11", "12"]]


def test_each_request_lies_in_exactly_one_window_even_one_that_comes_late_or_at_the_same_time(tmp_path: Path, log: TrafficLog):
    store = Store.at(str(tmp_path / "store"))
    log.append([replace(ROW, id=f"same{number}", ts=1000.0) for number in range(6)])
    first = kept(store, log)
    log.append([replace(ROW, id="late", ts=990.0), replace(ROW, id="new", ts=1001.0)])
    second = kept(store, log)
    assert [len(one) for one in ids(first)] == [4]
    seen = [name for window in ids(second) for name in window]
    assert sorted(seen) == sorted([*(f"same{number}" for number in range(6)), "late", "new"])


def test_requests_are_cut_alike_whether_looked_at_often_or_once(tmp_path: Path):
    often, once = TrafficLog.at(tmp_path / "often"), TrafficLog.at(tmp_path / "once")
    store, other = Store.at(str(tmp_path / "a")), Store.at(str(tmp_path / "b"))
    for start in range(0, 40, 5):
        ask(often, range(start, start + 5), seconds=100.0)
        last = kept(store, often)
    ask(once, range(40), seconds=100.0)
    assert ids(last) == ids(kept(other, once))
    assert [window.number for window in read_traffic(last).windows] == list(range(1, 11))


def test_the_cursor_holds_only_what_may_still_be_mixed_up(log: TrafficLog):
    ask(log, range(8), seconds=LATE_SECONDS)
    assert cut(log, Cursor(), window=4, now=NOW).cursor.recent == ("6", "7")


def test_a_window_comes_back_as_it_was_logged_with_its_feedback_and_its_hash(tmp_path: Path, log: TrafficLog):
    log.append(
        [replace(ROW, id="a"), replace(ROW, id="b", ts=2.0, status=504, valid=None, confidence=None, answer_scrubbed=None, version="2")]
    )
    log.feedback(Feedback("a", thumb="down", corrected="fees"))
    artifact = kept(Store.at(str(tmp_path / "store")), log, window=2)
    [window] = read_traffic(artifact).windows
    assert read_window(artifact, window) == [logged.row() for logged in log.window(2)]
    assert (window.versions, window.statuses, window.requests) == ({"1": 1, "2": 1}, {"200": 1, "504": 1}, 2)
    assert file_sha256(artifact.file(window.file)) == window.sha256


def test_an_artifact_takes_over_the_last_windows_of_the_one_before_unchanged(tmp_path: Path, log: TrafficLog):
    store = Store.at(str(tmp_path / "store"))
    ask(log, range(4 * KEPT_WINDOWS))
    first = read_traffic(kept(store, log)).windows
    ask(log, range(4 * KEPT_WINDOWS, 4 * KEPT_WINDOWS + 8))
    second = kept(store, log)
    windows = read_traffic(second).windows
    assert windows[:-2] == first[2:]
    assert [window.number for window in windows] == list(range(3, KEPT_WINDOWS + 3))
    assert store.damage(second) == []


def test_a_backlog_beyond_what_is_read_at_once_is_told(log: TrafficLog):
    ask(log, range(20))
    found = cut(log, Cursor(), window=4, now=NOW, most=10)
    assert ([window[0].request.id for window in found.windows], found.waiting, found.left_out) == (["10", "14"], 2, True)


def test_requests_of_other_arms_are_in_no_window(log: TrafficLog):
    log.append([replace(ROW, id=str(number), arm="probe") for number in range(8)])
    assert cut(log, Cursor(), window=4, now=NOW).windows == ()
