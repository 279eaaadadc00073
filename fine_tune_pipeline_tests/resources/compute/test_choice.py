from pathlib import Path

import dagster as dg
import pytest

from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.compute.choice import UnknownPlace, chosen_compute
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.compute.placed import KINDS, PlacedCompute


def test_without_a_choice_programs_run_here():
    assert chosen_compute({}).place == Local()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_an_outline_of_its_own(kind: str):
    assert KINDS[kind].model_fields["kind"].default == kind
    assert KINDS[kind].__doc__


def test_a_file_holds_the_settings_of_a_place(tmp_path: Path):
    file = tmp_path / "compute.yaml"
    file.write_text("kind: local\ntimeout_seconds: 60\ngpus: 2\n", encoding="utf-8")
    assert chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": str(file)}).place == Local(timeout_seconds=60, gpus=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: lokal\n", r"kind: got 'lokal', want one of local"),
        ("timeout: 60\n", r"kind: got None, want one of local"),
        ("kind: local\ntimeout: 60\n", r"timeout: unknown; local has .*timeout_seconds"),
        ("kind: local\ntimeout_seconds: -1\n", r"timeout_seconds: got -1: Input should be greater than 0"),
        ("kind: local\ngpus: many\nlauncher: slow\n", r"launcher: got 'slow'.*; gpus: got 'many'|gpus: got 'many'.*launcher: got 'slow'"),
        ("- local\n", r"got list, want settings, such as `kind: docker`"),
        ("kind: [local\n", r"cannot be read as YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wanted(tmp_path: Path, text: str, said: str):
    file = tmp_path / "compute.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UnknownPlace, match=said):
        chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": str(file)})


def test_an_unknown_kind_or_missing_file_names_what_there_is(tmp_path: Path):
    with pytest.raises(UnknownPlace, match=r"FINE_TUNE_PIPELINE_COMPUTE: kind: got 'moon', want one of .*local"):
        chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": "moon"})
    with pytest.raises(UnknownPlace, match=r"nowhere.yaml cannot be read"):
        chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": str(tmp_path / "nowhere.yaml")})


@pytest.mark.parametrize(("kind", "setting"), [("kubernetes", "image"), ("cloud", "staging")])
def test_a_kind_alone_that_needs_a_setting_says_where_to_write_it(tmp_path: Path, kind: str, setting: str):
    way = "write a YAML file with its settings and name it in FINE_TUNE_PIPELINE_COMPUTE"
    with pytest.raises(UnknownPlace, match=rf"^FINE_TUNE_PIPELINE_COMPUTE: {kind} needs {setting}: {way} \(docs/compute_{kind}\.md\)$"):
        chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": kind})
    file = tmp_path / "compute.yaml"
    file.write_text(f"kind: {kind}\n{setting}:\n", encoding="utf-8")
    with pytest.raises(UnknownPlace, match=rf"compute\.yaml: {kind} needs {setting}: add it to the file"):
        chosen_compute({"FINE_TUNE_PIPELINE_COMPUTE": str(file)})


def test_the_configuration_of_a_run_chooses_another_place():
    seen: list[object] = []

    @dg.asset
    def asked(compute: Compute) -> None:
        assert isinstance(compute, PlacedCompute)
        seen.append(compute.place)

    defs = dg.Definitions(assets=[asked], resources={"compute": chosen_compute({})})
    place = {"local": {"grace_seconds": 3.0, "gpus": 2}}
    job = defs.resolve_implicit_global_asset_job_def()
    job.execute_in_process(run_config={"resources": {"compute": {"config": {"place": place}}}})
    assert seen == [Local(grace_seconds=3.0, gpus=2)]
