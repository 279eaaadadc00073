import json
import os
import tempfile
from pathlib import Path
from uuid import uuid4

import pytest

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import (
    Artifact,
    DamagedArtifact,
    FailedUpstream,
    MissingArtifact,
    Store,
    StoreNotWritable,
    content_of,
    in_store,
)


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    url = str(tmp_path / "store") if request.param == "local" else f"memory://{uuid4().hex}/store"
    return Store.at(url, cache=tmp_path / "cache")


def kept(
    store: Store, *, asset: str = "dataset", rows: int = 1, upstream: dict[str, Artifact] | None = None, passed: bool = True
) -> Artifact:
    content = content_of(asset=asset, version=1, what={"rows": rows}, upstream=upstream or {})
    with store.draft("triage", content) as draft:
        (draft.folder / "inner").mkdir()
        (draft.folder / "inner" / "rows.jsonl").write_text("{}\n" * rows, encoding="utf-8")
        return draft.finish(Built(metadata={"rows": rows}, checks=[Check(name="size", passed=passed, description=f"{rows} rows")]))


def test_a_finished_artifact_is_found_whole_and_is_current(store: Store):
    made = kept(store, rows=3)
    found = store.current("triage", "dataset")
    assert found.fingerprint == made.fingerprint
    assert found.file("inner/rows.jsonl").read_text(encoding="utf-8") == "{}\n" * 3
    assert found.metadata == {"rows": 3}
    assert found.manifest.files["inner/rows.jsonl"] == file_sha256(found.file("inner/rows.jsonl"))


def test_files_of_artifacts_are_told_from_those_of_users(tmp_path: Path):
    made = kept(Store.at(str(tmp_path / "store")))
    (tmp_path / "manifest.json").write_text("a user's own", encoding="utf-8")
    assert in_store(made.file("inner/rows.jsonl"))
    assert not in_store(tmp_path / "rows.jsonl")
    content = content_of(asset="dataset", version=2, what={}, upstream={})
    with Store.at(str(tmp_path / "store")).draft("triage", content) as draft:
        assert in_store(draft.folder / "inner" / "rows.jsonl")


def test_an_error_while_building_leaves_nothing(store: Store, tmp_path: Path):
    content = content_of(asset="dataset", version=1, what={}, upstream={})
    with pytest.raises(KeyError), store.draft("triage", content) as draft:
        (draft.folder / "half").write_text("half", encoding="utf-8")
        raise KeyError
    assert not draft.folder.exists()
    assert store.peek("triage", "dataset") is None


def test_an_artifact_without_manifest_does_not_exist(tmp_path: Path):
    store = Store.at(str(tmp_path / "store"))
    made = kept(store)
    (made.folder / "manifest.json").unlink()
    assert store.find("triage", "dataset", made.fingerprint) is None


def test_current_stays_on_the_artifact_that_was_used_last_not_on_the_newest(store: Store):
    old, _new = kept(store, rows=1), kept(store, rows=2)
    store.use(old)
    assert store.current("triage", "dataset").fingerprint == old.fingerprint
    assert [manifest.built.metadata["rows"] for manifest in store.history("triage", "dataset")] == [1, 2]


def test_building_the_same_again_replaces_it(store: Store):
    assert kept(store).fingerprint == kept(store).fingerprint
    assert len(store.history("triage", "dataset")) == 1


def test_a_missing_upstream_says_what_to_materialize(store: Store):
    with pytest.raises(MissingArtifact, match="Materialize dataset first"):
        store.current("triage", "dataset")


def test_an_upstream_that_failed_its_check_is_refused(store: Store):
    kept(store, passed=False)
    with pytest.raises(FailedUpstream, match="size: 1 rows"):
        store.current("triage", "dataset")
    assert store.current("triage", "dataset", passed=False).metadata == {"rows": 1}


def test_a_lost_file_is_damage_that_says_what_to_do(tmp_path: Path):
    made = kept(Store.at(str(tmp_path / "store")))
    made.file("inner/rows.jsonl").unlink()
    with pytest.raises(DamagedArtifact, match="materialize again"):
        made.file("inner/rows.jsonl")


