"""A proposed change in the YAML of a use case: shown, checked, written whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.cli import main
from fine_tune_pipeline.guide.evaluation.iterate.steps import Change, NextStep
from fine_tune_pipeline_tests.guide.evaluation.iterate.reports import TRIAGE

EPOCHS = Change("training.epochs", 2, 3.0)
CANDIDATES = Change("base_model.candidates", ["gemma-3-270m"], ["qwen3-0.6b", "gemma-3-270m"])


def step(id: str, *patch: Change) -> NextStep:
    return NextStep(id, f"Try {id}", "seen on 200 rows", patch, "more", "minutes")


STEPS = [
    step("underfit", EPOCHS),
    step("overfit", Change("training.epochs", 2, 1.0)),
    step("other", Change("technique", {"type": "auto"}, {"type": "lora", "rank": 8}), CANDIDATES),
    step("wrong", Change("training.epochs", 2, 99.0), Change("training.seed", 0, "none")),
    step("unknown", Change("base_model.candidates", ["gemma-3-270m"], ["no-such-model"])),
    step("stale", Change("training.effective_batch", 16, 32)),
    step("done", Change("training.effective_batch", 16, 8)),
    step("people"),
]


@pytest.fixture
def triage(tmp_path: Path) -> Path:
    """The built-in use case with its data, beside an evaluation that proposes `STEPS`."""
    folder = shutil.copytree(TRIAGE.parent, tmp_path / "support_triage")
    rows = [one.row() for one in STEPS]
    (folder / "next_steps.json").write_text(json.dumps({"use_case": "support_triage", "next_steps": rows}), encoding="utf-8")
    return folder / "defs.yaml"


def apply(path: Path, *arguments: str) -> int:
    return main(["apply", str(path), *arguments, "--report", str(path.parent)])


def test_a_change_is_written_and_nothing_else(triage: Path, capsys: pytest.CaptureFixture[str]):
    before = triage.read_text(encoding="utf-8")
    mode = triage.stat().st_mode
    assert apply(triage, "underfit") == 0
    assert triage.read_text(encoding="utf-8") == before.replace("{epochs: 2, ", "{epochs: 3.0, ")
    assert triage.stat().st_mode == mode
    shown = capsys.readouterr().out
    assert "-  training: {epochs: 2, effective_batch: 8}   # 1,500 short rows" in shown
    assert "+  training: {epochs: 3.0, effective_batch: 8}   # 1,500 short rows" in shown
    assert "no git holds this folder. Next: fine-tune-pipeline plan support_triage" in shown
    assert sorted(path.name for path in triage.parent.iterdir() if path.name.startswith(".")) == []


def test_several_fields_of_a_step_stand_in_the_order_of_the_fields(triage: Path):
    before = triage.read_text(encoding="utf-8")
    assert apply(triage, "other") == 0
    wanted = before.replace("[gemma-3-270m]", "[qwen3-0.6b, gemma-3-270m]")
    wanted = wanted.replace("  training: {", "  technique: {type: lora, rank: 8}\n  training: {")
    assert triage.read_text(encoding="utf-8") == wanted


def test_a_dry_run_shows_the_change_and_writes_nothing(triage: Path, capsys: pytest.CaptureFixture[str]):
    before = triage.read_bytes()
    assert apply(triage, "underfit", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["use_case"]) == (False, "support_triage")
    assert "+  training: {epochs: 3.0" in told["diff"]
    assert triage.read_bytes() == before


def test_without_a_step_all_are_listed(triage: Path, capsys: pytest.CaptureFixture[str]):
    before = triage.read_bytes()
    assert apply(triage) == 0
    shown = capsys.readouterr().out
    assert "underfit  Try underfit\n    why     seen on 200 rows\n    change  training.epochs: 2 → 3.0\n" in shown
    assert "change  none: people do this" in shown
    assert shown.endswith("such as: fine-tune-pipeline apply support_triage underfit --dry-run\n")
    assert triage.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["no_such"], 2, "got no_such, want one of underfit, overfit, other"),
        (["people"], 1, "no field of a use case says this, people do it: people: Try people (minutes)"),
        (["stale"], 1, "training.effective_batch: is 8 now, and was 16 when stale was proposed"),
        (["done"], 1, "training.effective_batch: is 8 already, as done wants it"),
        (["underfit", "overfit"], 1, "training.epochs: underfit and overfit both change it; apply one of them"),
        (["wrong"], 1, "attributes.training.epochs: got 99.0, want "),
        (["wrong"], 1, "attributes.training.seed: got 'none', want a valid integer"),
        (["unknown"], 1, "no-such-model"),
    ],
)
def test_what_cannot_be_applied_is_told_and_the_file_stays(
    triage: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
):
    before = triage.read_bytes()
    assert apply(triage, *arguments) == code
    assert said in capsys.readouterr().err
    assert triage.read_bytes() == before


def test_a_value_in_an_anchor_that_is_used_elsewhere_is_refused_by_name(triage: Path, capsys: pytest.CaptureFixture[str]):
    text = triage.read_text(encoding="utf-8").replace("training: {epochs: 2,", "training: {epochs: &two 2,")
    triage.write_text(text + "  deployment: {retrain: {cooldown_days: *two}}\n", encoding="utf-8")
    assert apply(triage, "underfit") == 1
    told = capsys.readouterr().err
    assert "attributes.training.epochs: it lies in the anchor &two, which is used elsewhere too; change it by hand" in told


def test_a_link_to_the_file_stays_a_link(triage: Path, tmp_path: Path):
    link = tmp_path / "linked.yaml"
    link.symlink_to(triage)
    shutil.copytree(triage.parent, tmp_path, dirs_exist_ok=True)
    assert main(["apply", str(link), "underfit", "--report", str(triage.parent)]) == 0
    assert link.is_symlink()
    assert "epochs: 3.0" in triage.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (None, "there is no"),
        ("{", "cannot be read as JSON"),
        ({"use_case": "support_triage", "next_steps": ["train longer"]}, "holds no next steps with changes"),
        ({"use_case": "other", "next_steps": []}, "is an evaluation of other, want one of support_triage"),
    ],
)
def test_a_file_without_steps_is_refused(triage: Path, capsys: pytest.CaptureFixture[str], kept: Any, said: str):
    file = triage.parent / "next_steps.json"
    if kept is None:
        file.unlink()
    else:
        file.write_text(kept if isinstance(kept, str) else json.dumps(kept), encoding="utf-8")
    assert apply(triage) == 2
    assert said in capsys.readouterr().err


def test_a_use_case_that_nobody_knows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path))
    assert main(["apply", "nobody"]) == 2
    assert "got 'nobody', want one of support_triage, or a YAML file" in capsys.readouterr().err
    assert main(["apply", "support_triage", "underfit"]) == 1
    assert "no evaluation_report in" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
