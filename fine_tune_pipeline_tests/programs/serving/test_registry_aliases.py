"""The light reader of the registry says what MLflow's own client says, and a registry that is away changes nothing."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.protos.model_registry_pb2 import GetRegisteredModel
from mlflow.utils.proto_json_utils import message_to_json

from fine_tune_pipeline.programs.serving import registry_aliases, registry_watch
from fine_tune_pipeline.programs.serving.registry_aliases import RegistrySilent, asker
from fine_tune_pipeline.programs.serving.registry_watch import RegistryWatch
from fine_tune_pipeline_tests.programs.serving.serving_stand import stand
from fine_tune_pipeline_tests.programs.serving.test_serve_canary import beside
from fine_tune_pipeline_tests.waiting import wait_until

# MLflow's tables ask SQLAlchemy for a strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RegisteredModel]:
    """A registry of MLflow's with two models, and what its own client says of the first."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    for name in ("bank", "other"):
        client.create_registered_model(name)
        for _ in range(3):
            client.create_model_version(name, source=folder.as_uri())
    for alias, version in (("champion", "3"), ("previous", "1"), ("of_somebody_else", "2")):
        client.set_registered_model_alias("bank", alias, version)
    client.set_registered_model_alias("other", "champion", "2")
    return uri, client.get_registered_model("bank")


class Rest(http.server.BaseHTTPRequestHandler):
    """Answers as a tracking server does, with MLflow's own serializer."""

    body: str
    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        known = self.path == "/mlflow/api/2.0/mlflow/registered-models/get?name=bank"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write((self.body if known else "{}").encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@contextmanager
def tracking_server(model: RegisteredModel) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    seen: list[tuple[str, str | None]] = []
    body = message_to_json(GetRegisteredModel.Response(registered_model=model.to_proto()))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Answering", (Rest,), {"body": body, "seen": seen}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/mlflow", seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_all_ways_to_a_registry_say_what_mlflows_client_says(registered: tuple[str, RegisteredModel]):
    uri, model = registered
    wanted = {alias: int(version) for alias, version in model.aliases.items() if alias in ("champion", "challenger", "previous")}
    assert wanted == {"champion": 3, "previous": 1}
    assert asker(uri, "bank")() == wanted
    assert asker(uri.replace("sqlite:", "sqlite+pysqlite:"), "bank")() == wanted
    with tracking_server(model) as (address, _):
        assert asker(address, "bank")() == wanted


def test_the_credentials_of_mlflows_client_go_along(registered: tuple[str, RegisteredModel], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with tracking_server(registered[1]) as (address, seen):
        asker(address, "bank")()
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
        asker(address, "bank")()
    assert [authorization for _, authorization in seen] == ["Basic YW5uOnNlY3JldA==", "Bearer token"]


def test_a_model_without_aliases_has_none(registered: tuple[str, RegisteredModel]):
    assert asker(registered[0], "nobody")() == {}


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize("kind", ["refused", "unknown model", "no database", "no table", "not sql"])
def test_a_registry_that_does_not_answer_is_one_error_that_hides_its_password(
    registered: tuple[str, RegisteredModel], kind: str, tmp_path: Path
):
    (tmp_path / "empty.db").touch()
    with tracking_server(registered[1]) as (address, _):
        uri = {
            "refused": f"http://ann:secret@127.0.0.1:{closed_port()}",
            "unknown model": address,
            "no database": f"sqlite:///{tmp_path}/nowhere.db",
            "no table": f"sqlite:///{tmp_path}/empty.db",
            "not sql": "unheard+of://ann:secret@host/db",
        }[kind]
        with pytest.raises(RegistrySilent) as silent:
            asker(uri, "nobody")()
    assert "secret" not in str(silent.value)


def test_a_registry_that_takes_the_question_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry_aliases, "TIMEOUT_SECONDS", 0.1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(RegistrySilent, match="timed out"):
            asker(f"http://127.0.0.1:{mute.getsockname()[1]}", "bank")()


@pytest.mark.parametrize(
    "sent", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 99_999, b""]
)
def test_a_registry_that_is_broken_off_or_speaks_otherwise_is_the_same_error(sent: bytes):
    with socket.socket() as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer_once() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(sent)

        answered = pool.submit(answer_once)
        with pytest.raises(RegistrySilent, match=r"http://127\.0\.0\.1"):
            asker(f"http://127.0.0.1:{listener.getsockname()[1]}", "bank")()
        answered.result()


def test_the_endpoint_follows_an_alias_that_somebody_moves_in_the_registry(registered: tuple[str, RegisteredModel], tmp_path: Path):
    uri, _ = registered
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    with stand(tmp_path / "state") as it:
        beside(it)
        watch = RegistryWatch(asker(uri, "other"), it.versions, every_seconds=0.05)
        it.service.registry = watch
        watch.start()
        wait_until(lambda: it.versions.target(None).name == "bank-v2")
        client.set_registered_model_alias("other", "champion", "1")
        wait_until(lambda: it.versions.target(None).name == "bank-v1")
        watch.stop()
        health = it.service.health()
        assert health.status == "ready"
        assert health.registry_stale_seconds is not None
        assert health.registry_stale_seconds < 10


def test_a_silent_registry_leaves_the_last_table_and_is_told_only_when_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def silent() -> dict[str, int]:
        raise RegistrySilent("http://registry: refused")

    with stand(tmp_path / "state") as it:
        it.promote(1)
        watch = RegistryWatch(silent, it.versions, every_seconds=1.0)  # type: ignore[arg-type]
        it.service.registry = watch
        watch.look()
        assert (it.service.health().status, watch.problem) == ("ready", None)
        monkeypatch.setattr(registry_watch, "STALE_SECONDS", -2.0)
        health = it.service.health()
        assert health.status == "degraded"
        assert "the last known aliases are served (http://registry: refused)" in health.problems[0]
        assert it.versions.target(None).name == "bank-v1"
        assert json.loads((tmp_path / "state/versions.json").read_text(encoding="utf-8"))["aliases"] == {"champion": 1}
