"""The life of a fine-tuning job, against a provider written from the public API reference."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.programs.hosted import job as job_module
from fine_tune_pipeline.programs.hosted.job import STATE_FILE, create, follow
from fine_tune_pipeline.programs.hosted.provider import (
    KeyRefused,
    NoKey,
    ProviderDown,
    QuotaUsedUp,
    RequestRefused,
    TooBusy,
    connect,
)
from fine_tune_pipeline.programs.hosted.requests import HostedJob, HostedTrainRequest, HostedTrainResult, read_hosted
from fine_tune_pipeline.programs.hosted.train import JobCancelled, JobFailed, _order, run
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline_tests.hosted.stand_in import KEY, MODEL, VARIABLE, Fault, Provider, provider_stand_in
from fine_tune_pipeline_tests.waiting import wait_until

CREATED = "POST /v1/fine_tuning/jobs$"
UPLOADED = "POST /v1/files$"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv(VARIABLE, KEY)
    with provider_stand_in() as found:
        yield found


class Heard(Reporter):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__(None)
        self.said: list[str] = []
        self.numbers: list[tuple[int, dict[str, float]]] = []

    def log(self, message: str) -> None:
        self.said.append(message)

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        self.numbers.append((done, numbers))


def request(provider: Provider, folder: Path, **changes: Any) -> HostedTrainRequest:
    output = folder / f"output-{len(list(folder.glob('output-*')))}"
    output.mkdir()
    (folder / "state").mkdir(exist_ok=True)
    for part, count in (("train", 12), ("validation", 3)):
        rows = [{"id": f"{part}{number}", "prompt": f"question {number}", "completion": "yes"} for number in range(count)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fields = {
        "output": str(output),
        "hosted": provider.hosted(),
        "job": HostedJob(format=PromptFormat(), epochs=3, seed=7),
        "use_case": "triage",
        "train": str(folder / "train.jsonl"),
        "validation": str(folder / "validation.jsonl"),
        "state": str(folder / "state"),
        "poll_seconds": 0.001,
    }
    return HostedTrainRequest.model_validate({**fields, **changes})


def tune(provider: Provider, folder: Path, **changes: Any) -> HostedTrainResult:
    return run(request(provider, folder, **changes), Heard())


def test_a_job_runs_from_upload_to_the_tuned_models_name(provider, tmp_path):
    heard = Heard()
    result = run(request(provider, tmp_path), heard)
    [asked] = provider.requests(CREATED)
    assert asked["model"] == MODEL
    assert asked["seed"] == 7
    assert asked["method"]["supervised"]["hyperparameters"] == {
        "n_epochs": 3,
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
    }
    [train, validation] = provider.requests(UPLOADED)
    first = json.loads(train["content"].splitlines()[0])
    assert train["purpose"] == "fine-tune"
    assert first == {"messages": [{"role": "user", "content": "question 0"}, {"role": "assistant", "content": "yes"}]}
    assert len(validation["content"].splitlines()) == 3
    assert result.model.startswith(f"ft:{MODEL}:org:triage-")
    hosted = read_hosted(result.adapter)
    assert hosted is not None
    assert (hosted.model, hosted.base_url, hosted.sha256) == (result.model, provider.url, result.adapter_sha256)
    assert (result.rows, result.steps, result.trained_tokens, result.adopted) == (12, 4, 12345, False)
    assert [checkpoint.step for checkpoint in result.checkpoints] == [4]


def test_losses_go_to_the_curve_and_to_the_live_numbers_each_once(provider, tmp_path):
    heard = Heard()
    result = run(request(provider, tmp_path), heard)
    assert [(row["step"], row["loss"]) for row in read_rows(Path(result.curve))] == [(1, 2.0), (2, 1.5), (3, 1.0), (4, 0.6)]
    assert [step for step, _ in heard.numbers] == [1, 2, 3, 4]
    assert heard.numbers[0][1] == {"loss": 2.0, "validation_loss": 2.1}
    assert result.validation_losses[0] == (1, 2.1)
    states = [re.search(r"is (\w+)$", line)[1] for line in heard.said if re.search(r"^ftjob-1 is (\w+)$", line)]
    assert states == ["queued", "running", "succeeded"]


def test_a_slow_queue_is_waited_for(provider, tmp_path):
    provider.states = ("validating_files", *["queued"] * 150, "running", "succeeded")
    assert tune(provider, tmp_path).steps == 4
    assert len(provider.requests("GET /v1/fine_tuning/jobs/ftjob-1$")) == 152


def test_what_the_provider_says_of_bad_files_is_told(provider, tmp_path):
    provider.states = ("validating_files", "failed")
    message = "Line 3: the last message must be from the assistant"
    provider.failure = {"code": "invalid_training_file", "param": "training_file", "message": message}
    with pytest.raises(JobFailed, match=f"ftjob-1 failed .invalid_training_file, training_file.: {message}; correct"):
        tune(provider, tmp_path)


def test_after_a_failure_a_new_job_is_created_and_no_file_twice(provider, tmp_path):
    provider.states = ("validating_files", "failed")
    with pytest.raises(JobFailed):
        tune(provider, tmp_path)
    provider.states = ("queued", "succeeded")
    assert tune(provider, tmp_path).job_id == "ftjob-2"
    assert len(provider.requests(UPLOADED)) == 2


def test_a_job_that_somebody_cancelled_is_an_error_of_its_own(provider, tmp_path):
    provider.states = ("running", "cancelled")
    with pytest.raises(JobCancelled, match="ftjob-1 was cancelled at the provider; materialize adapter again"):
        tune(provider, tmp_path)


@pytest.mark.parametrize("lost", ["nothing", "id", "id and metadata"])
def test_a_second_run_adopts_the_job_instead_of_paying_twice(provider, tmp_path, lost):
    provider.keeps_metadata = lost != "id and metadata"
    first = tune(provider, tmp_path)
    if lost != "nothing":
        (tmp_path / "state" / STATE_FILE).unlink()
    second = tune(provider, tmp_path)
    assert (second.adopted, second.model) == (True, first.model)
    assert len(provider.requests(CREATED)) == 1
    assert [row["loss"] for row in read_rows(Path(second.curve))] == [2.0, 1.5, 1.0, 0.6]


def test_other_settings_are_another_job(provider, tmp_path):
    tune(provider, tmp_path)
    assert not tune(provider, tmp_path, job=HostedJob(format=PromptFormat(), epochs=1, seed=7)).adopted
    assert len(provider.requests(CREATED)) == 2
    assert len(provider.requests(UPLOADED)) == 2


def test_a_noted_job_that_is_gone_is_created_again(provider, tmp_path):
    tune(provider, tmp_path)
    provider.jobs.clear()
    assert not tune(provider, tmp_path).adopted


@pytest.mark.parametrize("status", [0, 500, 429])
def test_a_creation_whose_answer_is_lost_creates_no_second_job(provider, tmp_path, status):
    provider.faults = [Fault(CREATED, status, done=True)]
    client, waited = connect(provider.hosted()), []
    order = _order(request(provider, tmp_path))
    with client:
        assert create(client, order, wait=waited.append).id == "ftjob-1"
    assert len(provider.jobs) == len(waited) == 1


def test_creation_waits_as_long_as_the_provider_asks(provider, tmp_path):
    provider.faults = [Fault(CREATED, 429, headers={"retry-after": "7"}), Fault(CREATED, 503, headers={})]
    waited: list[float] = []
    with connect(provider.hosted()) as client:
        create(client, _order(request(provider, tmp_path)), wait=waited.append)
    assert waited[0] == 7
    assert 1 <= waited[1] <= 2
    assert len(provider.jobs) == 1


@pytest.mark.parametrize("route", ["GET /v1/fine_tuning/jobs$", "GET /v1/fine_tuning/jobs/ftjob-1$", "/events$", UPLOADED, "/checkpoints$"])
@pytest.mark.parametrize("status", [429, 500])
def test_a_full_or_broken_server_is_asked_again(provider, tmp_path, route, status):
    provider.faults = [Fault(route, status, times=3)]
    assert tune(provider, tmp_path).model.startswith("ft:")
    assert len(provider.jobs) == 1


def test_a_dropped_connection_is_tried_again(provider, tmp_path):
    provider.faults = [Fault("GET /v1/fine_tuning/jobs/ftjob-1$", 0)]
    assert tune(provider, tmp_path).model.startswith("ft:")


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (Fault("GET", 500, times=99), ProviderDown, "all tries were used"),
        (Fault("GET", 429, times=99), TooBusy, "all tries were used"),
        (Fault("GET", 429, {"code": "insufficient_quota"}, times=99), QuotaUsedUp, "add credit"),
        (Fault("GET", 403), KeyRefused, f"the key of {VARIABLE} may not do this"),
        (Fault(UPLOADED, 413, {"message": "File too large"}), RequestRefused, "File too large"),
    ],
)
def test_what_does_not_pass_is_told_with_what_to_do(provider, tmp_path, fault, error, says):
    provider.faults = [fault]
    with pytest.raises(error, match=says):
        tune(provider, tmp_path)
    assert provider.jobs == []


def test_a_model_that_cannot_be_tuned_is_told(provider, tmp_path):
    with pytest.raises(RequestRefused, match="Model gpt-other is not available for fine-tuning"):
        tune(provider, tmp_path, hosted=provider.hosted("gpt-other"))


def test_a_key_that_expires_while_the_job_runs_loses_no_job(provider, tmp_path):
    provider.faults = [Fault("GET /v1/fine_tuning/jobs/ftjob-1$", 401, {"message": f"Incorrect API key provided: {KEY}"})]
    with pytest.raises(KeyRefused, match=f"set {VARIABLE} to a key") as caught:
        tune(provider, tmp_path)
    assert KEY not in str(caught.value)
    assert tune(provider, tmp_path).adopted


def test_without_a_key_nothing_is_asked(provider, tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(NoKey, match=f"environment variable {VARIABLE} is empty"):
        tune(provider, tmp_path)
    assert provider.asked == []


def test_a_provider_that_stays_silent_is_given_up_and_its_job_adopted_later(provider, tmp_path, monkeypatch):
    monkeypatch.setattr(job_module, "SILENT_POLLS", 3)
    provider.faults = [Fault("GET /v1/fine_tuning/jobs/ftjob-1$", 500, times=18)]
    with pytest.raises(ProviderDown):
        tune(provider, tmp_path)
    assert [job["status"] for job in provider.jobs] == ["validating_files"]
    assert tune(provider, tmp_path).adopted


def test_events_of_more_than_one_page_are_all_heard(provider, tmp_path):
    provider.losses = [3.0 - number / 100 for number in range(250)]
    assert tune(provider, tmp_path).steps == 250


def test_losses_that_stand_in_messages_only_are_read(provider, tmp_path):
    with provider_stand_in(states=("running", "running", "succeeded"), losses=()) as plain:
        asked = request(plain, tmp_path)
        with connect(plain.hosted()) as client:
            order = _order(asked)
            created = create(client, order)
            lines = ["Step 5/10: training loss=0.81, validation loss=0.9", "Step 10: training loss=0.40", "Step back and relax"]
            plain.jobs[0]["_events"] += [
                {"id": f"e{number}", "object": "fine_tuning.job.event", "created_at": 1, "level": "info", "message": line}
                for number, line in enumerate(lines)
            ]
            heard: list[Any] = []
            follow(client, created.id, hear=lambda job, events: heard.extend(events), pause=0, wait=lambda seconds: None)
        result = run(asked, Heard())
    assert [(row["step"], row["loss"]) for row in read_rows(Path(result.curve))] == [(5, 0.81), (10, 0.4)]
    assert result.validation_losses == ((5, 0.9),)
    assert len(heard) == len({event.id for event in heard})


def started(asked: HostedTrainRequest, folder: Path) -> "subprocess.Popen[bytes]":
    asked.write(folder / "request.json")
    command = [sys.executable, "-m", HostedTrainRequest.module, "--request", str(folder / "request.json")]
    return subprocess.Popen(command, env={**os.environ, VARIABLE: KEY}, stderr=subprocess.PIPE, start_new_session=True)


@pytest.mark.parametrize(("number", "left"), [(signal.SIGINT, "cancelled"), (signal.SIGTERM, "cancelled"), (signal.SIGKILL, "running")])
def test_an_interrupted_run_cancels_its_job_and_a_killed_one_leaves_it(provider, tmp_path, number, left):
    provider.held.set()
    program = started(request(provider, tmp_path), tmp_path)
    wait_until(lambda: provider.jobs and provider.jobs[0]["status"] == "running", what="the job runs")
    program.send_signal(number)
    program.communicate()
    assert program.returncode != 0
    assert [job["status"] for job in provider.jobs] == [left]
    provider.held.clear()
    again = tune(provider, tmp_path)
    assert again.adopted == (left == "running")
    assert len(provider.jobs) == (1 if left == "running" else 2)
