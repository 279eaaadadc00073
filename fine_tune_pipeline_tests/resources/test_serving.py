"""The endpoint as a process of its own: found again, restarted, switched under load, stopped without a trace."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.process_identity import identity_of
from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest
from fine_tune_pipeline.programs.serving.contract import ADMIN_KEY_VARIABLE, KEY_VARIABLE, Canary, OfferedVersion, SyncRequest
from fine_tune_pipeline.resources.endpoint import Endpoint, EndpointFailed, NotRunning
from fine_tune_pipeline.resources.endpoint_client import EndpointClient, EndpointError, ServedAnswer, Unreachable
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline_tests.served import NEW_TOKENS, PROMPTS, evaluated, offered_version, tiny_adapter
from fine_tune_pipeline_tests.tiny import tiny_model
from fine_tune_pipeline_tests.waiting import wait_until


@dataclass(frozen=True)
class World:
    """One endpoint, a base model, two versions, and what each of them answers."""

    endpoint: Endpoint
    base: Path
    base_sha256: str
    versions: tuple[OfferedVersion, OfferedVersion]
    answers: dict[str, dict[str, str]]

    def request(self, *, port: int = 0) -> ServeRequest:
        state = str(self.endpoint.folder)
        return ServeRequest(
            output=state,
            state=state,
            use_case="bank",
            model=str(self.base),
            format=PromptFormat(),
            max_new_tokens=NEW_TOKENS,
            port=port,
            threads=1,
        )

    def up(self) -> EndpointClient:
        """The endpoint runs, with version 1 as champion and version 2 beside it."""
        self.endpoint.ensure(self.request(), base_sha256=self.base_sha256)
        client = self.endpoint.client()
        client.sync(SyncRequest(versions=self.versions, aliases={"champion": 1, "previous": 2}))
        return client


@pytest.fixture(scope="module", autouse=True)
def no_keys_in_the_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(KEY_VARIABLE, raising=False)
        patch.delenv(ADMIN_KEY_VARIABLE, raising=False)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("served")
    base = tiny_model(folder / "base", architecture="llama")
    adapters = [tiny_adapter(folder / f"adapter-{seed}", base, seed=seed) for seed in (1, 2)]
    served = {"bank-v1": adapters[0], "bank-v2": adapters[1], "bank-base": None}
    answers = {
        name: {prompt: answer.text for prompt, answer in zip(PROMPTS, evaluated(base, adapter), strict=True)}
        for name, adapter in served.items()
    }
    versions = (offered_version(1, adapters[0], base), offered_version(2, adapters[1], base))
    endpoint = Serving(folder=str(folder / "state")).endpoint("bank")
    try:
        yield World(endpoint, base, weights_sha256(base), versions, answers)
    finally:
        endpoint.stop()


def test_two_starts_at_once_give_one_endpoint(world: World):
    world.endpoint.stop()
    with ThreadPoolExecutor(2) as pool:
        starts = [pool.submit(world.endpoint.ensure, world.request(), base_sha256=world.base_sha256) for _ in range(2)]
        assert sorted(start.result() for start in starts) == ["adopted", "started"]
    status = world.endpoint.status()
    assert status.health is not None
    assert (status.state, [status.supervisor_pid, status.health.pid]) == ("running", world.endpoint.processes())


def test_served_answers_equal_evaluated_ones_alone_and_in_batches(world: World):
    client = world.up()
    wishes = [(prompt, name) for name in world.answers for prompt in PROMPTS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda wish: client.answer(wish[0], model=wish[1]), wishes))
    for (prompt, name), answer in zip(wishes, together, strict=True):
        assert (answer.model, answer.text) == (name, world.answers[name][prompt])
    assert client.answer(PROMPTS[0]).text == world.answers["bank-v1"][PROMPTS[0]]


def test_while_the_champion_changes_every_answer_is_wholly_one_versions(world: World):
    client = world.up()
    hashes = {f"bank-v{version.version}": version.adapter_sha256 for version in world.versions}
    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(client.answer, PROMPTS[number % len(PROMPTS)]) for number in range(40)]
        pool.submit(client.sync, SyncRequest(aliases={"champion": 2, "previous": 1})).result()
        asked += [pool.submit(client.answer, PROMPTS[number % len(PROMPTS)]) for number in range(20)]
        answers = [future.result() for future in asked]
    for number, answer in enumerate(answers):
        prompt = PROMPTS[number % 40 % len(PROMPTS)]
        assert answer.text == world.answers[answer.model][prompt]
        assert answer.sha256 == hashes[answer.model]
    assert {answer.model for answer in answers[40:]} == {"bank-v2"}
    assert all(one != other for one, other in zip(world.answers["bank-v1"].values(), world.answers["bank-v2"].values(), strict=True))


def test_under_32_clients_canary_promotion_and_rollback_lose_nothing_and_mix_nothing(world: World):
    client = world.up()
    hashes = {f"bank-v{version.version}": version.adapter_sha256 for version in world.versions}
    changes = (
        SyncRequest(canary=Canary(version=2, share=0.5)),
        SyncRequest(aliases={"champion": 2, "previous": 1}, end_canary=True),
        SyncRequest(aliases={"champion": 1, "challenger": 2}, drop=("previous",)),
    )
    asked: list[Future[ServedAnswer]] = []
    with ThreadPoolExecutor(33) as pool:
        for change in changes:
            asked += [pool.submit(client.answer, PROMPTS[number % len(PROMPTS)], user=str(number)) for number in range(40)]
            pool.submit(client.sync, change).result()
        asked += [pool.submit(client.answer, PROMPTS[number % len(PROMPTS)]) for number in range(20)]
        answers = [future.result() for future in asked]
    for number, answer in enumerate(answers):
        assert answer.text == world.answers[answer.model][PROMPTS[number % 40 % len(PROMPTS)]]
        assert answer.sha256 == hashes[answer.model]
    assert {answer.model for answer in answers} == {"bank-v1", "bank-v2"}
    assert {answer.model for answer in answers[-20:]} == {"bank-v1"}


def test_a_server_that_is_killed_while_it_answers_comes_back_at_the_same_address_with_its_champion(world: World):
    client = world.up()
    before, log = client.health(), world.endpoint.traffic_log
    logged_before = len(log)

    def ask(number: int) -> ServedAnswer | None:
        try:
            return client.answer(PROMPTS[number % len(PROMPTS)])
        except Unreachable:
            return None

    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, number) for number in range(120)]
        wait_until(lambda: sum(future.done() for future in asked) > 10)
        os.kill(before.pid, signal.SIGKILL)
        answers = [future.result() for future in asked]
    given = [(number, answer) for number, answer in enumerate(answers) if answer is not None]
    assert 10 < len(given) < 120
    for number, answer in given:
        assert answer.text == world.answers["bank-v1"][PROMPTS[number % len(PROMPTS)]]

    def back() -> bool:
        try:
            return client.health().pid != before.pid
        except Unreachable:
            return False

    wait_until(back, deadline_seconds=240, what="the supervisor starts the server again")
    assert client.health().status == "ready"
    kept = log.window(len(log) - logged_before)
    assert {logged.request.status for logged in kept} <= {200}
    assert all(logged.request.new_tokens and logged.request.prompt_characters for logged in kept)
    # What was answered and is not in the log is counted there.
    wait_until(lambda: len(log) - logged_before + log.dropped() >= len(given))
    answer = client.answer(PROMPTS[0])
    assert (answer.model, answer.text) == ("bank-v1", world.answers["bank-v1"][PROMPTS[0]])
    assert world.endpoint.status().restarts == 1


def test_stopped_under_load_it_answers_or_refuses_logs_what_it_answered_and_leaves_no_process(world: World):
    client = world.up()
    pids = world.endpoint.processes()
    # The server that was killed before may have lost some; it has told so by now.
    logged_before, dropped_before = len(world.endpoint.traffic_log), world.endpoint.traffic_log.dropped()
    refused: set[int] = set()

    def ask(number: int) -> bool:
        try:
            return bool(client.answer(PROMPTS[number % len(PROMPTS)]).id)
        except Unreachable:
            return False
        except EndpointError as error:
            refused.add(error.status)
            return False

    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, number) for number in range(120)]
        wait_until(lambda: sum(future.done() for future in asked) > 10)
        assert world.endpoint.stop()
        answered = sum(future.result() for future in asked)
    assert refused <= {503}
    assert [identity_of(pid) for pid in pids] == [None, None]
    assert len(pids) == 2
    log = world.endpoint.traffic_log
    kept = log.window(len(log) - logged_before)
    assert 0 < answered <= sum(logged.request.status == 200 for logged in kept)
    assert log.dropped() == dropped_before
    assert (world.endpoint.status().state, world.endpoint.processes(), world.endpoint.stop()) == ("stopped", [], False)
    with pytest.raises(NotRunning, match="serve bank"):
        world.endpoint.client()


def test_a_stopped_endpoint_resumes_with_the_versions_that_it_served(world: World):
    world.up()
    address = world.endpoint.status().url
    world.endpoint.stop()
    assert [world.endpoint.resume(), world.endpoint.resume()] == ["started", "adopted"]
    assert world.endpoint.supervisor_pid() == world.endpoint.processes()[0]
    answer = world.endpoint.client().answer(PROMPTS[0])
    assert (answer.model, answer.text) == ("bank-v1", world.answers["bank-v1"][PROMPTS[0]])
    assert world.endpoint.status().url == address


def test_what_never_ran_cannot_be_resumed(tmp_path: Path):
    with pytest.raises(NotRunning, match="materialize its asset"):
        Endpoint(use_case="bank", folder=tmp_path).resume()


def test_when_the_supervisor_is_killed_the_server_ends_and_a_new_start_works(world: World):
    world.up()
    supervisor, server = world.endpoint.processes()
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: identity_of(supervisor) is None)
    assert world.endpoint.ensure(world.request(), base_sha256=world.base_sha256) == "started"
    assert [identity_of(pid) for pid in (supervisor, server)] == [None, None]
    assert world.endpoint.client().answer(PROMPTS[0]).model == "bank-v1"


def test_keys_made_for_the_demo_are_for_the_owner_only_and_in_no_log(world: World):
    client = world.up()
    for name in ("api_key", "admin_key"):
        path = world.endpoint.folder / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        key = path.read_text(encoding="utf-8")
        others = [other for other in world.endpoint.folder.iterdir() if other.is_file() and other != path]
        assert not [other.name for other in others if key.encode() in other.read_bytes()]
    assert world.endpoint.status().key.endswith("api_key")
    assert client.key not in repr(client)


def test_the_same_request_adopts_and_only_another_one_has_to_restart(world: World):
    world.up()
    request, sha256 = world.request(), world.base_sha256
    pids = world.endpoint.processes()
    moved = request.model_copy(update={"model": "/elsewhere/the/same/weights", "max_new_tokens": 99})
    assert not world.endpoint.has_to_restart(moved, base_sha256=sha256)
    assert world.endpoint.has_to_restart(request, base_sha256="0" * 64)
    assert world.endpoint.has_to_restart(request.model_copy(update={"answer_labels": ("a", "b")}), base_sha256=sha256)
    assert world.endpoint.ensure(request, base_sha256=sha256) == "adopted"
    assert world.endpoint.processes() == pids


def test_a_taken_port_is_a_clear_error_and_nothing_is_left(world: World, tmp_path: Path):
    other = Endpoint(use_case="bank", folder=tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        request = world.request(port=port).model_copy(update={"state": str(tmp_path), "output": str(tmp_path)})
        with pytest.raises(EndpointFailed, match=rf"port {port} of .*in use, by .*\(process {os.getpid()}\); end that one, or choose"):
            other.ensure(request, base_sha256=world.base_sha256)
    assert other.processes() == []
    assert other.status().state == "failed"


def test_a_stranger_with_a_recorded_pid_is_neither_adopted_nor_killed(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        recorded = identity_of(stranger.pid)
        assert recorded is not None
        old = {**recorded.model_dump(), "started": "1"}
        (tmp_path / "pid.json").write_text(json.dumps(old), encoding="utf-8")
        endpoint = Endpoint(use_case="bank", folder=tmp_path)
        assert endpoint.status().state == "stopped"
        assert not endpoint.stop()
        assert stranger.poll() is None
        stranger.communicate(b"\n")
    assert not recorded.alive
