"""What a plan says of a training that several processes share."""

from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.base_model.memory import GIB
from fine_tune_pipeline.guide.technique.assets import training_plan
from fine_tune_pipeline.guide.technique.fit import fits
from fine_tune_pipeline.guide.technique.plan import Job, Option, Place, Plan, make_plan
from fine_tune_pipeline.guide.technique.together import speedup
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.spec.environment import DevicePrice
from fine_tune_pipeline.spec.technique import Auto, Full, Lora, Qlora, TechniqueSpec
from fine_tune_pipeline.spec.training import TrainingSpec
from fine_tune_pipeline_tests.guide.technique.stand_ins import (
    RuleCompute,
    artifact_store,
    examples,
    kept_base_model,
    kept_dataset,
    upstream_assets,
    use_case,
)
from fine_tune_pipeline_tests.tiny import tiny_model

PRICE = DevicePrice(device="H100", per_hour=3.0, currency="USD", as_of=date(2026, 11, 1), source="test")


def place(*, gib: float = 80, kind: str = "cuda", **together: Any) -> Place:
    name = "CPU" if kind == "cpu" else "NVIDIA H100 80GB HBM3"
    device = Device(kind=kind, name=name, memory_bytes=int(gib * GIB), bfloat16=kind != "cpu")
    count = 1 if kind == "cpu" else together.get("processes", 1)
    inventory = Inventory(place="test", devices=(device,) * count, cpu_cores=8, memory_bytes=1024 * GIB, **together)
    return Place.of(inventory, headroom=0.1, prices=[PRICE])


def job(model: str = "llama-3.1-8b", *, technique: TechniqueSpec | None = None, row_tokens: int = 500, **training: Any) -> Job:
    work = Workload(
        rows=500, tokens=500 * row_tokens, labelled_tokens=100 * row_tokens, longest_tokens=2 * row_tokens, longest_bound=4 * row_tokens
    )
    wanted = TrainingSpec(**{"effective_batch": 16, **training})
    return Job(model=model_named(model).architecture, context=8192, work=work, technique=technique or Auto(), training=wanted)


def plan(asked: Job, where: Place) -> Plan:
    return make_plan(asked, where)[0]


def option(found: Plan, label: str) -> Option:
    return next(one for one in found.options if one.technique.label == label)


def test_a_model_that_only_all_devices_together_have_room_for_fits_in_parts():
    asked = job("llama-3.1-8b", technique=Full(type="full"))
    one, whole = place(processes=1), place(processes=4)
    cut = place(processes=4, parallel="fsdp2")
    assert not plan(asked, one).chosen.fits
    assert not plan(asked, whole).chosen.fits
    found = plan(asked, cut)
    assert found.chosen.fits
    assert (found.processes, found.parallel) == (4, "fsdp2")
    assert fits(found, asked, cut).description.endswith("of NVIDIA H100 80GB HBM3 may be used by each of 4 processes")


def test_where_it_only_fits_in_parts_the_check_says_so():
    asked, whole = job("llama-3.3-70b", technique=Lora(type="lora")), place(gib=36, processes=8)
    check = fits(plan(asked, whole), asked, whole)
    assert not check.passed
    assert check.description.endswith("compute.place.parallel: fsdp2 would fit, with technique lora.")
    assert plan(asked, place(gib=36, processes=8, parallel="fsdp2")).chosen.fits


def test_whole_models_need_as_much_in_each_process_and_share_the_rows():
    asked = job(technique=Lora(type="lora"))
    one, four = plan(asked, place()).chosen, plan(asked, place(processes=4)).chosen
    assert (four.peak_bytes, four.placement) == (one.peak_bytes, one.placement)
    assert four.seconds == pytest.approx(one.seconds / 4)
    assert four.tokens_per_second == pytest.approx(4 * one.tokens_per_second)
    assert (four.cost, four.kilowatt_hours) == (pytest.approx(one.cost), pytest.approx(one.kilowatt_hours))


def test_no_pass_is_larger_than_the_rows_of_one_process():
    asked = job(technique=Lora(type="lora"), row_tokens=50)
    assert [plan(asked, place(processes=count)).placement.micro_batch for count in (1, 4, 32)] == [16, 4, 1]


