"""Tasks of one program on the nodes of a real Ray cluster: how their ends are told, and that none outlives its program."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fine_tune_pipeline.resources.compute.job import Cause, Ended
from fine_tune_pipeline.resources.compute.ray import Ray
from fine_tune_pipeline_tests.resources.compute.ray_stand import STORE_BYTES, WORKER, RayStand, cluster, ray_place
from fine_tune_pipeline_tests.resources.compute.spread_program import SpreadRequest, SpreadResult
from fine_tune_pipeline_tests.resources.compute.stands import processes_with
from fine_tune_pipeline_tests.resources.compute.test_ray import execute
from fine_tune_pipeline_tests.waiting import wait_until

pytestmark = pytest.mark.ray


def begun(folder: Path) -> bool:
    return all((folder / f"{number}.begun").exists() for number in range(2))


def task_of(folder: Path, number: int) -> psutil.Process:
    """The process that a task has started."""
    return psutil.Process(int((folder / f"{number}.begun").read_text(encoding="utf-8").split()[0]))


def worker_of(folder: Path, number: int) -> psutil.Process:
    """The process of Ray that runs a task."""
    return psutil.Process(int((folder / f"{number}.begun").read_text(encoding="utf-8").split()[1]))


def program_of(folder: Path) -> psutil.Process:
    """The program that has handed the tasks on."""
    named = [psutil.Process(int(one.removeprefix("process "))) for one in processes_with(folder / ".exchange")]
    return next(process for process in named if "--request" in process.cmdline() and "-c" not in process.cmdline())


@contextmanager
def spread(place: Ray, folder: Path) -> Iterator["Future[Ended]"]:
    """Two tasks, once both run."""
    with ThreadPoolExecutor() as pool:
        run = pool.submit(execute, place, SpreadRequest(output=str(folder)))
        wait_until(lambda: begun(folder) or run.done(), deadline_seconds=200, what="two tasks run")
        assert begun(folder), run.result().tail
        yield run


def ends(folder: Path) -> dict[int, tuple[int | None, str]]:
    return SpreadResult.read(folder / "result.json").ended


def test_a_task_whose_worker_is_killed_is_lost_and_the_other_comes_to_its_end(tmp_path: Path):
    with spread(ray_place(resources={WORKER: 1}), tmp_path) as run:
        assert (tmp_path / "0.begun").read_text(encoding="utf-8").split()[2:] == ["1", "False"]
        program = task_of(tmp_path, 0)
        worker_of(tmp_path, 0).kill()
        wait_until(lambda: not program.is_running(), what="its program ends")
        (tmp_path / "go").touch()
        assert run.result().cause == Cause.DONE
    lost, other = ends(tmp_path)[0], ends(tmp_path)[1]
    assert lost[0] is None
    assert lost[1].startswith("WorkerCrashedError: ")
    assert other == (0, "task 1\n")
    assert RayStand().left(tmp_path) == []


def test_a_task_whose_node_dies_is_lost(tmp_path: Path):
    doomed = {"num_cpus": 1, "memory": 1 << 30, "object_store_memory": STORE_BYTES, "resources": {"doomed": 1}}
    added = [cluster().add_node(**doomed) for _ in range(2)]
    with spread(ray_place(resources={"doomed": 1}), tmp_path) as run:
        above = {parent.pid for parent in program_of(tmp_path).parents()}
        [node] = [one for one in added if one.all_processes["raylet"][0].process.pid not in above]
        [number] = [one for one in range(2) if worker_of(tmp_path, one).ppid() == node.all_processes["raylet"][0].process.pid]
        program = task_of(tmp_path, number)
        cluster().remove_node(node, allow_graceful=False)
        wait_until(lambda: not program.is_running(), what="its program ends")
        (tmp_path / "go").touch()
        assert run.result().cause == Cause.DONE
    found = ends(tmp_path)
    assert found[number][0] is None
    assert found[1 - number] == (0, f"task {1 - number}\n")
    [other] = [one for one in added if one is not node]
    cluster().remove_node(other, allow_graceful=False)
    wait_until(lambda: not processes_with(tmp_path), what="the node's processes end")


def test_tasks_end_with_a_program_that_is_killed(tmp_path: Path):
    with spread(ray_place(resources={WORKER: 1}), tmp_path) as run:
        program_of(tmp_path).kill()
        ended = run.result()
    assert (ended.cause, ended.status) == (Cause.ERROR, -9)
    wait_until(lambda: not processes_with(tmp_path), what="the tasks end")
    assert not (tmp_path / "result.json").exists()


def test_tasks_of_a_program_that_is_cancelled_are_told_to_stop_and_none_is_left(tmp_path: Path):
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until(lambda: begun(tmp_path), deadline_seconds=200, what="two tasks run")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        execute(ray_place(resources={WORKER: 1}, grace_seconds=20), SpreadRequest(output=str(tmp_path)))
    thread.join()
    assert sorted(path.name for path in tmp_path.glob("*.told")) == ["0.told", "1.told"]
    assert RayStand().left(tmp_path) == []
    assert os.listdir(tmp_path / ".exchange")
