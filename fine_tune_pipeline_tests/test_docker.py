"""The containers' files fit together: what an engine would refuse at start is refused here."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import fine_tune_pipeline

DOCKER = Path(fine_tune_pipeline.__file__).parents[1] / "docker"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def test_every_service_has_an_image_or_a_build_and_known_dependencies(compose: dict[str, Any]):
    services = compose["services"]
    assert {"postgres", "mlflow", "code", "webserver", "daemon"} <= services.keys()
    for name, service in services.items():
        assert service.keys() & {"image", "build"}, name
        assert set(service.get("depends_on", {})) <= services.keys(), name


def test_named_volumes_are_declared(compose: dict[str, Any]):
    used = {
        mount.split(":")[0]
        for service in compose["services"].values()
        for mount in service.get("volumes", [])
        if not mount.startswith((".", "/"))
    }
    assert used == set(compose["volumes"])


def test_no_secret_is_written_down_and_every_variable_is_in_the_example(compose: dict[str, Any]):
    text, example = ((DOCKER / name).read_text(encoding="utf-8") for name in ("compose.yaml", ".env.example"))
    assert set(re.findall(r"\$\{(\w+):\?", text)) == {"POSTGRES_PASSWORD", "FINE_TUNE_PIPELINE_API_KEY"}
    offered = set(re.findall(r"^(?:# )?([A-Z_]+)=", example, flags=re.MULTILINE))
    assert offered == {*re.findall(r"\$\{(\w+)", text), "COMPOSE_PROJECT_NAME"}
    assert re.findall(r"^\w*(?:PASSWORD|KEY)=(.+)$", example, flags=re.MULTILINE) == []
    written = re.findall(r"^ *\w*(?:PASSWORD|KEY): *(.+)$", text, flags=re.MULTILINE)
    assert written
    assert all(value.startswith("${") for value in written)


def test_older_composes_take_the_file_too(compose: dict[str, Any]):
    assert {name for name in compose if not name.startswith("x-")} == {"services", "volumes"}


def test_only_this_machine_reaches_the_published_ports(compose: dict[str, Any]):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_workspace_names_the_code_service_and_its_port(compose: dict[str, Any]):
    server = yaml.safe_load((DOCKER / "workspace.yaml").read_text(encoding="utf-8"))["load_from"][0]["grpc_server"]
    assert server["host"] in compose["services"]
    assert f'"-p", "{server["port"]}"' in (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def test_what_the_image_copies_is_there():
    root = DOCKER.parent
    lines = [line.split()[1:-1] for line in (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines() if line.startswith("COPY")]
    assert lines
    copied = {name for names in lines for name in names}
    assert [name for name in copied if not (root / name).exists()] == []
    let_in = {line[1:] for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert copied == {name.removeprefix("./") for name in let_in}
