"""`fine-tune-pipeline export` and `verify`, from the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fine_tune_pipeline.artifacts.checksums import verify, write_sums
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.exporting import copy_whole
from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline_tests.guide.deployment.export_world import USE_CASE, ExportWorld, own_base
from fine_tune_pipeline_tests.waiting import wait_until


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExportWorld:
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FINE_TUNE_PIPELINE_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return ExportWorld(tmp_path)


def written(folder: Path, **export: Any) -> str:
    """The YAML file of the use case."""
    content = {
        "name": USE_CASE,
        "objective": {
            "goal": "Tell apples from pears",
            "task": {"type": "classification", "labels": ["apple", "pear"]},
            "success": [{"metric": "exact_match", "at_least": 0.5}],
        },
        "base_model": own_base(),
        "dataset": {"sources": [{"type": "jsonl", "path": "rows.jsonl", "prompt": "{{ a }}", "completion": "{{ b }}"}]},
        "deployment": {"export": export},
    }
    # Where the base model came from; what was taken of it lies in the store.
    (folder / "nowhere").mkdir()
    (folder / "rows.jsonl").write_text('{"a": "red", "b": "apple"}\n', encoding="utf-8")
    document = {"type": "fine_tune_pipeline.use_case.FineTuneUseCase", "attributes": content}
    (folder / "defs.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(folder / "defs.yaml")


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_an_export_leaves_the_store_and_can_be_checked_by_whoever_gets_it(world: ExportWorld, capsys: pytest.CaptureFixture[str]):
    _, adapter = world.fill()
    target = world.folder / "given" / "away"
    asked = ["export", written(world.folder, formats=["adapter"]), "--to", str(target), "--json"]
    assert main(asked) == 0
    printed = capsys.readouterr()
    # What the program says is seen, and no event of Dagster's own.
    assert " - INFO - " in printed.err
    assert " - DEBUG - " not in printed.err
    told = json.loads(printed.out)
    assert (told["folder"], told["formats"], told["not_made"], told["files"]) == (str(target), ["adapter"], "none", 5)
    assert weights_sha256(target / "adapter") == weights_sha256(adapter)
    assert [path.name for path in target.parent.iterdir()] == ["away"]
    assert main(["verify", str(target), "--json"]) == 0
    assert said(capsys) == {"folder": str(target), "by": "SHA256SUMS", "files": 5, "wrong": []}
    # What lies there is never overwritten.
    assert main(asked) == 2
    assert "is there already" in capsys.readouterr().err


def test_verify_names_each_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_text(name, encoding="utf-8")
    write_sums(folder)
    (folder / "a").write_text("other", encoding="utf-8")
    (folder / "b").unlink()
    (folder / "d").write_text("d", encoding="utf-8")
    assert main(["verify", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{folder}/a: differs",
        f"{folder}/b: is missing",
        f"{folder}/d: is extra",
        f"{folder}: 3 files by SHA256SUMS, 3 wrong",
    ]
    assert main(["verify", str(folder), "--json"]) == 1
    assert said(capsys)["wrong"] == [
        {"file": "a", "problem": "differs"},
        {"file": "b", "problem": "is missing"},
        {"file": "d", "problem": "is extra"},
    ]
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "no such folder; want the folder of an export" in capsys.readouterr().err


def test_artifacts_of_the_store_can_be_verified_too(world: ExportWorld, capsys: pytest.CaptureFixture[str]):
    world.fill()
    folder = world.store.current(USE_CASE, "adapter").folder
    assert main(["verify", str(folder), "--json"]) == 0
    assert said(capsys)["by"] == "manifest.json"
    (folder / "train.json").write_text("{}", encoding="utf-8")
    assert main(["verify", str(folder), "--json"]) == 1
    assert said(capsys)["wrong"] == [{"file": "train.json", "problem": "differs"}]


def test_a_merge_that_is_refused_gives_nothing_away(world: ExportWorld, capsys: pytest.CaptureFixture[str]):
    world.fill()
    target = world.folder / "given"
    use_case = written(world.folder, dtype="bfloat16", largest_logit_difference=1e-6)
    assert main(["export", use_case, "--formats", "merged", "--to", str(target)]) == 1
    assert "merged_as_trained: the merged model's logits differ by up to" in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nobody", "--formats", "merged"], 2, "got 'nobody', want one of"),
        (["defs.yaml"], 2, "say --formats adapter merged gguf"),
        (["defs.yaml", "--formats", "merged"], 1, "fruit/base_model: nothing in the store"),
    ],
)
def test_what_cannot_be_exported_is_told(world: ExportWorld, arguments: list[str], code: int, words: str, capsys, monkeypatch):
    written(world.folder)
    monkeypatch.chdir(world.folder)
    assert main(["export", *arguments, "--to", "given"]) == code
    assert words in capsys.readouterr().err


def test_a_program_that_fails_is_an_affair_of_the_environment(world: ExportWorld, capsys: pytest.CaptureFixture[str], monkeypatch):
    world.fill()
    monkeypatch.setenv("FINE_TUNE_PIPELINE_GGUF_CONVERTER", "/nowhere/convert_hf_to_gguf.py")
    assert main(["export", written(world.folder), "--formats", "gguf", "--to", str(world.folder / "given")]) == 3
    told = capsys.readouterr().err
    assert "/nowhere/convert_hf_to_gguf.py is no file" in told
    assert "exported_model could not be made" in told


WAITS = """\
import pathlib
pathlib.Path(__file__).with_name("begun").touch()
open(pathlib.Path(__file__).with_name("never")).read()
"""


def test_an_export_that_is_stopped_leaves_no_process_and_no_file(world: ExportWorld):
    world.fill()
    os.mkfifo(world.folder / "never")
    converter = world.folder / "convert_hf_to_gguf.py"
    converter.write_text(WAITS, encoding="utf-8")
    asked = ["export", written(world.folder), "--formats", "gguf", "--to", str(world.folder / "given")]
    environment = {**os.environ, "FINE_TUNE_PIPELINE_GGUF_CONVERTER": str(converter)}
    command = [sys.executable, "-m", "fine_tune_pipeline.cli", *asked]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with process:
        wait_until((world.folder / "begun").exists, deadline_seconds=200, what="the converter")
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert not (world.folder / "given").exists()
    assert [path.name for path in (world.folder / "store" / USE_CASE / "exported_model").iterdir()] == []


@pytest.mark.parametrize("format", ["onnx", "pickle"])
def test_an_unknown_format_is_a_wrong_use(format: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["export", "fruit", "--formats", format, "--to", "given"])
    assert ended.value.code == 2
    assert f"invalid choice: '{format}'" in capsys.readouterr().err


def test_a_copy_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_text(name, encoding="utf-8")
    copyfile = shutil.copyfile

    def interrupted(path: str, target: str, **more: Any) -> None:
        copyfile(path, target, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy_whole(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    # One that was killed could not clear up: the next one does.
    (tmp_path / ".target.partial").mkdir()
    (tmp_path / ".target.partial" / "stale").touch()
    copy_whole(source, tmp_path / "target")
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
    write_sums(tmp_path / "target")
    assert verify(tmp_path / "target").wrong == ()
