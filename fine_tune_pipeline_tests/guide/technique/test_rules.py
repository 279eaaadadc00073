from dataclasses import replace

import pytest

from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.technique.rules import capacity_rank, resolve, technique_rules, techniques
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.preference import Preference
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.spec.technique import Auto, Full, Lora, Qlora
from fine_tune_pipeline.spec.training import TrainingSpec

SMALL = model_named("gemma-3-270m").architecture
LARGE = model_named("llama-3.1-8b").architecture
FOUR_B = model_named("qwen3-4b").architecture


def work(rows: int = 500, *, labelled: int = 5000, bound: int = 150) -> Workload:
    return Workload(rows=rows, tokens=20 * rows, labelled_tokens=labelled, longest_tokens=bound // 2, longest_bound=bound)


def resolved(spec: TrainingSpec | None = None, *, technique: str = "lora", model=SMALL, data: Workload | None = None, context: int = 32768):
    return resolve(spec or TrainingSpec(), Technique(type=technique), model, data or work(), context=context).hyperparameters


@pytest.mark.parametrize(
    ("technique", "model", "rate"),
    [("lora", SMALL, 1e-3), ("lora", FOUR_B, 1e-3), ("qlora", LARGE, 3e-4), ("full", SMALL, 1e-4), ("full", LARGE, 3e-5)],
)
def test_the_rate_follows_technique_and_size(technique, model, rate):
    assert resolved(technique=technique, model=model).learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("rows", "epochs", "batch"),
    [(1, 3, 4), (79, 3, 4), (80, 3, 8), (299, 3, 8), (300, 2, 8), (500, 2, 8), (800, 2, 16), (1999, 2, 16), (2000, 1, 16), (50_000, 1, 16)],
)
def test_passes_and_batch_follow_the_number_of_rows(rows, epochs, batch):
    found = resolved(data=work(rows))
    assert (found.epochs, found.effective_batch) == (epochs, batch)


@pytest.mark.parametrize(
    ("technique", "rows", "rate", "said"),
    [
        ("lora", 266, 1.5e-3, "1.5 times that, as there are only 100 steps, below 100"),
        ("lora", 267, 1e-3, "nearly whatever the rank"),
        ("full", 50, 1e-4, "a tenth of the 0.001 that adapters want"),
        ("lora", 100_000, 1e-3, "nearly whatever the rank"),
        ("lora", 1_000_000, 4.8e-4, "0.48 of that, as 1000000 rows are seen, more than 100000"),
        ("full", 1_000_000, 4.8e-5, "0.48 of that"),
        ("lora", 10**9, 3.3e-4, "0.33 of that"),
    ],
)
def test_the_rate_is_higher_for_few_steps_and_lower_for_more_rows_than_were_swept(technique, rows, rate, said):
    found = resolve(TrainingSpec(), Technique(type=technique), SMALL, work(rows), context=32768)
    (rule,) = [rule for rule in found.rules if rule.setting == "learning_rate"]
    assert rule.value == found.hyperparameters.learning_rate == pytest.approx(rate)
    assert rule.rule.endswith(said) or said in rule.rule


def test_a_range_test_begins_at_the_rules_rate():
    found = resolve(TrainingSpec(learning_rate="range_test"), Technique(type="lora"), SMALL, work(), context=32768)
    assert (found.hyperparameters.learning_rate, found.hyperparameters.range_test) == (1e-3, True)
    said = {rule.setting: rule.rule for rule in found.rules}
    assert said["range_test"].startswith("looks for the rate between 0.00033 and 0.003")
    assert not resolved().range_test


def test_a_written_rate_is_not_fitted_to_the_data():
    assert resolved(TrainingSpec(learning_rate=2e-4), data=work(20)).learning_rate == 2e-4


def test_the_demo_keeps_its_numbers():
    """About 1,500 rows, two passes, steps of 8."""
    found = resolved(TrainingSpec(epochs=2, effective_batch=8), data=work(1500))
    assert (found.learning_rate, found.epochs, found.effective_batch) == (1e-3, 2, 8)


def test_rank_and_alpha_are_shown_with_their_rule_too():
    lora = Technique(type="lora", rank=16)
    few, many = work(labelled=100), work(labelled=10**9)
    assert [rule.setting for rule in technique_rules(lora, written=Auto(), model=SMALL, work=few)] == ["rank", "alpha"]
    assert "one for each of 100 labelled tokens; 16 at least" in technique_rules(lora, written=Auto(), model=SMALL, work=few)[0].rule
    most = technique_rules(Technique(type="lora", rank=128), written=Auto(), model=SMALL, work=many)[0]
    assert (most.value, most.rule.partition(";")[0]) == (128, "the most")
    assert technique_rules(Technique(type="lora", rank=4), written=Lora(type="lora", rank=4), model=SMALL, work=few)[0].rule.startswith(
        "as w"
    )
    assert technique_rules(Technique(type="full"), written=Auto(), model=SMALL, work=few) == ()


