"""Folders that are whole, changed, short of a file, or have one too many: of exports and of artifacts."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.checksums import MANIFEST, SUMS, NothingToVerify, Wrong, verify, write_sums
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Store, content_of


def write_files(folder: Path) -> None:
    (folder / "merged").mkdir(parents=True)
    (folder / "README.md").write_text("what it is\n", encoding="utf-8")
    (folder / "merged" / "model.safetensors").write_bytes(b"weights")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    write_files(tmp_path / "export")
    write_sums(tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    with Store.at(str(tmp_path)).draft("bank", content_of(asset="adapter", version=1, what={"rank": 8}, upstream={})) as draft:
        write_files(draft.folder)
        return draft.finish(Built()).folder


def change(folder: Path) -> None:
    (folder / "merged" / "model.safetensors").write_bytes(b"Weights")


def take_away(folder: Path) -> None:
    (folder / "README.md").unlink()


def add(folder: Path) -> None:
    (folder / "merged" / "tokenizer.json").write_text("{}", encoding="utf-8")


DAMAGES = [
    (change, Wrong("merged/model.safetensors", "differs")),
    (take_away, Wrong("README.md", "is missing")),
    (add, Wrong("merged/tokenizer.json", "is extra")),
]


@pytest.mark.parametrize("kind", ["export", "artifact"])
@pytest.mark.parametrize(("damage", "wrong"), DAMAGES)
def test_a_file_that_is_not_as_it_was_is_named(kind: str, damage: Callable[[Path], None], wrong: Wrong, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(kind)
    assert verify(folder).wrong == ()
    assert verify(folder).files == 2
    damage(folder)
    assert verify(folder).wrong == (wrong,)


def test_a_file_that_the_disk_does_not_give_is_told_with_the_others(export: Path):
    take_away(export)
    # A regular file whose first byte nobody can read.
    (export / "README.md").symlink_to("/proc/self/mem")
    assert verify(export).wrong == (Wrong("README.md", "cannot be read"),)


def test_all_wrong_files_are_told_at_once(export: Path):
    for damage, _ in DAMAGES:
        damage(export)
    assert set(verify(export).wrong) == {wrong for _, wrong in DAMAGES}


def test_coreutils_agrees(export: Path):
    check = ["sha256sum", "--check", "--strict", SUMS]
    assert subprocess.run(check, cwd=export, capture_output=True, check=False).returncode == 0
    change(export)
    assert subprocess.run(check, cwd=export, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("text", ["not a list", f"{'0' * 64}  ../outside\n", f"{'0' * 64}  /etc/passwd\n", f"{'0' * 63}  README.md\n"])
def test_a_damaged_list_is_wrong_itself_and_leads_nowhere(export: Path, text: str):
    (export / SUMS).write_text(text, encoding="utf-8")
    assert verify(export).wrong == (Wrong(SUMS, "cannot be read"),)


def test_a_manifest_that_was_edited_shows(artifact: Path):
    manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
    manifest["payload"]["what"]["rank"] = 16
    (artifact / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert verify(artifact).wrong == (Wrong(MANIFEST, "cannot be read"),)
    (artifact / MANIFEST).write_text("{", encoding="utf-8")
    assert verify(artifact).wrong == (Wrong(MANIFEST, "cannot be read"),)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_hashes_is_no_answer(tmp_path: Path, name: str):
    with pytest.raises(NothingToVerify, match="want the folder of an export"):
        verify(tmp_path / name)