def test_damage_is_seen_by_content_and_not_by_size_or_date(store: Store):
    artifact = kept(store)
    assert store.damage(artifact) == []
    path = artifact.file("inner/rows.jsonl")
    before = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert store.damage(artifact) == ["inner/rows.jsonl"]
    path.unlink()
    assert store.damage(artifact) == ["inner/rows.jsonl"]


def test_moving_the_store_keeps_the_fingerprint(tmp_path: Path):
    made = [kept(Store.at(str(tmp_path / place))) for place in ("here", "there")]
    assert made[0].fingerprint == made[1].fingerprint


def test_a_changed_upstream_changes_the_fingerprint_and_is_named(store: Store):
    first = kept(store, asset="clean_examples", rows=1)
    kept(store, upstream={"clean_examples": first})
    second = kept(store, asset="clean_examples", rows=2)
    new = content_of(asset="dataset", version=1, what={"rows": 1}, upstream={"clean_examples": second})
    assert store.changed("triage", new) == ["upstream.clean_examples"]


def test_a_remote_artifact_is_read_from_a_local_copy_that_is_checked_by_hash(tmp_path: Path):
    store = Store.at(f"memory://{uuid4().hex}/store", cache=tmp_path / "cache")
    copy = kept(store).file("inner/rows.jsonl")
    assert copy.is_relative_to(tmp_path / "cache")
    copy.write_text("damaged", encoding="utf-8")
    assert store.current("triage", "dataset").file("inner/rows.jsonl").read_text(encoding="utf-8") == "{}\n"


def test_the_manifest_keeps_the_hashed_payload(tmp_path: Path):
    made = kept(Store.at(str(tmp_path / "store")))
    manifest = json.loads((made.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["payload"] == {"asset": "dataset", "version": 1, "what": {"rows": 1}, "upstream": {}}


def test_the_parts_of_broken_work_stay_for_the_next_try_and_go_after_success(store: Store):
    content = content_of(asset="dataset", version=1, what={}, upstream={})
    with pytest.raises(KeyError), store.parts("triage", content) as parts:
        (parts / "1").write_text("done", encoding="utf-8")
        raise KeyError
    with store.parts("triage", content) as again:
        assert (again / "1").read_text(encoding="utf-8") == "done"
    assert not again.exists()


def test_two_runs_of_the_same_work_do_not_share_parts(store: Store):
    content = content_of(asset="dataset", version=1, what={}, upstream={})
    with store.parts("triage", content) as first, store.parts("triage", content) as second:
        assert first != second
    assert not first.exists()
    assert not second.exists()


def test_parts_that_nobody_came_back_for_are_forgotten(store: Store):
    old, new = (content_of(asset="dataset", version=version, what={}, upstream={}) for version in (1, 2))
    with pytest.raises(KeyError), store.parts("triage", old) as parts:
        raise KeyError
    os.utime(parts, (0, 0))
    with store.parts("triage", new):
        assert not parts.exists()


def test_a_draft_that_a_kill_left_is_forgotten_after_a_week_and_one_of_today_stays(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # A remote store's drafts lie there.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = content_of(asset="dataset", version=1, what={}, upstream={})
    with store.draft("triage", content) as draft:
        place = draft.folder.parent
    killed, running = place / ".draft-killed", place / ".draft-running"
    killed.mkdir()
    running.mkdir()
    os.utime(killed, (0, 0))
    with store.draft("triage", content):
        assert (killed.exists(), running.exists()) == (False, True)


def test_a_store_that_cannot_be_written_says_which_and_what_to_do(tmp_path: Path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    content = content_of(asset="dataset", version=1, what={}, upstream={})
    said = r"the store .*/file cannot be written .*set FINE_TUNE_PIPELINE_STORE"
    with pytest.raises(StoreNotWritable, match=said), Store.at(str(tmp_path / "file")).draft("triage", content):
        pass
