from pathlib import Path

import pytest

from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.base_model.memory import BFLOAT16, GIB, trainable_parameters, training_memory
from fine_tune_pipeline.programs.requests import Placement, Technique
from fine_tune_pipeline_tests.tiny import tiny_model


# torchtune's README: recomputed activations, a loss that keeps no logits, all that learns in bfloat16, rank 8, without the CUDA context.
@pytest.mark.parametrize(
    ("model", "technique", "tokens", "published_gib"),
    [
        ("llama-3.2-3b", "full", 2 * 4096, 24.9),
        ("llama-3.2-3b", "lora", 2 * 4096, 8.5),
        ("llama-3.2-3b", "qlora", 2 * 4096, 4.6),
        ("llama-3.1-8b", "lora", 2 * 2048, 16.2),
        ("llama-3.1-8b", "qlora", 2 * 2048, 7.4),
    ],
)
def test_the_prediction_is_within_a_tenth_of_published_peaks(model, technique, tokens, published_gib):
    predicted = training_memory(
        model_named(model).architecture,
        Technique(type=technique, rank=8),
        number_bytes=2,
        tokens=tokens,
        labelled_tokens=0,
        checkpointing=True,
        device="cuda",
        learned=BFLOAT16,
    )
    assert predicted.proportional / GIB == pytest.approx(published_gib, rel=0.1)


# Gemma 3 270M, float32, two CPU cores: peak of the program's resident memory over two steps.
@pytest.mark.parametrize(
    ("technique", "tokens", "checkpointing", "measured_gib"),
    [
        ("lora", 98, False, 2.38),
        ("lora", 743, False, 3.12),
        ("lora", 743, True, 2.33),
        ("lora", 1342, False, 4.36),
        ("full", 183, False, 5.61),
    ],
)
def test_the_prediction_is_within_a_tenth_of_peaks_measured_on_a_cpu(technique, tokens, checkpointing, measured_gib):
    predicted = training_memory(
        model_named("gemma-3-270m").architecture,
        Technique(type=technique),
        number_bytes=4,
        tokens=tokens,
        labelled_tokens=tokens // 3,
        checkpointing=checkpointing,
    )
    assert predicted.total / GIB == pytest.approx(measured_gib, rel=0.1)


def test_full_tuning_keeps_sixteen_bytes_for_every_weight():
    model = model_named("llama-3.2-1b").architecture
    predicted = training_memory(model, Technique(type="full"), number_bytes=2, tokens=1, labelled_tokens=0)
    assert predicted.weights + predicted.gradients + predicted.optimizer == 16 * model.parameters


def test_the_logits_of_a_large_vocabulary_are_never_held_all_at_once():
    model = model_named("gemma-3-270m").architecture
    predicted = training_memory(model, Technique(type="lora"), number_bytes=4, tokens=2048, labelled_tokens=2048)
    assert predicted.logits == 2048 * (4096 * 8 + 8 * model.hidden) < predicted.weights / 10


MIXTRAL = model_named("mixtral-8x7b").architecture


def predicted(model, technique, **options):
    return training_memory(model, technique, **{"number_bytes": 2, "tokens": 4096, "labelled_tokens": 0, "device": "cuda", **options})


def test_all_experts_are_held_but_only_those_that_a_token_visits_keep_activations():
    lora = Technique(type="lora")
    fewer = MIXTRAL.model_copy(update={"experts_per_token": 1})
    assert predicted(MIXTRAL, lora).weights == 2 * MIXTRAL.parameters > 3 * 2 * MIXTRAL.active_parameters
    assert predicted(fewer, lora).weights == predicted(MIXTRAL, lora).weights
    assert predicted(fewer, lora).activations < 0.8 * predicted(MIXTRAL, lora).activations


def test_adapters_beside_experts_hold_the_experts_once_more_unless_layers_are_recomputed():
    lora, experts = Technique(type="lora"), Technique(type="lora", expert_rank=8)
    more = predicted(MIXTRAL, experts).activations - predicted(MIXTRAL, lora).activations
    assert more > 2 * MIXTRAL.expert_parameters
    assert predicted(MIXTRAL, experts, checkpointing=True).activations < 2 * MIXTRAL.expert_parameters / 8


def test_packing_leaves_fused_experts_as_they_are():
    lora, qlora = predicted(MIXTRAL, Technique(type="lora")), predicted(MIXTRAL, Technique(type="qlora"))
    assert 2 * MIXTRAL.expert_parameters < qlora.weights < lora.weights


def test_dora_holds_more_than_lora_and_rslora_the_same():
    model = model_named("llama-3.1-8b").architecture
    lora, dora, rslora = (predicted(model, Technique(type="lora", **more)) for more in ({}, {"use_dora": True}, {"use_rslora": True}))
    assert rslora == lora
    assert dora.total > 1.2 * lora.total
    assert dora.workspace > 4 * model.mlp_width**2