def test_a_written_number_of_passes_decides_the_batch():
    assert resolved(TrainingSpec(epochs=6), data=work(300)).effective_batch == 16


@pytest.mark.parametrize(("bound", "length"), [(150, 160), (160, 160), (161, 176)])
def test_the_length_holds_the_longest_row_rounded_up_to_16(bound, length):
    assert resolved(data=work(bound=bound)).max_length == length


def test_the_length_stays_within_what_the_model_reads():
    assert resolved(data=work(bound=5000), context=1024).max_length == 1024


def test_what_is_written_is_kept_as_written():
    spec = TrainingSpec(epochs=1.5, learning_rate=2e-4, effective_batch=32, max_length=512, warmup_share=0.1, schedule="linear", seed=7)
    found = resolved(spec)
    assert (found.epochs, found.learning_rate, found.effective_batch, found.max_length) == (1.5, 2e-4, 32, 512)
    assert (found.warmup_share, found.schedule, found.seed) == (0.1, "linear", 7)


@pytest.mark.parametrize(
    ("type", "technique", "model", "rate"),
    [
        ("dpo", "lora", SMALL, 1e-5),
        ("kto", "full", SMALL, 1e-6),
        ("dpo", "qlora", LARGE, 3e-6),
        ("orpo", "lora", SMALL, 1e-4),
        ("orpo", "full", LARGE, 3e-6),
    ],
)
def test_compared_answers_are_learned_from_more_slowly(type, technique, model, rate):
    spec = TrainingSpec(preference={"type": type})
    assert resolved(spec, technique=technique, model=model, data=replace(work(), unwanted=100)).learning_rate == pytest.approx(rate)


def test_unwanted_answers_weigh_as_much_as_wanted_ones():
    spec = TrainingSpec(preference={"type": "kto", "beta": 0.3})
    assert resolved(spec, data=replace(work(500), unwanted=100)).preference == Preference(type="kto", beta=0.3, undesirable_weight=4.0)
    assert resolved(TrainingSpec(preference={"type": "dpo"}), data=work()).preference == Preference(type="dpo")


def test_every_setting_is_shown_with_the_rule_that_gave_it():
    found = resolve(TrainingSpec(epochs=1.5), Technique(type="lora"), SMALL, work(), context=32768)
    said = {rule.setting: rule for rule in found.rules}
    assert set(said) == set(type(found.hyperparameters).model_fields)
    assert all(said[name].value == value for name, value in found.hyperparameters)
    assert said["epochs"].rule == "as written"
    assert "only 47 steps, below 100" in said["effective_batch"].rule


def test_the_rank_gives_a_number_for_every_labelled_token():
    assert capacity_rank(SMALL, work(labelled=100)) == 16
    assert capacity_rank(SMALL, work(labelled=SMALL.lora_parameters(16) + 1)) == 32
    assert capacity_rank(SMALL, work(labelled=10**9)) == 128


def test_the_users_own_technique_replaces_ours_of_that_type():
    offered = {
        technique.label: technique
        for technique in techniques(Qlora(type="qlora", rank=4, alpha=8, target_modules=["q_proj"]), SMALL, work())
    }
    assert (offered["qlora"].rank, offered["qlora"].alpha, offered["qlora"].target_modules) == (4, 8, ("q_proj",))
    assert offered["lora"].rank == 16
    assert [technique.label for technique in techniques(Auto(), SMALL, work())] == ["full", "lora", "qlora", "dora", "rslora"]
    assert techniques(Full(type="full"), SMALL, work())[0].type == "full"
    assert techniques(Lora(type="lora", rank=2), SMALL, work())[1].rank == 2


def test_with_lora_plus_the_rate_is_half_of_that_of_adapters():
    plus = Technique(type="lora", lora_plus_ratio=16)
    found = resolve(TrainingSpec(), plus, SMALL, work(), context=32768)
    assert found.hyperparameters.learning_rate == 5e-4
    assert "learn 16 times as fast (LoRA+)" in found.rules[0].rule


def test_the_rank_is_never_larger_than_the_smallest_matrix():
    tiny = SMALL.model_copy(update={"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp_width": 128})
    assert capacity_rank(tiny, work(labelled=10**9)) == 32
