"""The log's writer: nothing raw reaches the disk, answers never wait or fail because of it, and what is lost is counted."""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.traffic import Feedback, ServedRequest, TrafficLog, UnknownRequest
from fine_tune_pipeline.programs.serving.traffic_writer import Answered, NotScrubbed, Scrubber, TrafficWriter
from fine_tune_pipeline_tests.artifacts.test_traffic import ROW
from fine_tune_pipeline_tests.waiting import wait_until

SECRET = "Ann Smith"
WAIT = 20.0


class Unscrubbable(Exception):
    """What a third-party scrubber may raise."""


def clean(text: str) -> str:
    if "broken" in text:
        raise Unscrubbable(text)
    return text.replace(SECRET, "<PERSON>")


def writer_of(log: TrafficLog, make: Callable[[], Scrubber] = lambda: Scrubber("test", clean)) -> TrafficWriter:
    return TrafficWriter(log, scrubber=make, salt=b"salt")


def answered(request_id: str, prompt: str, answer: str = "lost_card", *, closed: bool = False) -> Answered:
    row = ServedRequest(**{**ROW.__dict__, "id": request_id, "prompt_scrubbed": None, "answer_scrubbed": None})
    return Answered(row=row, asked=Asked(prompt), answer=answer, user=SECRET, closed=closed)


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_personal_data_is_taken_out_before_the_row_reaches_the_disk(tmp_path: Path):
    log = TrafficLog.at(tmp_path)
    writer = writer_of(log)
    writer.put(answered("1", f"I am {SECRET}", f"Dear {SECRET}"))
    writer.close(WAIT)
    found = log.window(1)[0].request
    assert (found.prompt_scrubbed, found.answer_scrubbed, found.scrubber) == ("I am <PERSON>", "Dear <PERSON>", "test")
    assert (found.prompt_characters, found.answer_characters, found.prompt_hash) == (14, 14, None)
    assert SECRET.encode() not in on_disk(tmp_path)


def test_a_text_that_cannot_be_scrubbed_is_kept_as_length_and_hash_only(tmp_path: Path):
    log = TrafficLog.at(tmp_path)
    writer = writer_of(log)
    writer.put(answered("1", "broken text of Ann Smith"))
    wait_until(lambda: len(log) == 1)
    assert writer.problem is not None
    assert "Unscrubbable" in writer.problem
    writer.put(answered("2", "fine"))
    writer.close(WAIT)
    bad, good = log.window(2)
    assert (bad.request.prompt_scrubbed, bad.request.prompt_characters) == (None, 24)
    assert bad.request.prompt_hash is not None
    assert (good.request.prompt_scrubbed, writer.problem) == ("fine", None)
    assert SECRET.encode() not in on_disk(tmp_path)


def test_without_a_scrubber_no_text_is_kept_at_all(tmp_path: Path):
    def missing() -> Scrubber:
        raise Unscrubbable("no NER model")

    log = TrafficLog.at(tmp_path)
    writer = writer_of(log, missing)
    writer.put(answered("1", "hello"))
    writer.close(WAIT)
    assert log.window(1)[0].request.prompt_scrubbed is None
    assert writer.problem is not None
    assert "no NER model" in writer.problem


def test_an_answer_out_of_a_closed_list_is_kept_as_it_is(tmp_path: Path):
    log = TrafficLog.at(tmp_path)
    writer = writer_of(log)
    writer.put(answered("1", "hello", SECRET, closed=True))
    writer.close(WAIT)
    assert log.window(1)[0].request.answer_scrubbed == SECRET


def test_users_are_kept_as_keyed_hashes(tmp_path: Path):
    hashes = []
    for salt, folder in ((b"one", "a"), (b"two", "b"), (b"one", "c")):
        log = TrafficLog.at(tmp_path / folder)
        writer = TrafficWriter(log, scrubber=lambda: Scrubber("test", clean), salt=salt)
        writer.put(answered("1", "hello"))
        writer.close(WAIT)
        hashes.append(log.window(1)[0].request.user_hash)
    assert hashes[0] == hashes[2] != hashes[1]


class FullDisk(TrafficLog):
    """A log whose disk is full as long as a file says so."""

    def append(self, rows: Sequence[ServedRequest]) -> None:
        if self.path.with_name("full").exists():
            raise sqlite3.OperationalError("database or disk is full")
        super().append(rows)


def test_a_full_disk_is_told_and_counted_and_the_log_goes_on_when_there_is_room(tmp_path: Path):
    (tmp_path / "full").touch()
    log = FullDisk.at(tmp_path)
    writer = writer_of(log)
    for number in range(3):
        writer.put(answered(f"lost {number}", "hello"))
    wait_until(lambda: writer.dropped == 3)
    assert writer.problem is not None
    assert "disk is full" in writer.problem
    (tmp_path / "full").unlink()
    writer.put(answered("kept", "hello"))
    writer.close(WAIT)
    assert [logged.request.id for logged in log.window(9)] == ["kept"]
    assert (log.dropped(), writer.problem) == (3, None)


class DyingLog(TrafficLog):
    """A log that dies of a programming error the first time."""

    def append(self, rows: Sequence[ServedRequest]) -> None:
        marker = self.path.with_name("died")
        if not marker.exists():
            marker.touch()
            raise TypeError("a bug")
        super().append(rows)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_writers_thread_dies_its_rows_are_counted_and_a_new_thread_goes_on(tmp_path: Path):
    log = DyingLog.at(tmp_path)
    writer = writer_of(log)
    writer.put(answered("lost", "hello"))
    wait_until(lambda: writer.dropped == 1 and not any(thread.name == "traffic-log" for thread in threading.enumerate()))
    writer.put(answered("kept", "hello"))
    writer.close(WAIT)
    assert [logged.request.id for logged in log.window(9)] == ["kept"]


def test_feedback_waits_for_its_request_and_its_correction_is_scrubbed(tmp_path: Path):
    log = TrafficLog.at(tmp_path)
    writer = writer_of(log)
    writer.put(answered("1", "hello"))
    writer.feedback(Feedback("1", corrected=f"ask {SECRET}"), closed=False).result(WAIT)
    assert log.corrections()[0]["completion"] == "ask <PERSON>"
    with pytest.raises(UnknownRequest):
        writer.feedback(Feedback("2", thumb="up"), closed=False).result(WAIT)
    with pytest.raises(NotScrubbed):
        writer.feedback(Feedback("1", corrected="broken"), closed=False).result(WAIT)
    writer.close(WAIT)
    assert log.corrections()[0]["completion"] == "ask <PERSON>"
