"""`fine-tune-pipeline release`, `rollback` and `approve`; the endpoint does not run, so its files are what changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.cli import main
from fine_tune_pipeline.guide.deployment.registry import ModelRegistry
from fine_tune_pipeline.guide.deployment.release.record import Book
from fine_tune_pipeline.programs.serving.contract import Table, VersionState, served_name
from fine_tune_pipeline_tests.guide.deployment.release.release_world import BASE_SHA256, a_release

# MLflow's tables ask SQLAlchemy for a strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Path:
    """A registry with two versions of four use cases."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(empty_registry, folder)
    for use_case in ("back", "once", "waiting", "again"):
        registry = ModelRegistry(uri=f"sqlite:///{folder}/mlflow.db", use_case=use_case)
        for version in (1, 2):
            registry.register(folder, run_id=None, tags={"fingerprint": f"f{version}", "adapter_sha256": f"{version}" * 64})
        registry.point("previous", 1)
        registry.point("champion", 2)
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(home))
    for name in ("MLFLOW_TRACKING_URI", "DAGSTER_HOME", "FINE_TUNE_PIPELINE_STORE"):
        monkeypatch.delenv(name, raising=False)


def served(home: Path, use_case: str, **release: Any) -> ModelRegistry:
    """Version 2 is champion, version 1 the one before; the endpoint's files say so."""
    folder = home / "serving" / use_case
    folder.mkdir(parents=True)
    versions = [
        VersionState(version=number, name=served_name(use_case, number), adapter_sha256=f"{number}" * 64, max_new_tokens=8, state="loaded")
        for number in (1, 2)
    ]
    Table(base_sha256=BASE_SHA256, versions=tuple(versions), aliases={"champion": 2, "previous": 1}).write(folder / "versions.json")
    Book(folder).write(a_release(**{"state": "watch", **release}))
    return ModelRegistry(uri=f"sqlite:///{home}/mlflow.db", use_case=use_case)


def test_rolling_back_says_what_it_did_moves_the_aliases_and_refuses_a_second_time(home: Path, capsys: pytest.CaptureFixture[str]):
    registry = served(home, "back")
    assert main(["rollback", "back", "--by", "ann", "--reason", "rude answers", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["does"], said["version"], said["champion"], said["reason"], said["by"]) == ("roll_back", 2, 1, "rude answers", "ann")
    assert registry.aliases() == {"champion": 1, "challenger": 2}
    assert Table.read(home / "serving" / "back" / "versions.json").aliases == {"champion": 1, "challenger": 2}
    assert main(["rollback", "back"]) == 1
    assert "no previous version" in capsys.readouterr().err
    assert main(["release", "back"]) == 1
    assert "rude answers; champion is version 1" in capsys.readouterr().out


def test_a_release_that_is_watched_is_fine(home: Path, capsys: pytest.CaptureFixture[str]):
    served(home, "once", since=4e9)
    assert main(["release", "once"]) == 0
    assert "bank-v2: watch: 0 of 200 requests" in capsys.readouterr().out
    assert main(["approve", "once", "--by", "ann"]) == 1
    assert "nothing waits for approval; bank-v2 is in state watch" in capsys.readouterr().err


def test_while_a_person_is_waited_for_the_exit_code_is_4(home: Path, capsys: pytest.CaptureFixture[str]):
    served(home, "waiting", state="approval")
    assert main(["release", "waiting"]) == 4
    assert "fine-tune-pipeline approve waiting --by NAME" in capsys.readouterr().out


def test_a_version_that_was_rolled_back_may_be_tried_again_when_somebody_says_so(home: Path, capsys: pytest.CaptureFixture[str]):
    served(home, "again", state="rolled_back", reason="rude")
    assert main(["release", "again", "--again", "--by", "bob", "--reason", "it was the prompt"]) == 0
    assert "version 2 may be tried again: materialize again/endpoint" in capsys.readouterr().out
    book = Book(home / "serving" / "again")
    assert book.refusal(2) is None
    assert main(["release", "again", "--again"]) == 1


@pytest.mark.parametrize("command", [["release"], ["rollback"], ["approve", "--by", "ann"]])
def test_a_use_case_that_never_ran_is_wrong_use_and_nothing_is_made(home: Path, command: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([command[0], "nobody", *command[1:]]) == 2
    assert "no endpoint has run" in capsys.readouterr().err
    assert not (home / "serving" / "nobody").exists()


def test_without_the_registry_nothing_changes_and_the_environment_is_at_fault(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    served(tmp_path, "away")
    assert main(["rollback", "away"]) == 3
    assert "nothing was changed" in capsys.readouterr().err
    assert Table.read(tmp_path / "serving" / "away" / "versions.json").aliases == {"champion": 2, "previous": 1}
