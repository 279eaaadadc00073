"""The log's writer: nothing raw reaches the disk, answers never wait or fail because of it, and what is lost is counted."""

import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.traffic import Feedback, ServedRequest, TrafficLog, UnknownRequest
from fine_tune_pipeline.artifacts.traffic_database import LogFailed
from fine_tune_pipeline.programs.serving.answer_count import FILE as COUNT
from fine_tune_pipeline.programs.serving.answer_count import AnswerCount
from fine_tune_pipeline.programs.serving.scrubbing_thread import Scrubber
from fine_tune_pipeline.programs.serving.traffic_writer import Answered, NotScrubbed, TrafficWriter
from fine_tune_pipeline_tests.artifacts.test_traffic import ROW, on_server
from fine_tune_pipeline_tests.guide.dataset.postgres import BINARIES, postgres, stop
from fine_tune_pipeline_tests.programs.serving.serving_stand import scrubber
from fine_tune_pipeline_tests.waiting import wait_until

SECRET = "Ann Smith"
WAIT = 20.0


class Unscrubbable(Exception):
    """What a third-party scrubber may raise."""


def clean(text: str) -> str:
    if "broken" in text:
        raise Unscrubbable(text)
    return text.replace(SECRET, "<PERSON>")


def writer_of(log: TrafficLog, make: Callable[[], Scrubber] = lambda: scrubber(clean), **more: Any) -> TrafficWriter:
    return TrafficWriter(log, scrubber=make, salt=b"salt", **more)


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
    wait_until(lambda: writer.problem)
    assert "Unscrubbable" in str(writer.problem)
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
        writer = TrafficWriter(log, scrubber=lambda: scrubber(clean), salt=salt)
        writer.put(answered("1", "hello"))
        writer.close(WAIT)
        hashes.append(log.window(1)[0].request.user_hash)
    assert hashes[0] == hashes[2] != hashes[1]


class FullDisk(TrafficLog):
    """A log whose disk is full as long as a file says so."""

    def write(self, rows: Sequence[ServedRequest] = (), **more: Any) -> None:
        if self.path.with_name("full").exists():
            raise LogFailed("database or disk is full")
        super().write(rows, **more)


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

    def write(self, rows: Sequence[ServedRequest] = (), **more: Any) -> None:
        marker = self.path.with_name("died")
        if not marker.exists():
            marker.touch()
            raise TypeError("a bug")
        super().write(rows, **more)


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


def test_while_the_scrubber_is_slow_rows_are_there_without_texts_and_get_them_later(tmp_path: Path):
    log, gate = TrafficLog.at(tmp_path), threading.Event()

    def slow() -> Scrubber:
        assert gate.wait(WAIT)
        return scrubber(clean, name="slow")

    writer = writer_of(log, slow)
    writer.put(answered("1", f"I am {SECRET}", "lost_card", closed=True))
    wait_until(lambda: len(log) == 1)
    bare = log.window(1)[0].request
    assert (bare.prompt_scrubbed, bare.answer_scrubbed, bare.scrubber, bare.prompt_characters) == (None, "lost_card", "", 14)
    assert bare.prompt_hash is not None
    gate.set()
    wait_until(lambda: log.window(1)[0].request.prompt_scrubbed is not None)
    whole = log.window(1)[0].request
    assert whole == replace(bare, prompt_scrubbed="I am <PERSON>", prompt_hash=None, scrubber="slow")
    writer.close(WAIT)
    assert SECRET.encode() not in on_disk(tmp_path)


def test_texts_that_the_scrubber_still_has_are_written_when_the_server_ends(tmp_path: Path):
    log, gate = TrafficLog.at(tmp_path), threading.Event()

    def held(text: str) -> str:
        assert gate.wait(WAIT)
        return clean(text)

    writer = writer_of(log, lambda: scrubber(held))
    for number in range(5):
        writer.put(answered(str(number), f"I am {SECRET}"))
    wait_until(lambda: len(log) == 5)
    threading.Timer(0.2, gate.set).start()
    writer.close(WAIT)
    assert {logged.request.prompt_scrubbed for logged in log.window(9)} == {"I am <PERSON>"}


SERVER = """
import os, signal, sys
from pathlib import Path
from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.programs.serving.answer_count import FILE, AnswerCount
from fine_tune_pipeline_tests.programs.serving.test_serve_traffic_writer import answered, writer_of
from fine_tune_pipeline_tests.waiting import wait_until

folder, written, lost = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
log = TrafficLog.at(folder, kept_open=True)
begun = len(log)
writer = writer_of(log, count=AnswerCount(folder / FILE))
for number in range(written):
    writer.put(answered(f"{begun} {number}", "hello"))
wait_until(lambda: len(log) == begun + written)
for number in range(lost):
    writer.put(answered(f"lost {number}", "hello"))
os.kill(os.getpid(), signal.SIGKILL)
"""
"""Answers, waits until these are in the log, gives a few more answers, and is killed at once."""


