from dataclasses import replace
from datetime import date
from typing import Any, Literal

import pytest

from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.base_model.chosen import NoExperts
from fine_tune_pipeline.guide.base_model.memory import GIB
from fine_tune_pipeline.guide.base_model.price import price_of
from fine_tune_pipeline.guide.technique.correction import Correction, Kind
from fine_tune_pipeline.guide.technique.fit import fits
from fine_tune_pipeline.guide.technique.placement import placement_rules
from fine_tune_pipeline.guide.technique.plan import CPU_TOKENS, Job, Place, Plan, make_plan
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.requests import Hyperparameters, Placement, Technique
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.spec.environment import DevicePrice
from fine_tune_pipeline.spec.technique import Auto, Full, Lora, TechniqueSpec
from fine_tune_pipeline.spec.training import TrainingSpec


def place(memory_gib: float, *, kind: str = "cpu", cores: int = 2, bfloat16: bool | None = None) -> Place:
    name = "CPU" if kind == "cpu" else "NVIDIA H100 80GB HBM3"
    units = kind != "cpu" if bfloat16 is None else bfloat16
    device = Device(kind=kind, name=name, memory_bytes=int(memory_gib * GIB), bfloat16=units)
    return Place.of(Inventory(place="test", devices=(device,), cpu_cores=cores, memory_bytes=int(memory_gib * GIB)), headroom=0.1)


def job(
    model: str = "gemma-3-270m",
    *,
    rows: int = 500,
    row_tokens: int = 50,
    technique: TechniqueSpec | None = None,
    training: TrainingSpec | None = None,
) -> Job:
    work = Workload(
        rows=rows,
        tokens=rows * row_tokens,
        labelled_tokens=rows * row_tokens // 3,
        longest_tokens=2 * row_tokens,
        longest_bound=4 * row_tokens,
    )
    return Job(
        model=model_named(model).architecture, context=8192, work=work, technique=technique or Auto(), training=training or TrainingSpec()
    )


def plan(asked: Job, where: Place) -> Plan:
    return make_plan(asked, where)[0]


def test_lora_is_chosen_when_it_fits_and_rows_are_few():
    found = plan(job(), place(24))
    assert found.technique.type == "lora"
    assert found.chosen.fits
    assert "lora: it fits" in found.reason
    assert [option.technique.label for option in found.options] == ["full", "lora", "qlora", "dora", "rslora"]


def test_qlora_is_chosen_when_lora_does_not_fit():
    found = plan(job("llama-3.1-8b"), place(14, kind="cuda"))
    assert found.technique.type == "qlora"
    assert "LoRA needs" in found.reason


def test_full_is_chosen_only_for_many_rows_with_room_to_spare():
    assert plan(job(rows=60_000), place(80, kind="cuda")).technique.type == "full"
    assert plan(job(rows=60_000), place(3.2, kind="cuda")).technique.type == "lora"
    assert plan(job(rows=50_000), place(80, kind="cuda")).technique.type == "lora"


def test_the_users_technique_is_kept_even_when_it_does_not_fit():
    found = plan(job("llama-3.1-8b", technique=Full(type="full")), place(24, kind="cuda"))
    assert found.technique.type == "full"
    assert not found.chosen.fits


def test_on_a_cpu_a_pass_holds_about_a_thousand_tokens_in_float32_on_all_cores():
    found = plan(job(row_tokens=130, training=TrainingSpec(effective_batch=16)), place(64, cores=4)).placement
    assert (found.device, found.dtype, found.threads) == ("cpu", "float32", 4)
    assert found.micro_batch == 4
    assert 130 * found.micro_batch <= CPU_TOKENS < 130 * 8


@pytest.mark.parametrize(
    ("kind", "asked", "taken"),
    [("cpu", "auto", "never"), ("cpu", "always", "always"), ("cuda", "auto", "auto"), ("cuda", "never", "never")],
)
def test_layers_are_compiled_on_an_accelerator_or_as_asked(
    kind: str, asked: Literal["auto", "never", "always"], taken: Literal["auto", "never", "always"]
):
    found = plan(job(training=TrainingSpec(compile=asked)), place(24, kind=kind)).placement
    assert found.compile == taken
    (rule,) = [rule for rule in placement_rules(found, effective_batch=8, asked="auto", missing_gib=-1) if rule.setting == "compile"]
    assert rule.value == taken


def test_what_was_made_before_compiling_could_be_asked_for_keeps_its_fingerprint():
    assert "compile" not in TrainingSpec().model_dump()
    assert "compile" not in Placement().model_dump()
    assert Placement.model_validate(Placement(compile="auto").model_dump()).compile == "auto"


