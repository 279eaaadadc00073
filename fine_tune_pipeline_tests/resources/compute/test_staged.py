"""Files that go to a place and back over a shelf: in a folder, and in a bucket of a server that speaks S3's protocol."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fine_tune_pipeline.programs.requests import PredictJob, PredictRequest, PromptFormat
from fine_tune_pipeline.programs.staged import Keeper
from fine_tune_pipeline.programs.staging import BLOBS, FILES, OUTPUTS, STAGE, Outputs, Root, Shelf, Stage, moved, staged
from fine_tune_pipeline.resources.compute.exchange import exchange
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure
from fine_tune_pipeline.resources.compute.staged import Staged, on_shelf
from fine_tune_pipeline_tests.resources.compute.odd_program import UNICODE, OddRequest, OddResult, ResumableRequest
from fine_tune_pipeline_tests.waiting import wait_until

moto = pytest.importorskip("moto.server", reason="needs moto[s3]")


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A shelf's URL."""
    if request.param == "file":
        yield f"file://{tmp_path}/shelf"
        return
    from s3fs import S3FileSystem

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
    access = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**access, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    S3FileSystem().mkdir("shelf")
    yield "s3://shelf/ours"
    server.stop()
    S3FileSystem.clear_instance_cache()


@contextmanager
def job_of(request: OddRequest) -> Iterator[Job]:
    Path(request.output).mkdir(exist_ok=True)
    with exchange(request) as talk:
        yield Job(request=request, folder=talk)


def command(shelf: Staged) -> list[str]:
    return shelf.command([sys.executable, "-m", shelf.job.request.module, "--request", str(shelf.job.request_file)])


def elsewhere(shelf: Staged) -> Ended:
    """What a place does: start the command, and say how it ended."""
    done = subprocess.run(command(shelf), check=False, capture_output=True, text=True)
    return Ended.by(done.returncode, done.stdout + done.stderr)


def run(request: OddRequest, url: str) -> Ended:
    with job_of(request) as job, on_shelf(job, url, lease_seconds=60) as shelf:
        return shelf.collected(elsewhere(shelf))


def names(url: str) -> list[str]:
    """What lies on the shelf."""
    shelf = Shelf.at(url)
    return sorted(name.removeprefix(shelf.root.lstrip("/")).removeprefix(shelf.root) for name in shelf.system.find(shelf.root))


def test_a_program_reads_and_answers_without_a_folder_that_both_see(url: str, tmp_path: Path):
    source = tmp_path / "in" / "text"
    source.parent.mkdir()
    source.write_text(UNICODE, encoding="utf-8")
    output = tmp_path / "out"
    assert run(OddRequest(output=str(output), do="answer", source=str(source)), url).cause == Cause.DONE
    assert OddResult.read(output / "result.json").said == f"done {UNICODE}"
    assert sorted(path.name for path in output.iterdir()) == ["result.json", "times"]
    # What was read stays for the next program, and nothing else.
    assert [name.split("/")[1] for name in names(url)] == [BLOBS]


def test_what_is_there_already_is_not_brought_again(url: str, tmp_path: Path):
    source = tmp_path / "weights"
    source.write_bytes(b"w" * 100_000)
    run(OddRequest(output=str(tmp_path / "one"), do="answer", source=str(source)), url)
    shelf = Shelf.at(url)
    (blob,) = shelf.system.find(shelf.root)
    before = shelf.system.modified(blob)
    run(OddRequest(output=str(tmp_path / "two"), do="answer", source=str(source)), url)
    assert shelf.system.modified(blob) == before


def test_a_program_that_fails_leaves_nothing_here_nor_there(url: str, tmp_path: Path):
    ended = run(OddRequest(output=str(tmp_path / "out"), do="fail"), url)
    assert (ended.cause, ended.status) == (Cause.ERROR, 1)
    assert "the reason of the failure" in ended.tail
    assert not (tmp_path / "out" / "result.json").exists()
    assert names(url) == []


