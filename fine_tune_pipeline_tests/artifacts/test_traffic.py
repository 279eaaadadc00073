"""The traffic log: what is written is found again, feedback counts once, nothing is made up."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.traffic import FILE, Feedback, ServedRequest, TrafficLog, UnknownRequest

ROW = ServedRequest(
    id="a",
    ts=1.0,
    use_case="bank",
    version="1",
    arm="champion",
    prompt_scrubbed="where is my card, <PERSON>",
    answer_scrubbed="lost_card",
    prompt_tokens=7,
    new_tokens=2,
    latency_ms=12.5,
    status=200,
    valid=True,
    confidence=-0.25,
    user_hash="ab12",
    prompt_characters=30,
    answer_characters=9,
    scrubber="test",
)


@pytest.fixture
def log(tmp_path: Path) -> TrafficLog:
    return TrafficLog.at(tmp_path / "endpoint")


def test_a_log_that_was_never_written_is_empty_and_reading_it_makes_no_file(log: TrafficLog):
    assert (log.corrections(), log.window(10), log.dropped(), len(log)) == ([], [], 0, 0)
    assert not log.path.parent.exists()


def test_a_row_comes_back_as_it_was_written(log: TrafficLog):
    unscrubbed = replace(ROW, id="b", ts=2.0, prompt_scrubbed=None, prompt_hash="f0", valid=None, confidence=None)
    log.append([ROW, unscrubbed])
    assert [logged.request for logged in log.window(10)] == [ROW, unscrubbed]


def test_rows_are_written_all_or_none(log: TrafficLog):
    log.append([ROW])
    with pytest.raises(sqlite3.IntegrityError):
        log.append([replace(ROW, id="new"), ROW])
    assert len(log) == 1


def test_the_window_holds_the_last_requests_of_the_champion_oldest_first(log: TrafficLog):
    log.append([replace(ROW, id=str(number), ts=float(number)) for number in range(6)])
    log.append([replace(ROW, id="probe", ts=9.0, arm="probe"), replace(ROW, id="v2", ts=8.0, version="2")])
    assert [logged.request.id for logged in log.window(3)] == ["4", "5", "v2"]
    assert [logged.request.id for logged in log.window(3, versions=["1"])] == ["3", "4", "5"]
    assert [logged.request.id for logged in log.window(10, since=5.0)] == ["5", "v2"]
    assert [logged.request.id for logged in log.window(10, arm="probe")] == ["probe"]


def test_feedback_on_an_unknown_request_is_refused(log: TrafficLog):
    log.append([ROW])
    with pytest.raises(UnknownRequest, match="'nobody'"):
        log.feedback(Feedback("nobody", thumb="up"))


def test_the_same_feedback_twice_counts_once_and_another_word_of_the_same_source_replaces_it(log: TrafficLog):
    log.append([ROW])
    for _ in range(2):
        log.feedback(Feedback("a", thumb="down", source="ann"), ts=5.0)
    log.feedback(Feedback("a", thumb="up", source="bob"), ts=6.0)
    log.feedback(Feedback("a", thumb="up", source="ann"), ts=7.0)
    assert log.window(1)[0].feedback == (Feedback("a", "up", None, "bob"), Feedback("a", "up", None, "ann"))


def test_the_latest_correction_of_a_request_counts(log: TrafficLog):
    log.append([ROW, replace(ROW, id="b", ts=0.5, version="2"), replace(ROW, id="c")])
    log.feedback(Feedback("a", corrected="stolen_card", source="ann"), ts=10.0)
    log.feedback(Feedback("a", corrected="lost_card", source="bob"), ts=9.0)
    log.feedback(Feedback("b", corrected="fees", source="bob"), ts=8.0)
    log.feedback(Feedback("c", thumb="up"), ts=8.0)
    prompt = ROW.prompt_scrubbed
    assert log.corrections() == [
        {"id": "b", "prompt": prompt, "completion": "fees", "version": "2"},
        {"id": "a", "prompt": prompt, "completion": "stolen_card", "version": "1"},
    ]


def test_a_correction_of_a_request_without_text_is_no_example(log: TrafficLog):
    log.append([replace(ROW, prompt_scrubbed=None)])
    log.feedback(Feedback("a", corrected="fees"))
    assert log.corrections() == []


def test_dropped_rows_add_up(log: TrafficLog):
    log.drop(3, reason="disk full")
    log.drop(4, reason="disk full")
    assert log.dropped() == 7


def test_more_requests_than_one_statement_takes_keep_their_feedback(log: TrafficLog):
    log.append([replace(ROW, id=str(number), ts=float(number)) for number in range(1200)])
    for request_id in ("0", "700", "1199"):
        log.feedback(Feedback(request_id, thumb="down"))
    said = [logged.request.id for logged in log.window(1200) if logged.feedback]
    assert said == ["0", "700", "1199"]


def test_a_reader_sees_whole_batches_while_a_writer_is_at_work(log: TrafficLog):
    log.append([ROW])
    with sqlite3.connect(log.path) as writer:
        writer.execute("UPDATE request SET answer_scrubbed = 'half'")
        assert log.window(1)[0].request.answer_scrubbed == "lost_card"
        writer.rollback()
    writer.close()
    assert log.path.name == FILE


def test_a_log_of_an_earlier_version_gets_the_columns_that_came_later(log: TrafficLog):
    log.append([ROW])
    with sqlite3.connect(log.path) as connection:
        for name in ("before_scrubbed", "sources"):
            connection.execute(f"ALTER TABLE request DROP COLUMN {name}")
    assert log.window(1)[0].request == ROW
    log.append([replace(ROW, id="b", ts=ROW.ts + 1, before_scrubbed='{"history": []}', sources='["a"]')])
    assert log.window(1)[0].request.sources == '["a"]'
    log.feedback(Feedback("b", corrected="fees"))
    assert log.corrections()[0]["before"] == '{"history": []}'
