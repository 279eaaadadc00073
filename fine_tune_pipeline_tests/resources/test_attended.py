"""The endpoint in a container of its own, here a process: it is told by files, asked over the network, and ends with who attends it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from fine_tune_pipeline.attendant import Attendant, AttendedAlready, alone
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.process_identity import identity_of
from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest
from fine_tune_pipeline.programs.serving.attending import ATTENDED_FILE, WANTED_FILE, Attended, Wanted
from fine_tune_pipeline.programs.serving.contract import ADMIN_KEY_VARIABLE, KEY_VARIABLE, SyncRequest, readable
from fine_tune_pipeline.resources.attended import AttendedEndpoint, endpoint_at
from fine_tune_pipeline.resources.endpoint import Endpoint, EndpointFailed, NotRunning
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline_tests.served import NEW_TOKENS, PROMPTS, evaluated, offered_version, tiny_adapter
from fine_tune_pipeline_tests.tiny import tiny_model
from fine_tune_pipeline_tests.waiting import wait_until


@pytest.fixture(autouse=True)
def no_keys_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KEY_VARIABLE, ADMIN_KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def attendant(home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "fine_tune_pipeline.cli", "attend", "bank"]
    with (home / "attendant.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env={**os.environ, "FINE_TUNE_PIPELINE_HOME": str(home)}, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def request_of(folder: Path, base: Path, port: int) -> ServeRequest:
    return ServeRequest(
        output=str(folder),
        state=str(folder),
        use_case="bank",
        model=str(base),
        format=PromptFormat(),
        max_new_tokens=NEW_TOKENS,
        port=port,
        threads=1,
    )


def test_the_life_of_an_attended_endpoint(tmp_path: Path):
    base, port = tiny_model(tmp_path / "base", architecture="llama"), free_port()
    adapter, folder, sha256 = tiny_adapter(tmp_path / "adapter", base, seed=1), tmp_path / "serving" / "bank", weights_sha256(base)
    serving = Serving(folder=str(tmp_path / "serving"), url=f"http://127.0.0.1:{port}", ready_seconds=120)
    endpoint = serving.endpoint("bank")
    request = request_of(folder, base, port)
    assert isinstance(endpoint, AttendedEndpoint)
    with pytest.raises(EndpointFailed, match=r"nobody attends .*run `fine-tune-pipeline attend bank`"):
        endpoint.ensure(request, base_sha256=sha256)
    with attendant(tmp_path) as process:
        wait_until(endpoint._is_attended)
        assert (endpoint.status().state, endpoint.stop()) == ("stopped", False)
        assert endpoint.ensure(request, base_sha256=sha256) == "started"
        endpoint.client().sync(SyncRequest(versions=(offered_version(1, adapter, base),), aliases={"champion": 1}))
        assert endpoint.client().answer(PROMPTS[0]).text == evaluated(base, adapter)[0].text
        status = endpoint.status()
        assert (status.state, status.champion, status.url) == ("running", "bank-v1", f"http://127.0.0.1:{port}")
        assert endpoint.ensure(request, base_sha256=sha256) == "adopted"
        assert not endpoint.has_to_restart(request, base_sha256=sha256)
        assert endpoint.has_to_restart(request, base_sha256="0" * 64)
        with pytest.raises(AttendedAlready), alone(folder):
            pass
        pids = Endpoint(use_case="bank", folder=folder).processes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert [identity_of(pid) for pid in pids] == [None, None]
    with attendant(tmp_path):
        # As a container that was started anew: what was wished still holds.
        wait_until(lambda: endpoint.status().state == "running", deadline_seconds=120)
        assert endpoint.resume() == "adopted"
        assert endpoint.client().answer(PROMPTS[0]).model == "bank-v1"
        assert endpoint.stop()
        assert (endpoint.status().state, endpoint._is_attended()) == ("stopped", True)
        with pytest.raises(NotRunning):
            endpoint.client()


class Wishes(Endpoint):
    """An endpoint of this machine that does nothing but say how it ended."""

    def ensure(self, request: ServeRequest, *, base_sha256: str) -> "str":  # type: ignore[override]
        raise EndpointFailed("no answer within 3 seconds")

    def stop(self) -> bool:
        return False


def test_when_the_endpoint_does_not_come_up_the_wish_fails_with_the_reason_and_the_container_ends(tmp_path: Path):
    request = request_of(tmp_path, tmp_path / "base", 1)
    Wanted(id="one", runs=True, request=request, base_sha256="0" * 64).write(tmp_path / WANTED_FILE)
    assert Attendant(Wishes(use_case="bank", folder=tmp_path)).run() == 3
    endpoint = endpoint_at(tmp_path, use_case="bank", url="http://127.0.0.1:9")
    assert isinstance(endpoint, AttendedEndpoint)
    done = endpoint._done()
    assert done is not None
    assert (done.id, done.action, done.problem) == ("one", "failed", "no answer within 3 seconds")


def test_the_address_is_made_of_the_use_cases_name(tmp_path: Path):
    found = endpoint_at(tmp_path, use_case="support_triage", url="http://{name}-endpoint:8100/")
    assert isinstance(found, AttendedEndpoint)
    assert found.url == "http://support-triage-endpoint:8100"
    assert type(endpoint_at(tmp_path, use_case="support_triage")) is Endpoint


@pytest.mark.parametrize("wish", [None, "", '{"of": "another version"}'])
def test_what_never_ran_or_left_no_readable_wish_cannot_be_resumed(tmp_path: Path, wish: str | None):
    if wish is not None:
        (tmp_path / WANTED_FILE).write_text(wish, encoding="utf-8")
    endpoint = endpoint_at(tmp_path, use_case="bank", url="http://127.0.0.1:9")
    with pytest.raises(NotRunning, match="materialize its asset"):
        endpoint.resume()
    status = endpoint.status()
    assert (status.state, "no endpoint has run yet" in str(status.problem), endpoint.stop()) == ("stopped", True, False)


def test_who_attends_what_somebody_attends_already_is_told_by_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path))
    with alone(tmp_path / "serving" / "bank"):
        assert main(["attend", "bank"]) == 2
    assert "somebody attends it already" in capsys.readouterr().err


def test_an_endpoint_that_runs_and_cannot_be_reached_from_here_is_a_clear_error(tmp_path: Path):
    def attended() -> None:
        wanted = wait_until(lambda: readable(Wanted, tmp_path / WANTED_FILE))
        Attended(id=wanted.id, action="started").write(tmp_path / ATTENDED_FILE)

    endpoint = endpoint_at(tmp_path, use_case="bank", url=f"http://127.0.0.1:{free_port()}", ready_seconds=0.3)
    with alone(tmp_path), ThreadPoolExecutor(1) as pool:
        done = pool.submit(attended)
        with pytest.raises(EndpointFailed, match=r"runs where it is attended, and http://127.* does not answer from here"):
            endpoint.ensure(request_of(tmp_path, tmp_path / "base", 1), base_sha256="0" * 64)
        done.result()


def test_an_attendant_that_goes_away_before_it_has_answered_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    place = tmp_path / "serving" / "bank"
    Wanted(id="one", runs=True, request=request_of(place, tmp_path, 1), base_sha256="0" * 64).write(_made(place) / WANTED_FILE)
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("FINE_TUNE_PIPELINE_SERVING_URL", "http://127.0.0.1:9")
    with ThreadPoolExecutor(1) as pool:
        with alone(place):
            stopping = pool.submit(main, ["stop", "bank"])
            wait_until(lambda: not Wanted.read(place / WANTED_FILE).runs)
        assert stopping.result() == 3
    assert "did not answer; look at its output" in capsys.readouterr().err


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
