"""The ledger: appended to, never changed, whole after a crash."""

import json
import multiprocessing

import pytest

from fine_tune_pipeline.artifacts.examples import BrokenLine
from fine_tune_pipeline.artifacts.ledger import Ledger


def said(ledger):
    return [(entry["file"], entry["verdict"]) for entry in ledger.entries()]


def entries(*words):
    return [{"content": f"c{place}", "verdict": word} for place, word in enumerate(words)]


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "kind" / "ledger.jsonl")


def test_a_file_that_is_read_again_adds_nothing(ledger):
    assert ledger.take("a", entries("accept", "fix")) == 2
    before = ledger.path.read_bytes()
    assert ledger.take("a", entries("accept", "fix")) == 0
    assert ledger.path.read_bytes() == before


def test_a_file_that_grew_adds_what_is_new(ledger):
    ledger.take("a", entries("accept"))
    assert ledger.take("a", entries("accept", "fix")) == 1
    assert said(ledger) == [("a", "accept"), ("a", "fix")]


def test_a_line_that_was_changed_and_changed_back_is_the_latest_each_time(ledger):
    for word in ("accept", "reject", "accept"):
        ledger.take("a", entries(word))
    assert [word for _, word in said(ledger)] == ["accept", "reject", "accept"]


def test_an_old_file_that_is_read_again_does_not_undo_a_newer_one(ledger):
    ledger.take("a", entries("accept"))
    ledger.take("b", entries("reject"))
    ledger.take("a", entries("accept"))
    assert said(ledger) == [("a", "accept"), ("b", "reject")]


def test_what_is_gone_from_a_file_is_still_remembered(ledger):
    ledger.take("a", entries("accept", "fix"))
    ledger.take("a", [])
    assert len(ledger.entries()) == 2


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_line_torn_by_a_crash_is_cut_off_and_its_file_taken_in_again(ledger, cut):
    ledger.take("a", entries("accept"))
    whole = ledger.path.read_bytes()
    ledger.take("b", entries("reject", "fix"))
    ledger.path.write_bytes(ledger.path.read_bytes()[: len(whole) + cut])
    assert said(ledger) == [("a", "accept")]
    ledger.take("b", entries("reject", "fix"))
    assert said(ledger) == [("a", "accept"), ("b", "reject"), ("b", "fix")]
    assert all(json.loads(line) for line in ledger.path.read_text(encoding="utf-8").splitlines())


def test_damage_in_the_middle_is_told_with_its_line(ledger):
    ledger.take("a", entries("accept"))
    ledger.path.write_bytes(b"{broken\n" + ledger.path.read_bytes())
    with pytest.raises(BrokenLine, match=r"ledger\.jsonl:1: not JSON"):
        ledger.entries()


def _write(path, name):
    for number in range(20):
        Ledger(path).take(name, entries(*["accept"] * (number + 1)))


def test_two_processes_at_once_lose_nothing(ledger):
    start = multiprocessing.get_context("spawn").Process
    running = [start(target=_write, args=(ledger.path, name)) for name in ("a", "b")]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert {name: sum(found == name for found, _ in said(ledger)) for name in ("a", "b")} == {"a": 20, "b": 20}
