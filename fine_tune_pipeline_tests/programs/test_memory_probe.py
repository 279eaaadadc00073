import pytest
from transformers import CONFIG_MAPPING, PretrainedConfig

from fine_tune_pipeline.guide.base_model.activations import layer_bytes
from fine_tune_pipeline.guide.base_model.catalogue import Architecture, model_named
from fine_tune_pipeline.programs.memory_probe import layer_bytes_per_token
from fine_tune_pipeline.programs.requests import Technique


def config_of(model: Architecture) -> PretrainedConfig:
    routed = {"num_local_experts": model.experts, "num_experts_per_tok": model.experts_per_token} if model.experts else {}
    return CONFIG_MAPPING[model.family](
        hidden_size=model.hidden,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_dim,
        intermediate_size=model.mlp_width,
        vocab_size=1000,
        tie_word_embeddings=model.tied,
        pad_token_id=None,
        **routed,
    )


@pytest.mark.filterwarnings("ignore:.*meta:UserWarning")
@pytest.mark.parametrize("id", ["llama-3.1-8b", "gemma-3-270m", "qwen3-4b"])
@pytest.mark.parametrize(
    ("technique", "dtype"),
    [
        (Technique(type="lora"), "bfloat16"),
        (Technique(type="lora"), "float32"),
        (Technique(type="lora", use_dora=True), "bfloat16"),
        (Technique(type="full"), "float32"),
        (Technique(type="lora", target_modules=("q_proj", "down_proj")), "bfloat16"),
        (Technique(type="lora", target_modules=("k_proj", "v_proj", "gate_proj")), "float32"),
        (Technique(type="lora", target_modules=("o_proj", "up_proj"), use_dora=True), "bfloat16"),
    ],
    ids=["lora bfloat16", "lora float32", "dora bfloat16", "full float32", "some bfloat16", "others float32", "dora of some"],
)
def test_the_formula_counts_what_the_real_code_keeps(id, technique, dtype):
    model = model_named(id).architecture
    formula = layer_bytes(model, technique, number_bytes=2 if dtype == "bfloat16" else 4, learned_bytes=4, experts=False)
    assert formula == pytest.approx(layer_bytes_per_token(config_of(model), technique, dtype=dtype), rel=0.05)


@pytest.mark.filterwarnings("ignore:.*meta:UserWarning")
def test_of_experts_only_those_that_a_token_visits_keep_anything():
    model = model_named("mixtral-8x7b").architecture.model_copy(
        update={"hidden": 512, "heads": 4, "kv_heads": 2, "expert_width": 1024, "mlp_width": 1024, "experts": 4}
    )
    technique = Technique(type="lora")
    formula = layer_bytes(model, technique, number_bytes=2, learned_bytes=4, experts=True)
    assert formula == pytest.approx(layer_bytes_per_token(config_of(model), technique, dtype="bfloat16"), rel=0.05)


@pytest.mark.filterwarnings("ignore:.*meta:UserWarning")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_layer_without_adapters_keeps_less_above_those_that_learn_and_nothing_below(dtype):
    model = model_named("llama-3.1-8b").architecture
    above, below = Technique(type="lora", layers=(0,)), Technique(type="lora", layers=(-1,))
    number = 2 if dtype == "bfloat16" else 4
    formula = layer_bytes(model, above, number_bytes=number, learned_bytes=4, experts=False, adapted=False)
    assert formula == pytest.approx(layer_bytes_per_token(config_of(model), above, dtype=dtype), rel=0.05)
    assert layer_bytes_per_token(config_of(model), below, dtype=dtype) == 0
