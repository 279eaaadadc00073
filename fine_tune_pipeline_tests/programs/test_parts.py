"""Rows in parts: bounded, in order, resumed, and the same wherever they are worked on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from fine_tune_pipeline.artifacts.examples import Example, read_examples, write_examples
from fine_tune_pipeline.artifacts.parts import Gathered, cut, each_line, gathered, missing, read_part, total
from fine_tune_pipeline.artifacts.quarantine import read_quarantine
from fine_tune_pipeline.programs.named_work import NotOurs, do_part, work_of
from fine_tune_pipeline.programs.parts_requests import PartsRequest
from fine_tune_pipeline_tests.programs.part_work import FUNCTION, HOLDING
from fine_tune_pipeline_tests.waiting import wait_until

ROWS = [Example(str(number), f"message {number}" + (" spam" if number % 7 == 0 else "") + " \u2028\u0085é", "ok") for number in range(23)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_examples(tmp_path / "examples.jsonl", ROWS)
    return tmp_path / "examples.jsonl"


def settings(tmp_path: Path) -> dict[str, str]:
    return {"word": "spam", "broken": str(tmp_path / "broken")}


def here(source: Path, folder: Path) -> Gathered:
    for part in missing(cut(source, rows=5), folder):
        do_part(part, function=FUNCTION, settings=json.dumps(settings(source.parent)), folder=str(folder))
    return gathered(cut(source, rows=5), folder)


def test_the_parts_hold_every_row_once_and_in_order(source: Path):
    parts = cut(source, rows=5)
    assert [part.rows for part in parts] == [5, 5, 5, 5, 3]
    assert [row for part in parts for row in read_part(part)] == ROWS == list(each_line(source))


def test_an_empty_file_has_no_parts(tmp_path: Path):
    write_examples(tmp_path / "none.jsonl", [])
    assert cut(tmp_path / "none.jsonl") == []


def test_what_comes_of_the_parts_is_what_comes_of_all_rows_at_once(source: Path, tmp_path: Path):
    done = here(source, tmp_path / "parts")
    done.write(examples=tmp_path / "kept.jsonl", quarantine=tmp_path / "quarantine.jsonl")
    whole = work_of(FUNCTION, json.dumps(settings(tmp_path)))(ROWS)
    assert read_examples(tmp_path / "kept.jsonl") == whole.kept
    assert read_quarantine(tmp_path) == whole.quarantine
    assert (done.rows_in, done.kept, done.reasons["unwanted"]) == (23, 19, 4)
    assert total(note["letters"] for note in done.notes) == whole.notes["letters"]


def test_a_broken_run_goes_on_where_it_was(source: Path, tmp_path: Path):
    write_examples(source, [*ROWS[:12], Example("x", "boom", "ok"), *ROWS[12:]])
    (tmp_path / "broken").touch()
    with pytest.raises(RuntimeError, match="boom"):
        here(source, tmp_path / "parts")
    assert [part.number for part in missing(cut(source, rows=5), tmp_path / "parts")] == [2, 3, 4]
    (tmp_path / "broken").unlink()
    assert here(source, tmp_path / "parts").rows_in == 24


def test_a_part_cut_otherwise_is_done_again(source: Path, tmp_path: Path):
    here(source, tmp_path / "parts")
    assert missing(cut(source, rows=5), tmp_path / "parts") == []
    assert [part.number for part in missing(cut(source, rows=10), tmp_path / "parts")] == [0, 1, 2]


def test_only_functions_of_the_package_are_run():
    with pytest.raises(NotOurs, match="os:system"):
        work_of("os:system", "{}")


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_every_engine_gives_the_same_files(source: Path, tmp_path: Path, engine: str):
    here(source, tmp_path / "here").write(examples=tmp_path / "a.jsonl", quarantine=tmp_path / "b.jsonl")
    folder = tmp_path / "parts"
    folder.mkdir()
    request = PartsRequest.model_validate(
        {"output": str(folder), "function": FUNCTION, "settings": settings(tmp_path), "source": str(source), "folder": str(folder),
         "engine": engine, "workers": 2, "part_rows": 5}
    )  # fmt: skip
    request.write(folder / "request.json")
    command = [sys.executable, "-m", request.module, "--request", str(folder / "request.json")]
    with TemporaryDirectory(prefix="ray", dir="/tmp") as place:  # short: Ray keeps sockets in it
        # What a cluster leaves that was killed; Ray would wait for it.
        (Path(place) / "ray").mkdir()
        (Path(place) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1", encoding="utf-8")
        environment = {**os.environ, "RAY_TMPDIR": place}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr[-5000:]
    gathered(cut(source, rows=5), folder).write(examples=tmp_path / "c.jsonl", quarantine=tmp_path / "d.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "d.jsonl").read_bytes()


def test_no_worker_outlives_a_killed_program(source: Path, tmp_path: Path):
    folder = tmp_path / "parts"
    folder.mkdir()
    settings = {"folder": str(tmp_path)}
    request = PartsRequest(
        output=str(folder), function=HOLDING, settings=settings, source=str(source), folder=str(folder), workers=2, part_rows=5
    )
    request.write(folder / "request.json")
    command = [sys.executable, "-m", request.module, "--request", str(folder / "request.json")]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, what="both workers")
        workers = [psutil.Process(int(path.stem)) for path in tmp_path.glob("*.pid")]
    finally:
        program.kill()
        program.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