def test_a_shelf_out_of_reach_is_said_with_its_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "closed").write_text("a file", encoding="utf-8")
    with pytest.raises(PlaceFailure, match=r"compute\.place\.staging: file:.*closed/shelf cannot be used"):
        run(OddRequest(output=str(tmp_path / "out"), do="answer"), f"file://{tmp_path}/closed/shelf")
    access = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in access.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        PlaceFailure, match=r"compute\.place\.staging: s3://bucket cannot be used: OutOfReach: .*Could not connect"
    ) as failure:
        run(OddRequest(output=str(tmp_path / "out"), do="answer"), "s3://bucket")
    assert "hunter2" not in str(failure.value)
    with pytest.raises(PlaceFailure, match=r"compute\.place\.staging: s4://bucket cannot be used: ValueError: Protocol not known: s4"):
        run(OddRequest(output=str(tmp_path / "out"), do="answer"), "s4://bucket")


def test_messages_arrive_while_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dagster_pipes import encode_param

    # What Dagster tells a program that it starts.
    context = {"asset_keys": ["odd"], "code_version_by_asset_key": {}, "provenance_by_asset_key": {}, "run_id": "r", "retry_number": 0}
    nothing = dict.fromkeys(("partition_key", "partition_key_range", "partition_time_window", "job_name"))
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", encode_param({"data": {**context, **nothing, "extras": {}}}))
    monkeypatch.setenv("DAGSTER_PIPES_MESSAGES", encode_param({"path": "/nowhere/else"}))
    monkeypatch.setattr("fine_tune_pipeline.resources.compute.staged.LOOK_SECONDS", 0.1)
    request = OddRequest(output=str(tmp_path / "out"), do="tell_and_wait")
    with job_of(request) as job, on_shelf(job, f"file://{tmp_path}/shelf", lease_seconds=60) as shelf:
        told = job.folder / "messages.jsonl"
        with subprocess.Popen(command(shelf)) as process:
            wait_until(lambda: told.exists() and "waiting" in told.read_text(encoding="utf-8"), what="the message is here")
            assert process.poll() is None
            process.send_signal(15)
        said = [json.loads(line)["method"] for line in told.read_text(encoding="utf-8").splitlines()]
    assert said[:2] == ["opened", "log"]


def test_without_its_starter_a_program_ends_by_itself(tmp_path: Path):
    request = OddRequest(output=str(tmp_path / "out"), do="hang")
    with job_of(request) as job:
        with on_shelf(job, f"file://{tmp_path}/shelf", lease_seconds=2) as shelf:
            process = subprocess.Popen(command(shelf), stderr=subprocess.PIPE, text=True)
            kept = shelf.shelf.read(STAGE)
        # The starter is gone, and for once its job is still there.
        shelf.shelf.write(STAGE, kept or b"")
        _, said = process.communicate()
    assert "ended: nobody has renewed the lease for 2 s" in said
    assert process.returncode != 0


def test_outputs_of_a_program_whose_starter_died_are_collected_and_not_made_again(tmp_path: Path):
    request, url = ResumableRequest(output=str(tmp_path / "out"), do="answer"), f"file://{tmp_path}/shelf"
    with job_of(request) as job:
        with on_shelf(job, url, lease_seconds=60) as shelf:
            assert not shelf.finished
            assert elsewhere(shelf).cause == Cause.DONE
            left = {name: shelf.shelf.read(name) for name in (STAGE, OUTPUTS)}
            files = [(path.name, path.read_bytes()) for path in (tmp_path / "shelf" / "jobs" / job.name / "files").iterdir()]
        for name, content in [*left.items(), *((f"files/{name}", content) for name, content in files)]:
            shelf.shelf.write(name, content or b"")
        with on_shelf(job, url, lease_seconds=60) as again:
            assert again.finished
            assert again.collected(Ended(Cause.DONE, 0)).cause == Cause.DONE
    assert OddResult.read(tmp_path / "out" / "result.json").said == "done"
    assert (tmp_path / "out" / "times").read_text(encoding="utf-8") == "."


