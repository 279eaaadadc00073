"""`fine-tune-pipeline serve`, `stop` and `status`, with a real server on the tiny model: what a person at a shell meets."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.cli import main
from fine_tune_pipeline.places import SERVING_URL_VARIABLE
from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.process_identity import identity_of
from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest
from fine_tune_pipeline.programs.serving.contract import (
    ADAPTERS,
    ADMIN_KEY_VARIABLE,
    KEY_VARIABLE,
    PID_FILE,
    REQUEST_FILE,
    VERSIONS_FILE,
    Table,
    VersionState,
)
from fine_tune_pipeline.resources.endpoint import Endpoint
from fine_tune_pipeline_tests.served import NEW_TOKENS, PROMPTS, evaluated, tiny_adapter
from fine_tune_pipeline_tests.tiny import tiny_model
from fine_tune_pipeline_tests.waiting import wait_until


@dataclass(frozen=True)
class Home:
    """A home with one endpoint that ran before, and a way to give commands there."""

    folder: Path
    base: Path
    adapter: Path

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(use_case="bank", folder=self.folder / "serving" / "bank")

    def has_run(self, *, port: int) -> None:
        """Version 1 was champion when it was stopped."""
        state, sha256 = self.endpoint.folder, weights_sha256(self.adapter)
        shutil.copytree(self.adapter, state / ADAPTERS / sha256)
        version = VersionState(version=1, name="bank-v1", adapter_sha256=sha256, max_new_tokens=NEW_TOKENS, state="loaded")
        Table(base_sha256=weights_sha256(self.base), versions=(version,), aliases={"champion": 1}).write(state / VERSIONS_FILE)
        request = ServeRequest(
            output=str(state),
            state=str(state),
            use_case="bank",
            model=str(self.base),
            format=PromptFormat(),
            max_new_tokens=NEW_TOKENS,
            port=port,
            threads=1,
        )
        request.write(state / REQUEST_FILE)

    def pids(self) -> list[int]:
        return self.endpoint.processes()


class Shell:
    """Gives commands and reads what they print."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._capture = capture

    def __call__(self, *command: str, home: Path) -> tuple[int, str, str]:
        """Exit code, result, and what was said beside it."""
        self._patch.setenv("FINE_TUNE_PIPELINE_HOME", str(home))
        self._capture.readouterr()
        code = main(command)
        printed = self._capture.readouterr()
        return code, printed.out, printed.err

    def json(self, *command: str, home: Path) -> tuple[int, dict[str, Any]]:
        code, out, _ = self(*command, "--json", home=home)
        return code, json.loads(out)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    for name in (KEY_VARIABLE, ADMIN_KEY_VARIABLE, SERVING_URL_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return Shell(monkeypatch, capsys)


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("served")
    base = tiny_model(folder / "base", architecture="llama")
    made = Home(folder / "home", base, tiny_adapter(folder / "adapter", base, seed=1))
    made.has_run(port=port)
    try:
        yield made
    finally:
        made.endpoint.stop()


def test_where_nothing_ever_ran_each_command_says_so_and_makes_nothing(shell: Shell, tmp_path: Path):
    code, out, _ = shell("status", "bank", home=tmp_path)
    assert (code, "stopped" in out, "no endpoint has run yet; materialize its asset `endpoint`" in out) == (3, True, True)
    code, out, said = shell("serve", "bank", home=tmp_path)
    assert (code, out, "materialize its asset `endpoint`" in said) == (3, "", True)
    assert shell("stop", "bank", home=tmp_path) == (0, "bank: no endpoint was running\n", "")
    assert list(tmp_path.iterdir()) == []


def test_serving_twice_starts_once_and_the_champion_of_last_time_answers(shell: Shell, home: Home, port: int):
    code, first = shell.json("serve", "bank", home=home.folder)
    assert (code, first["state"], first["action"], first["model"]) == (0, "running", "started", "bank-v1")
    assert first["url"] == f"http://127.0.0.1:{port}"
    pids = home.pids()
    code, second = shell.json("serve", "bank", home=home.folder)
    assert (code, second["action"], second["pid"]) == (0, "none, it ran already", first["pid"])
    assert home.pids() == pids
    assert home.endpoint.client().answer(PROMPTS[0]).text == evaluated(home.base, home.adapter)[0].text
    code, out, _ = shell("status", "bank", home=home.folder)
    assert (code, f"pid       {first['pid']}" in out, "running" in out) == (0, True, True)


def test_a_second_home_with_the_same_port_is_refused_and_told_whose_it_is(shell: Shell, home: Home, port: int, tmp_path: Path):
    assert len(home.pids()) == 2
    pids, second = home.pids(), Home(tmp_path / "home", home.base, home.adapter)
    second.has_run(port=port)
    code, out, said = shell("serve", "bank", home=second.folder)
    assert (code, out) == (3, "")
    assert (
        f"port {port} of 127.0.0.1: Address already in use, by the endpoint of bank (process {pids[1]}, state in {home.endpoint.folder})"
        in said
    )
    assert second.pids() == []
    code, facts = shell.json("status", "bank", home=second.folder)
    assert (code, facts["state"], facts["pid"]) == (3, "failed", None)
    assert "can't start as it was asked to" in facts["problem"]
    assert home.pids() == pids


def test_what_was_killed_is_told_and_started_anew_and_a_stranger_with_its_pid_is_left_alone(shell: Shell, home: Home):
    for pid in reversed(killed := home.pids()):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: [identity_of(pid) for pid in killed] == [None, None])
    code, facts = shell.json("status", "bank", home=home.folder)
    assert (code, facts["state"], facts["pid"]) == (3, "stopped", None)
    assert "ended without a word" in facts["problem"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        recorded = identity_of(stranger.pid)
        assert recorded is not None
        recorded.model_copy(update={"started": "1"}).write(home.endpoint.folder / PID_FILE)
        assert shell("stop", "bank", home=home.folder)[1] == "bank: no endpoint was running\n"
        code, facts = shell.json("serve", "bank", home=home.folder)
        assert (code, facts["action"], facts["model"]) == (0, "started", "bank-v1")
        assert facts["pid"] != stranger.pid
        assert shell("stop", "bank", home=home.folder)[:2] == (0, "bank: stopped\n")
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_stopping_what_is_stopped_is_fine_and_the_status_needs_no_reason(shell: Shell, home: Home):
    home.endpoint.stop()
    assert shell.json("stop", "bank", home=home.folder) == (0, {"use_case": "bank", "stopped": False})
    code, facts = shell.json("status", "bank", home=home.folder)
    assert (code, facts["state"], facts["problem"], facts["model"]) == (3, "stopped", None, "bank-v1")


def test_a_folder_that_cannot_be_used_is_told_without_a_traceback(shell: Shell, tmp_path: Path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "bank").write_text("not a folder", encoding="utf-8")
    code, out, said = shell("stop", "bank", home=tmp_path)
    assert (code, out, "bank" in said) == (3, "", True)
