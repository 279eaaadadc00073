"""A search with two trials at a time on a real cluster: the same table, whatever is killed, and nothing left when it is cancelled."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from fine_tune_pipeline.programs import search
from fine_tune_pipeline.programs.search_requests import SearchRequest, SearchResult
from fine_tune_pipeline.programs.searching.rung import LIVE
from fine_tune_pipeline.resources.compute.job import Cause
from fine_tune_pipeline_tests.programs.searching.searches import search_request
from fine_tune_pipeline_tests.programs.searching.test_search import found
from fine_tune_pipeline_tests.resources.compute.ray_stand import WORKER, RayStand, ray_place
from fine_tune_pipeline_tests.resources.compute.stands import processes_with
from fine_tune_pipeline_tests.resources.compute.test_ray import execute
from fine_tune_pipeline_tests.small_training import Recorder, write_rows
from fine_tune_pipeline_tests.tiny import tiny_model
from fine_tune_pipeline_tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

LONG_SECONDS = 240.0
"""For programs to load their libraries on a busy machine."""


def asked(output: Path, *, model: Path, data: Path, at_once: int = 2) -> SearchRequest:
    return search_request(output, model=model, data=data, trials=3, rungs=(1.0,), at_once=at_once)


def program_of(folder: Path, number: int) -> psutil.Process | None:
    """The program of a trial, while it runs."""
    place = folder / "trials" / f"{number:04d}" / "rung-1"
    # All processes are looked through only once it was asked for.
    programs = processes_with(place) if any(place.glob(LIVE)) else []
    return psutil.Process(int(programs[0].removeprefix("process "))) if programs else None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl")


@pytest.fixture(scope="module")
def together(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search on the cluster; the worker that runs trial 1 is killed once."""
    output = tmp_path_factory.mktemp("together")
    with ThreadPoolExecutor() as pool:
        run = pool.submit(execute, ray_place(resources={WORKER: 1}), asked(output, model=model, data=data))
        program = wait_until(lambda: program_of(output, 1) or run.done(), deadline_seconds=LONG_SECONDS, what="trial 1 runs")
        assert isinstance(program, psutil.Process)
        os.kill(program.ppid(), signal.SIGKILL)
        ended = run.result()
    assert ended.cause == Cause.DONE, ended.tail
    return SearchResult.read(output / "result.json")


def test_the_table_is_that_of_one_after_another_though_a_worker_was_killed(together: SearchResult, model: Path, data: Path, tmp_path: Path):
    result = together
    alone = search.run(asked(tmp_path / "alone", model=model, data=data, at_once=1), Recorder())
    assert found(result) == found(alone)
    assert [trial.rungs[0].lost.partition(":")[0] for trial in result.trials] == ["", "WorkerCrashedError", ""]


def test_two_trials_run_at_the_same_time(together: SearchResult):
    spans = [(trial.rungs[0].began or 0.0, trial.rungs[0].ended or 0.0) for trial in together.trials]
    pairs = [(spans[one], spans[other]) for one in range(3) for other in range(one)]
    assert any(max(one[0], other[0]) < min(one[1], other[1]) for one, other in pairs), spans


def test_a_cancelled_search_leaves_nothing_running(model: Path, data: Path, tmp_path: Path):
    main, output = threading.get_ident(), tmp_path / "cancelled"

    def interrupt() -> None:
        wait_until(lambda: program_of(output, 0) and program_of(output, 1), deadline_seconds=LONG_SECONDS, what="two trials run")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        execute(ray_place(resources={WORKER: 1}, grace_seconds=20), asked(output, model=model, data=data))
    thread.join()
    assert RayStand().left(tmp_path) == []


def test_more_trials_than_the_cluster_has_room_for_are_refused_with_what_it_has():
    place = ray_place(resources={WORKER: 1})
    assert place.refused(2) == ""
    said = place.refused(3)
    assert said.startswith("the Ray cluster has room for 2 tasks of 0.5 CPU, 1 worker at the same time: it has a node of ")
    assert "a node of 2 CPU, 1 GPU, 1 GiB memory, 1 accelerator_type:A100, 2 worker" in said
    assert ray_place(gpus=1).refused(2).startswith("the Ray cluster has room for 1 tasks")