@pytest.mark.parametrize(
    ("units", "asked", "taken"),
    [(False, "auto", "float32"), (True, "auto", "bfloat16"), (True, "float32", "float32"), (False, "bfloat16", "bfloat16")],
)
def test_training_computes_in_bfloat16_where_there_are_units_for_it_or_as_asked(units, asked, taken):
    for kind in ("cpu", "cuda"):
        found = plan(job(training=TrainingSpec(dtype=asked)), place(24, kind=kind, bfloat16=units))
        assert found.placement.dtype == taken
        assert {option.placement.dtype for option in found.options} == {taken}


def test_an_accelerator_computes_in_bfloat16_with_the_whole_batch_at_once():
    found = plan(job(), place(80, kind="cuda")).placement
    assert (found.device, found.dtype, found.threads, found.micro_batch) == ("cuda", "bfloat16", None, 8)
    assert not found.gradient_checkpointing


def test_less_memory_makes_passes_smaller_and_then_recomputes():
    seen = []
    for memory in (120, 24, 20, 18.4):
        found = plan(job("llama-3.1-8b", row_tokens=500, technique=Lora(type="lora")), place(memory / 0.9, kind="cuda"))
        assert found.chosen.fits
        assert found.predicted_peak_bytes <= memory * GIB
        seen.append((found.placement.gradient_checkpointing, found.placement.micro_batch))
    assert seen == sorted(seen, key=lambda item: (item[0], -item[1]))
    assert seen[0] == (False, 8)
    assert seen[-1][0]


def test_small_passes_divide_the_batch():
    for batch in (1, 6, 12, 30):
        found = plan(job(row_tokens=200, training=TrainingSpec(effective_batch=batch)), place(24))
        assert batch % found.placement.micro_batch == 0


def test_a_plan_that_fits_says_with_how_much():
    asked, where = job(), place(24)
    check = fits(plan(asked, where), asked, where)
    assert check.passed
    assert "21.60 GiB of CPU may be used" in check.description


def test_a_plan_that_does_not_fit_says_by_how_much_and_names_the_technique_that_would():
    asked, where = job("llama-3.1-8b", technique=Full(type="full")), place(24, kind="cuda")
    check = fits(plan(asked, where), asked, where)
    assert not check.passed
    assert "GiB are missing. technique: {type: lora} would fit" in check.description


def test_when_no_technique_fits_the_length_that_would_is_named():
    asked, where = job(row_tokens=3000), place(2.3)
    check = fits(plan(asked, where), asked, where)
    assert not check.passed
    assert "training.max_length: " in check.description
    length = int(check.description.split("training.max_length: ")[1].split()[0])
    for value, fitting in ((length, True), (length + 16, False)):
        shorter = job(row_tokens=3000, training=TrainingSpec(max_length=value))
        assert plan(shorter, where).chosen.fits is fitting


def test_when_nothing_fits_a_smaller_model_is_asked_for():
    asked, where = job("llama-3.1-8b"), place(4)
    check = fits(plan(asked, where), asked, where)
    assert "choose a smaller one in base_model.candidates" in check.description


def test_energy_is_known_only_where_the_power_is():
    assert plan(job(), place(24)).chosen.kilowatt_hours is None
    found = plan(job(), place(80, kind="cuda")).chosen
    assert found.kilowatt_hours == pytest.approx(0.7 * found.seconds / 3600)


def test_cost_is_shown_where_the_use_case_gives_a_price():
    price = DevicePrice(device="H100", per_hour=2.0, currency="USD", as_of=date(2026, 11, 1))
    where = place(80, kind="cuda")
    assert plan(job(), where).chosen.row()["predicted cost"] is None
    found = plan(job(rows=50_000), replace(where, price=price_of(where.inventory.devices[0], [price])))
    for option in found.options:
        assert option.row()["predicted cost"] == f"{option.seconds / 1800:.2f} USD"


def test_dora_and_rslora_are_shown_and_taken_only_when_asked_for():
    assert plan(job(), place(24)).technique.label == "lora"
    found = plan(job(technique=Lora(type="lora", rank=8, use_dora=True)), place(24))
    assert (found.technique.label, found.technique.rank) == ("dora", 8)
    by_label = {option.technique.label: option for option in found.options}
    assert by_label["dora"].seconds > by_label["rslora"].seconds == by_label["lora"].seconds


def test_experts_of_a_mixture_are_offered_and_take_their_share_of_the_rank():
    found = plan(job("mixtral-8x7b", technique=Lora(type="lora", rank=16, experts="all")), place(300, kind="cuda"))
    assert found.technique.label == "lora + experts"
    assert found.technique.expert_rank == 8
    assert [option.technique.label for option in found.options] == ["full", "lora", "qlora", "dora", "rslora", "lora + experts"]
    with pytest.raises(NoExperts, match="the base model is no mixture of experts"):
        plan(job(technique=Lora(type="lora", experts="all")), place(24))