@pytest.mark.parametrize(("rows", "devices", "faster"), [(16, 1, 1), (16, 4, 4), (16, 3, 16 / 6), (4, 8, 4)])
def test_a_step_takes_as_long_as_the_largest_share_of_its_rows(rows: int, devices: int, faster: float):
    assert speedup(rows, devices) == pytest.approx(faster)


def test_processes_on_a_cpu_share_its_cores_and_its_memory():
    asked = job("gemma-3-270m", row_tokens=50, technique=Lora(type="lora"))
    one, two = plan(asked, place(kind="cpu", gib=24)), plan(asked, place(kind="cpu", gib=24, processes=2))
    assert two.memory_bytes == one.memory_bytes // 2
    assert two.predicted_seconds == pytest.approx(one.predicted_seconds, rel=0.2)


def test_nf4_weights_in_parts_are_refused_by_name():
    cut = place(processes=4, parallel="fsdp2")
    asked = job(technique=Qlora(type="qlora"))
    found = plan(asked, cut)
    check = fits(found, asked, cut)
    assert not check.passed
    assert check.description == "technique qlora: nf4 weights cannot be cut into parts; take lora, or compute.place.parallel: ddp"
    assert option(found, "qlora").row()["fits"] == f"no: {check.description}"
    assert option(found, "lora").row()["fits"] is True
    assert plan(asked, place(processes=4)).chosen.fits


def test_the_automatic_choice_is_never_one_that_is_refused():
    tight = place(gib=6, processes=2, parallel="fsdp2")
    found = plan(job(), tight)
    assert found.technique.type == "lora"
    assert "lora: nothing fits" in found.reason
    assert plan(job(), place(gib=14, processes=1)).technique.type == "qlora"


@pytest.mark.parametrize(("parallel", "refused"), [("ddp", "range_test"), ("fsdp2", "range_test, neftune_alpha")])
def test_settings_that_several_processes_do_not_know_are_refused_in_the_plan(parallel: str, refused: str):
    asked, where = job(learning_rate="range_test", neftune_alpha=5.0), place(processes=2, parallel=parallel)
    check = fits(plan(asked, where), asked, where)
    assert not check.passed
    assert check.description.startswith(f"{refused}: not known to several processes")
    alone = place(processes=1)
    assert fits(plan(asked, alone), asked, alone).passed


class TwoProcesses(RuleCompute):
    """The same place with two processes."""

    parallel: str

    def inventory(self) -> Inventory:
        return Inventory.model_validate({**super().inventory().model_dump(), "processes": 2, "parallel": self.parallel})


@pytest.fixture
def upstream(tmp_path: Path) -> None:
    store = artifact_store(tmp_path)
    kept_dataset(store, examples(copies=4), examples(copies=2, prefix="validation"))
    kept_base_model(store, tiny_model(tmp_path / "model"))


def planned(folder: Path, compute: RuleCompute, **sections: Any) -> Any:
    dg.materialize(
        [training_plan(use_case(folder, **sections)), *upstream_assets("objective", "base_model", "dataset", "baselines")],
        resources={"store": artifact_store(folder), "compute": compute},
    )
    return artifact_store(folder).current("triage", "training_plan")


def test_the_plan_shows_how_many_share_it_and_what_it_assumes(tmp_path: Path, upstream: None):
    record = str(tmp_path / "record")
    alone = planned(tmp_path, RuleCompute(record=record, device="cuda"))
    together = planned(tmp_path, TwoProcesses(record=record, device="cuda", parallel="fsdp2"))
    assert together.fingerprint != alone.fingerprint
    rules = {row["setting"]: row for row in together.metadata["placement"]}
    assert rules["processes"]["value"] == "2"
    assert "divided by 2, without what they tell each other" in rules["processes"]["rule"]
    assert rules["parallel"]["value"] == "fsdp2"
    assert not {"processes", "parallel"} & {row["setting"] for row in alone.metadata["placement"]}


def test_one_process_is_not_written_down(tmp_path: Path, upstream: None):
    """What was planned before there could be several keeps its fingerprint."""
    alone = planned(tmp_path, RuleCompute(record=str(tmp_path / "record")))
    assert set(alone.manifest.payload["what"]["inventory"]) == {"place", "devices", "cpu_cores", "memory_bytes"}
    assert not {"processes", "parallel"} & alone.json("plan.json").keys()
    assert not any("refused" in one for one in alone.json("plan.json")["options"])