def test_another_machine_goes_on_from_what_the_first_had_written(tmp_path: Path):
    request, url = ResumableRequest(output=str(tmp_path / "out"), do="answer"), f"file://{tmp_path}/shelf"
    with job_of(request) as job, on_shelf(job, url, lease_seconds=60) as shelf:
        stage = Stage.model_validate_json(shelf.shelf.read(STAGE) or b"")
        half = tmp_path / "half"
        half.write_text("...", encoding="utf-8")
        kept = staged("times", half)
        shelf.shelf.bring(half, f"{FILES}/{kept.sha256}")
        roots = tuple(root.model_copy(update={"files": (kept,)}) for root in stage.roots)
        shelf.shelf.write(OUTPUTS, Outputs(done=False, roots=roots).model_dump_json().encode("utf-8"))
        assert shelf.collected(elsewhere(shelf)).cause == Cause.DONE
    assert (tmp_path / "out" / "times").read_text(encoding="utf-8") == "...."


def test_while_a_program_runs_only_files_that_rest_are_kept(tmp_path: Path):
    shelf, output = Shelf.at(f"file://{tmp_path}/shelf"), tmp_path / "out"
    output.mkdir()
    root = Root(path="/starter/out", writes=True, folder=True)
    keeper = Keeper(shelf, Stage(identity="", request={}, resumable=True, lease_seconds=1, roots=(root,)), {"/starter/out": str(output)})

    def kept(*, done: bool = False) -> list[str]:
        keeper.keep(done=done)
        return [file.name for file in Outputs.model_validate_json(shelf.read(OUTPUTS) or b"").roots[0].files]

    (output / "checkpoint").write_text("1", encoding="utf-8")
    assert kept() == []
    assert kept() == ["checkpoint"]
    (output / "checkpoint").write_text("12", encoding="utf-8")
    (output / "result.json").write_text(json.dumps({"adapter": f"{output}/adapter"}), encoding="utf-8")
    assert kept() == []
    assert kept(done=True) == ["checkpoint", "result.json"]
    # What the program says of its folder holds at the starter.
    assert json.loads((output / "result.json").read_text(encoding="utf-8")) == {"adapter": "/starter/out/adapter"}


def test_a_file_that_was_changed_on_the_shelf_is_not_used(tmp_path: Path):
    source = tmp_path / "weights"
    source.write_text("true", encoding="utf-8")
    request, url = OddRequest(output=str(tmp_path / "out"), do="answer", source=str(source)), f"file://{tmp_path}/shelf"
    with job_of(request) as job, on_shelf(job, url, lease_seconds=60) as shelf:
        (blob,) = (tmp_path / "shelf" / "blobs").iterdir()
        blob.write_text("false", encoding="utf-8")
        ended = elsewhere(shelf)
    assert ended.cause == Cause.ERROR
    assert "remove it, so that it is brought anew" in ended.tail


def test_a_program_that_leaves_no_outputs_is_lost(tmp_path: Path):
    with (
        job_of(OddRequest(output=str(tmp_path / "out"), do="answer")) as job,
        on_shelf(job, f"file://{tmp_path}/s", lease_seconds=60) as shelf,
    ):
        assert shelf.collected(Ended(Cause.DONE, 0)).cause == Cause.LOST


def test_paths_move_wherever_they_stand_in_a_request_and_nothing_else_does():
    request = PredictRequest(
        output="/a/out", model="/models/base",
        jobs=(PredictJob(name="/a", prompts="/a/rows.jsonl", output="/a/out/x.jsonl", format=PromptFormat(instruction="see /a/out")),),
    )  # fmt: skip
    there = moved(request.model_dump(mode="json"), {"/a/out": "/t/0/out", "/models/base": "/t/1/base", "/a/rows.jsonl": "/t/2/rows.jsonl"})
    assert (there["output"], there["model"]) == ("/t/0/out", "/t/1/base")
    job = there["jobs"][0]
    assert (job["name"], job["prompts"], job["output"]) == ("/a", "/t/2/rows.jsonl", "/t/0/out/x.jsonl")
    assert job["format"]["instruction"] == "see /a/out"