@pytest.mark.parametrize(
    ("architecture", "technique"),
    [
        ("llama", Technique(type="lora", rank=4)),
        ("gemma3", Technique(type="lora", rank=4)),
        ("llama", Technique(type="lora", rank=4, use_dora=True)),
        ("mixtral", Technique(type="lora", rank=4)),
        ("mixtral", Technique(type="lora", rank=4, expert_rank=2)),
        ("qwen2_moe", Technique(type="lora", rank=4, expert_rank=2)),
        ("qwen2_moe", Technique(type="qlora", rank=4)),
        ("llama", Technique(type="lora", rank=4, layers=(1,))),
        ("llama", Technique(type="lora", rank=4, layers=(0,), target_modules=("k_proj", "down_proj"), use_dora=True)),
        ("gemma3", Technique(type="lora", rank=4, use_pissa=True, lora_plus_ratio=16.0)),
        ("qwen2_moe", Technique(type="lora", rank=4, layers=(0,))),
        ("qwen2_moe", Technique(type="lora", rank=4, layers=(1,), expert_rank=2, router="train")),
        ("mixtral", Technique(type="lora", rank=8, router="train")),
        ("mixtral", Technique(type="lora", rank=4, expert_rank=2, experts=(1,), layers=(0,))),
    ],
    ids=lambda value: value if isinstance(value, str) else value.label,
)
def test_trained_parameters_are_those_that_the_program_trains(tmp_path: Path, architecture, technique):
    from fine_tune_pipeline.programs.training import adapters

    folder = tiny_model(tmp_path / "model", architecture=architecture)
    model = adapters.load_base(folder, technique=technique, placement=Placement())
    read = read_model_folder(folder).architecture
    if technique.type == "lora":
        assert trainable_parameters(read, Technique(type="full")) == pytest.approx(adapters.trainable_parameters(model), rel=0.01)
    adapted = adapters.with_technique(model, technique=technique, seed=0)
    assert trainable_parameters(read, technique) == adapters.trainable_parameters(adapted)


def test_layers_and_modules_that_are_not_chosen_cost_neither_optimizer_nor_inputs_kept():
    model = model_named("llama-3.1-8b").architecture
    whole, last = Technique(type="lora"), Technique(type="lora", layers=tuple(range(24, 32)))
    some = Technique(type="lora", target_modules=("q_proj", "v_proj"))
    every, quarter, two = (predicted(model, technique) for technique in (whole, last, some))
    assert (quarter.weights, quarter.optimizer) == (every.weights, every.optimizer // 4)
    # Below the lowest layer that learns there is no backward pass.
    assert quarter.activations == every.activations // 4
    assert two.optimizer == 8 * 16 * 32 * (2 * model.hidden + model.query_width + model.key_width)
    assert two.activations < every.activations
    upper = predicted(model, Technique(type="lora", layers=(0,)))
    assert every.activations / 4 < upper.activations < every.activations


def test_pissa_keeps_its_start_in_the_main_memory():
    model = model_named("llama-3.2-1b").architecture
    lora, pissa = Technique(type="lora"), Technique(type="lora", use_pissa=True)
    more = {
        device: predicted(model, pissa, device=device).total - predicted(model, lora, device=device).total for device in ("cpu", "cuda")
    }
    assert more == {"cpu": 4 * trainable_parameters(model, lora), "cuda": 0}


def test_a_model_in_parts_holds_its_part_and_what_it_has_gathered():
    model, lora = model_named("llama-3.1-8b").architecture, Technique(type="lora")
    whole, cut = predicted(model, lora), predicted(model, lora, parts=4)
    assert cut.weights == whole.weights / 4
    assert (cut.adapter, cut.gradients, cut.optimizer, cut.activations) == (
        whole.adapter, whole.gradients, whole.optimizer, whole.activations,
    )  # fmt: skip
    layer = model.body_parameters // model.layers
    assert cut.gathered == 2 * (2 * model.vocabulary * model.hidden + 2 * layer)
    assert whole.gathered == 0


def test_where_all_weights_learn_gradients_and_optimizer_lie_in_parts_too():
    model, full = model_named("llama-3.1-8b").architecture, Technique(type="full")
    whole, cut = predicted(model, full), predicted(model, full, parts=8)
    assert (8 * cut.weights, 8 * cut.gradients, 8 * cut.optimizer) == (whole.weights, whole.gradients, whole.optimizer)
    assert cut.gathered > 4 * (model.embedding_parameters + model.body_parameters // model.layers), "gradients before they are shared out"
    assert cut.total - cut.activations < (whole.total - whole.activations) / 3


def test_the_largest_layer_is_that_of_the_real_model(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path)
    real = AutoModelForCausalLM.from_pretrained(folder)
    sizes = [sum(weight.numel() for weight in layer.parameters() if weight.ndim > 1) for layer in real.model.layers]
    assert read_model_folder(folder).architecture.largest_layer_parameters == max(sizes)


def test_the_largest_layer_of_a_mixture_is_one_with_experts():
    assert MIXTRAL.largest_layer_parameters * MIXTRAL.layers == MIXTRAL.body_parameters