def killed(folder: Path, *, written: int, lost: int) -> None:
    done = subprocess.run([sys.executable, "-c", SERVER, str(folder), str(written), str(lost)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_answers_that_a_killed_server_had_given_and_not_written_are_counted_when_it_starts_again(tmp_path: Path):
    killed(tmp_path, written=70, lost=9)
    log = TrafficLog.at(tmp_path)
    assert log.dropped() == 0
    writer = writer_of(log, count=AnswerCount(tmp_path / COUNT))
    wait_until(log.dropped)
    assert len(log) + log.dropped() == 79
    writer.put(answered("again", "hello"))
    writer.close(WAIT)
    again = writer_of(log, count=AnswerCount(tmp_path / COUNT))
    again.close(WAIT)
    assert len(log) + log.dropped() == 80
    assert log.dropped() <= 9


@pytest.mark.parametrize("kept_open", [False, True])
def test_a_server_that_ends_in_order_has_nothing_missing_and_a_log_that_was_taken_away_is_begun_anew(tmp_path: Path, kept_open: bool):
    log = TrafficLog.at(tmp_path, kept_open=kept_open)
    for ids in ("ab", "cd"):
        writer = writer_of(log, count=AnswerCount(tmp_path / COUNT))
        for each in ids:
            writer.put(answered(each, "hello"))
        writer.close(WAIT)
    assert (len(log), log.dropped()) == (4, 0)
    for path in tmp_path.glob("traffic.sqlite*"):
        path.unlink()
    writer = writer_of(log, count=AnswerCount(tmp_path / COUNT))
    writer.put(answered("e", "hello"))
    writer.close(WAIT)
    assert (len(log), log.dropped()) == (1, 0)


def test_a_file_that_is_taken_away_from_a_running_writer_is_made_anew_and_nothing_goes_to_the_old_one(tmp_path: Path):
    log = TrafficLog.at(tmp_path, kept_open=True)
    writer = writer_of(log)
    for each in ("a", "b"):
        writer.put(answered(each, "hello"))
        wait_until(lambda: len(TrafficLog.at(tmp_path)) == 1)
        for path in tmp_path.glob("traffic.sqlite*"):
            path.unlink()
    writer.put(answered("c", "hello"))
    writer.close(WAIT)
    assert [logged.request.id for logged in TrafficLog.at(tmp_path).window(9)] == ["c"]
    assert writer.dropped == 0


def test_a_count_that_cannot_be_kept_does_not_keep_the_server_from_answering(tmp_path: Path):
    (tmp_path / COUNT).mkdir()
    log = TrafficLog.at(tmp_path)
    writer = writer_of(log, count=AnswerCount(tmp_path / COUNT))
    writer.put(answered("a", "hello"))
    writer.close(WAIT)
    assert len(log) == 1


@contextmanager
def small_disk(most_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_really_full_costs_rows_and_nothing_else(tmp_path: Path):
    log = TrafficLog.at(tmp_path)
    writer = writer_of(log)
    writer.put(answered("first", "hello"))
    wait_until(lambda: len(log) == 1)
    with small_disk(40_000):
        for number in range(100):
            writer.put(answered(f"big {number}", "x" * 2000))
        wait_until(lambda: writer.dropped)
        assert writer.problem is not None
    writer.put(answered("last", "hello"))
    writer.close(WAIT)
    kept = [logged.request.id for logged in log.window(200)]
    assert (kept[0], kept[-1]) == ("first", "last")
    assert len(kept) + log.dropped() == 102


@pytest.mark.skipif(not BINARIES, reason="needs PostgreSQL's server: apt-get install postgresql")
def test_a_server_of_the_log_that_goes_away_costs_rows_and_they_are_counted(tmp_path: Path):
    with postgres() as url:
        log = on_server(url, tmp_path, kept_open=True)
        writer = writer_of(log, count=AnswerCount(tmp_path / COUNT))
        writer.put(answered("kept", f"I am {SECRET}"))
        wait_until(lambda: len(log) == 1)
        stop(Path(parse_qs(urlsplit(url).query)["host"][0]))
        for number in range(3):
            writer.put(answered(f"lost {number}", "hello"))
        wait_until(lambda: writer.dropped == 3)
        assert "hunter2" not in str(writer.problem)
        with pytest.raises(LogFailed):
            writer.feedback(Feedback("kept", thumb="up"), closed=False).result(WAIT)
        writer.close(WAIT)
    assert AnswerCount(tmp_path / COUNT).answered == 4