def compared(type: str, **changes: Any) -> Plan:
    asked = job(technique=Lora(type="lora"), training=TrainingSpec(preference={"type": type}, epochs=2, **changes))
    return plan(replace(asked, work=replace(asked.work, validation_tokens=2_500, unwanted=250)), place(24))


def test_the_untrained_models_answers_are_in_the_minutes_and_not_in_the_loop():
    dpo, orpo, kto = (compared(type).chosen for type in ("dpo", "orpo", "kto"))
    assert orpo.before_seconds == 0
    # Forward over all rows and a tenth more; the loop goes twice over them, in both directions, which for adapters takes twice as long.
    assert dpo.before_seconds / dpo.loop_seconds == pytest.approx(1.1 / 4, rel=0.1)
    assert dpo.loop_seconds == pytest.approx(orpo.loop_seconds)
    # An answer to another prompt goes through the untrained model too, and at every step through the trained one.
    assert kto.before_seconds / dpo.before_seconds == pytest.approx(2, rel=0.2)
    assert kto.loop_seconds / dpo.loop_seconds == pytest.approx(1.5, rel=0.1)


def test_a_range_test_is_in_the_minutes_by_its_steps_and_has_a_reference_of_its_own():
    plain, tested = plan(job(), place(24)).chosen, plan(job(training=TrainingSpec(learning_rate="range_test")), place(24)).chosen
    # 500 rows are 126 steps of 8 in two epochs: a tenth would be 13, and the fewest are 30.
    assert tested.loop_seconds == pytest.approx(plain.seconds)
    assert tested.before_seconds == pytest.approx(30 / 126 * plain.seconds)
    assert tested.row()["predicted minutes"] > plain.row()["predicted minutes"]
    both, alone = compared("dpo", learning_rate="range_test", effective_batch=8).chosen, compared("dpo", effective_batch=8).chosen
    assert both.before_seconds == pytest.approx(30 / 126 * alone.loop_seconds + 2 * alone.before_seconds)


def test_earlier_runs_correct_memory_seconds_and_tokens_and_change_no_setting():
    measured = Correction(runs=1, memory=1.5, seconds=3.0, tokens=2.0, fixed_bytes=GIB)
    plain, corrected = plan(job(), place(24)), plan(job(), replace(place(24), corrections={Kind("lora", "float32"): measured}))
    assert corrected.technique == plain.technique
    assert corrected.hyperparameters == plain.hyperparameters
    assert corrected.predicted_seconds > 5 * plain.predicted_seconds
    assert corrected.predicted_peak_bytes > plain.predicted_peak_bytes
    fewer = plan(job(), replace(place(24), corrections={Kind("lora", "float32"): replace(measured, memory=0.5, tokens=1.0, fixed_bytes=1)}))
    assert fewer.predicted_peak_bytes < plain.predicted_peak_bytes - GIB / 2


@pytest.mark.parametrize(
    "corrections", [{}, {Kind("lora", "float32"): Correction(runs=3, memory=1.3, seconds=0.7, tokens=1.4, fixed_bytes=GIB)}]
)
def test_the_demo_keeps_its_technique_and_every_hyper_parameter(corrections):
    """Gemma 3 270M, 500 rows of 50 tokens: its accuracy has no slack."""
    found = plan(job(), replace(place(24), corrections=corrections))
    assert found.technique == Technique(type="lora", rank=16, alpha=32, dropout=0.0, target_modules="all-linear")
    assert found.hyperparameters == Hyperparameters(learning_rate=1e-3, epochs=2, effective_batch=8, max_length=208)
    assert (found.placement.dtype, found.placement.micro_batch, found.placement.gradient_checkpointing) == ("float32", 8, False)


def test_the_demo_on_two_cores_gets_sensible_numbers():
    """Gemma 3 270M, 500 rows of 50 tokens."""
    found = plan(job(), place(24))
    assert (found.hyperparameters.epochs, found.hyperparameters.learning_rate, found.hyperparameters.effective_batch) == (2, 1e-3, 8)
    assert 5 < found.predicted_seconds / 60 < 15
    assert 1.5 < found.predicted_peak_bytes / GIB < 4
    assert found.placement.micro_batch == 8


def test_a_plan_survives_its_file(tmp_path):
    found = plan(job(technique=Lora(type="lora", target_modules=["q_proj"])), place(24))
    found.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == found
