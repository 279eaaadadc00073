"""What holds at every place: the same cases, run at each."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from fine_tune_pipeline.resources.compute import placed
from fine_tune_pipeline.resources.compute.exchange import exchange, leased
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, failure
from fine_tune_pipeline.resources.compute.place import Place
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline_tests.resources.compute.cloud_stand import CloudStand
from fine_tune_pipeline_tests.resources.compute.docker_stand import DockerStand
from fine_tune_pipeline_tests.resources.compute.kubernetes_stand import KubernetesStand
from fine_tune_pipeline_tests.resources.compute.odd_program import (
    LARGE,
    UNICODE,
    OddRequest,
    OddResult,
    ResumableRequest,
    SettingRequest,
)
from fine_tune_pipeline_tests.resources.compute.ray_stand import RayStand
from fine_tune_pipeline_tests.resources.compute.stands import LocalStand, Stand
from fine_tune_pipeline_tests.waiting import wait_until

STANDS = [
    pytest.param(LocalStand, id="local"),
    pytest.param(CloudStand, id="cloud"),
    pytest.param(DockerStand, id="docker", marks=pytest.mark.docker),
    pytest.param(KubernetesStand, id="kubernetes"),
    pytest.param(RayStand, id="ray", marks=pytest.mark.ray),
]


@pytest.fixture(params=STANDS)
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    """Every kind of place; those that need a server of their own are marked."""
    stand = request.param()
    yield stand
    stand.close()


def executed(place: Place, folder: Path, do: str, *, variables: dict[str, str] | None = None) -> tuple[Ended, Job]:
    """Run the odd program as the product does, without Dagster."""
    folder.mkdir(exist_ok=True)
    request = OddRequest(output=str(folder), do=do)
    with exchange(request) as talk, leased(talk, place.lease) as lease:
        job = Job(request=request, folder=talk, environment={**lease, **(variables or {})})
        return place.execute(job), job


def materialized(place: Place, request: OddRequest, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    @dg.asset
    def odd(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"said": PlacedCompute(place=place).run(context, request, OddResult).said})

    return dg.materialize([odd], instance=instance, raise_on_error=False)


def test_a_program_reads_answers_and_is_seen_live(stand: Stand, tmp_path: Path):
    source, output = tmp_path / "source" / "text", tmp_path / "output"
    source.parent.mkdir()
    output.mkdir()
    source.write_text(UNICODE, encoding="utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        request = OddRequest(output=str(output), do="answer", source=str(source))
        result = materialized(stand.place(), request, instance)
        assert result.asset_materializations_for_node("odd")[0].metadata["said"].value == f"done {UNICODE}"
        last = instance.fetch_observations(dg.AssetKey("odd"), limit=1).records[0].asset_observation
    assert last is not None
    assert {name: value.value for name, value in last.metadata.items()} == {"live/step": 3, "live/steps": 3, "live/loss": 0.3333}
    assert sorted(path.name for path in output.iterdir()) == ["result.json", "times"]
    assert stand.left(tmp_path) == []


def test_a_program_is_started_with_the_settings_of_its_request(stand: Stand, tmp_path: Path):
    request = SettingRequest(output=str(tmp_path), do="tell_setting")
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialized(stand.place(), request, instance)
    assert result.asset_materializations_for_node("odd")[0].metadata["said"].value == "of the request"


def test_a_failed_program_tells_its_reason_in_any_language(stand: Stand, tmp_path: Path):
    ended, job = executed(stand.place(), tmp_path / "output", "fail")
    assert (ended.cause, ended.status) == (Cause.ERROR, 1)
    said = failure(job, ended).description or ""
    assert said.startswith("program odd_program ended with exit code 1")
    assert said.index(f"line before the end {UNICODE}") < said.index("the reason of the failure")
    assert stand.left(tmp_path) == []


def test_a_program_that_takes_too_much_memory_is_told_from_others(stand: Stand, tmp_path: Path):
    ended, job = executed(stand.place(), tmp_path / "output", "take_memory")
    assert ended.cause in (Cause.ERROR, Cause.OUT_OF_MEMORY)
    assert "memory" in (failure(job, ended).description or "")
    assert stand.left(tmp_path) == []


def test_a_program_beyond_its_time_is_ended_with_all_its_children(stand: Stand, tmp_path: Path):
    ended, job = executed(stand.place(timeout_seconds=5), tmp_path / "output", "hang")
    assert ended.cause == Cause.TIMEOUT
    assert "timeout_seconds is 5" in (failure(job, ended).description or "")
    assert "hanging" in ended.tail
    assert stand.left(tmp_path) == []


def test_an_interrupted_program_is_ended_with_all_its_children(stand: Stand, tmp_path: Path):
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until(lambda: stand.hangs(tmp_path / "output"), what="the program hangs")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        executed(stand.place(), tmp_path / "output", "hang")
    thread.join()
    assert stand.left(tmp_path) == []


def test_two_programs_run_at_once(stand: Stand, tmp_path: Path):
    place = stand.place()
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(executed, place, tmp_path / name, "answer") for name in ("one", "two")]
    assert [run.result()[0].cause for run in runs] == [Cause.DONE, Cause.DONE]
    assert [OddResult.read(tmp_path / name / "result.json").said for name in ("one", "two")] == ["done", "done"]


def test_a_large_message_arrives_whole(stand: Stand, tmp_path: Path):
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialized(stand.place(), OddRequest(output=str(tmp_path), do="say_much"), instance)
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert result.success
    assert any("x" * LARGE in said for said in logged)


def test_a_preempted_program_is_tried_again_and_finds_what_it_had_written(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placed, "WAIT_SECONDS", 0)
    (tmp_path / "output").mkdir()
    with dg.DagsterInstance.ephemeral() as instance:
        request = ResumableRequest(output=str(tmp_path / "output"), do="be_preempted")
        result = materialized(stand.place(), request, instance)
    assert result.asset_materializations_for_node("odd")[0].metadata["said"].value == "done after 2"
    assert stand.left(tmp_path) == []


def test_a_preempted_program_that_cannot_go_on_is_a_failure_that_says_so(tmp_path: Path):
    stand = LocalStand()
    (tmp_path / "output").mkdir()
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialized(stand.place(), OddRequest(output=str(tmp_path / "output"), do="be_preempted"), instance)
    failed = result.failure_data_for_node("odd")
    assert failed is not None
    assert failed.user_failure_data is not None
    assert failed.user_failure_data.description is not None
    assert "program odd_program was preempted. It was told to stop" in failed.user_failure_data.description


def test_finished_work_that_nobody_collected_is_not_done_again(stand: Stand, tmp_path: Path):
    request = ResumableRequest(output=str(tmp_path), do="answer")
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            assert materialized(stand.place(), request, instance).success
        assert (tmp_path / "times").read_text(encoding="utf-8") == "."
        other = request.model_copy(update={"source": str(tmp_path / "times")})
        result = materialized(stand.place(), other, instance)
    assert result.asset_materializations_for_node("odd")[0].metadata["said"].value == "done ."
