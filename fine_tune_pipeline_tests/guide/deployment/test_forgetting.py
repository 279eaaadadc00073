"""What must go from the traffic: old requests, and a user's, with the copies in the store; and the commands for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fine_tune_pipeline.artifacts.examples import write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.artifacts.traffic import Feedback, TrafficLog
from fine_tune_pipeline.artifacts.traffic_identity import NoSalt, ShortSalt, keyed_hash, known_salt, log_salt
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.guide.deployment.forgetting import copies_of, expired, forgotten
from fine_tune_pipeline.spec.traffic import TrafficSpec
from fine_tune_pipeline_tests.artifacts.test_traffic import ROW

NAME = "support_triage"
IDS = [f"chatcmpl-{number:032x}" for number in range(6)]
DAY = 86_400.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FINE_TUNE_PIPELINE_STORE", "FINE_TUNE_PIPELINE_TRAFFIC_SALT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def log(home: Path) -> TrafficLog:
    """Two requests of Ann, four of others, and what they said."""
    state = home / "serving" / NAME
    state.mkdir(parents=True)
    salt = log_salt(state)
    found = TrafficLog.at(state)
    users = ["Ann", "Bob", "Ann", "Bob", "Eve", "Eve"]
    rows = zip(IDS, users, strict=True)
    found.append([replace(ROW, id=each, ts=DAY * place, user_hash=keyed_hash(user, salt=salt)) for place, (each, user) in enumerate(rows)])
    found.feedback(Feedback(IDS[0], thumb="up"))
    found.feedback(Feedback(IDS[1], corrected="fees", source="Ann"))
    return found


def made(store: Store, asset: str, write: Callable[[Path], object], **upstream: Artifact) -> Artifact:
    content = content_of(asset=asset, version=1, what={"of": str(write)}, upstream=upstream)
    with store.draft(NAME, content) as draft:
        write(draft.folder)
        return draft.finish(Built(metadata={}))


def snapshot(folder: Path) -> None:
    write_rows(folder / "requests.jsonl", [{"id": each} for each in IDS[:3]])


def snapshot_of_others(folder: Path) -> None:
    write_rows(folder / "requests.jsonl", [{"id": each} for each in IDS[3:]])


def as_parquet(folder: Path) -> None:
    pd.DataFrame({"id": IDS[2:], "n": range(4)}).to_parquet(folder / "requests.parquet")


def report(folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps({"examples": ["a text without its id"]}), encoding="utf-8")


def dataset(folder: Path) -> None:
    write_rows(folder / "train.jsonl", [{"id": "x", "metadata": {"request_id": IDS[0]}}])


def test_copies_are_found_in_every_kind_of_file_and_reports_by_their_snapshot(home: Path):
    store = Store.at(str(home / "store"))
    old = made(store, "production_traffic", snapshot)
    others = made(store, "production_traffic", snapshot_of_others)
    new = made(store, "production_traffic", as_parquet)
    reports = [made(store, "drift_report", report, production_traffic=each) for each in (old, others)]
    learnt = made(store, "dataset", dataset)
    found = {str(copy.folder): (copy.requests, copy.observed) for copy in copies_of(store, NAME, [IDS[0], IDS[2]])}
    assert found == {
        str(old.folder): (2, True),
        str(new.folder): (1, True),
        str(reports[0].folder): (0, True),
        str(learnt.folder): (1, False),
    }
    assert list(copies_of(store, NAME, [])) == []


def test_a_user_is_forgotten_and_copies_go_if_that_is_asked_for(home: Path, log: TrafficLog):
    store = Store.at(str(home / "store"))
    seen, learnt = made(store, "production_traffic", snapshot), made(store, "dataset", dataset)
    state = log.path.parent
    would = forgotten(log, store, use_case=NAME, user="Ann", state=state, copies=True, dry_run=True)
    assert (len(would.removed.requests), would.removed.feedback, len(would.copies), would.deleted) == (2, 2, 2, ())
    assert len(log) == 6
    done = forgotten(log, store, use_case=NAME, user="Ann", state=state, copies=True)
    assert [copy.asset for copy in done.deleted] == ["production_traffic"]
    assert (seen.folder.exists(), learnt.folder.exists(), store.peek(NAME, "production_traffic")) == (False, True, None)
    assert [logged.request.id for logged in log.window(9)] == [IDS[1], *IDS[3:]]
    assert forgotten(log, store, use_case=NAME, user="Ann", state=state).removed.requests == ()


def test_only_what_is_older_than_the_use_case_keeps_it_is_deleted(log: TrafficLog):
    assert expired(log, TrafficSpec(), use_case=NAME, now=DAY * 1000).requests == ()
    assert expired(log, TrafficSpec(retention_days=2.5), use_case=NAME, now=DAY * 5).requests == tuple(IDS[:3])
    assert [logged.request.id for logged in log.window(9)] == IDS[3:]


def test_the_command_says_what_went_and_what_is_left(home: Path, log: TrafficLog, capsys: pytest.CaptureFixture[str]):
    made(Store.at(str(home / "store")), "dataset", dataset)
    assert main(["forget", NAME, "--user", "Ann", "--dry-run", "--json"]) == 0
    would = json.loads(capsys.readouterr().out)
    assert (would["requests"], would["feedback"], would["deleted"], len(would["copies_left"])) == (2, 2, False, 1)
    assert main(["forget", NAME, "--user", "Ann"]) == 1
    said = capsys.readouterr().out
    assert "2 requests and 2 pieces of feedback deleted" in said
    assert "dataset" in said
    assert main(["forget", NAME, "--user", "Ann"]) == 0
    assert len(log) == 4


def test_without_the_key_of_the_hashes_nobody_is_looked_up(home: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["forget", NAME, "--user", "Ann"]) == 3
    assert "salt: not there" in capsys.readouterr().err
    assert not (home / "serving").exists()
    with pytest.raises(NoSalt):
        known_salt(home, environment={})
    with pytest.raises(ShortSalt, match="got 5 characters"):
        log_salt(home, environment={"FINE_TUNE_PIPELINE_TRAFFIC_SALT": "short"})


def test_replicas_with_one_key_give_a_user_one_hash_and_it_survives_a_restart(tmp_path: Path):
    shared = {"FINE_TUNE_PIPELINE_TRAFFIC_SALT": "x" * 70}
    (tmp_path / "a").mkdir()
    assert log_salt(tmp_path / "a", environment=shared) == log_salt(tmp_path / "b", environment=shared)
    own = log_salt(tmp_path / "a", environment={})
    assert own == known_salt(tmp_path / "a", environment={}) == log_salt(tmp_path / "a", environment={})
    assert keyed_hash("Ann", salt=own) != keyed_hash("Ann", salt=b"x" * 70)
    assert len(keyed_hash("half \ud83d", salt=own)) == 32


def test_the_command_for_keys_shows_a_key_once(home: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["keys", NAME, "add", "shop", "--per-minute", "60"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("ftp-")
    assert main(["keys", NAME, "list", "--json"]) == 0
    [listed] = json.loads(capsys.readouterr().out)["keys"]
    assert (listed["name"], listed["per_minute"]) == ("shop", 60)
    assert main(["keys", NAME, "add", "shop"]) == 2
    assert main(["keys", NAME, "remove", "shop"]) == 0
    assert main(["keys", NAME, "remove", "shop"]) == 2
    assert main(["keys", NAME, "add"]) == 2
    assert main(["keys", "nobody", "list"]) == 2
    said = capsys.readouterr()
    assert key not in said.out + said.err
    assert "want one of none" in said.err
