"""Where adapters stand, for every technique, on dense models and mixtures of experts. What training changes: `test_techniques.py`."""

from pathlib import Path

import pytest
from torch import nn

from fine_tune_pipeline.programs.requests import Placement, Technique
from fine_tune_pipeline.programs.training.adapters import load_base, with_technique
from fine_tune_pipeline.programs.training.targets import ExpertsNotAdapted, NotBesideParameters, TargetNotFound, WouldRouteAnew
from fine_tune_pipeline_tests.tiny import EXPERTS, HIDDEN, tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_model(root / name, architecture=name) for name in ("gemma3", "llama", "mixtral", "qwen2_moe")}


def adapted(folder: Path, technique: Technique) -> nn.Module:
    return with_technique(load_base(folder, technique=technique, placement=Placement()), technique=technique, seed=0)


def learns(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def learning(model: nn.Module) -> set[str]:
    """What learns, by the last layer's part that it belongs to: `mlp.experts`, `self_attn.q_proj`."""
    names = [name.split(".layers.1.")[1] for name in learns(model) if ".layers.1." in name]
    return {name.split(".lora_")[0].replace(".base_layer", "") for name in names}


ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}


@pytest.mark.parametrize(
    ("architecture", "technique", "expected"),
    [
        ("llama", Technique(type="lora"), ATTENTION | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}),
        ("mixtral", Technique(type="lora"), ATTENTION),
        ("mixtral", Technique(type="lora", expert_rank=2), ATTENTION | {"mlp.experts"}),
        ("mixtral", Technique(type="lora", target_modules=("q_proj",), expert_rank=2), {"self_attn.q_proj", "mlp.experts"}),
        ("qwen2_moe", Technique(type="lora"), ATTENTION | {f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")}),
        ("qwen2_moe", Technique(type="qlora"), ATTENTION),
    ],
    ids=["dense", "moe", "moe with experts", "named and experts", "shared experts", "packed shared experts"],
)
def test_adapters_stand_where_the_technique_says_and_never_at_the_router(folders, architecture, technique, expected):
    assert learning(adapted(folders[architecture], technique)) == expected


def test_layers_without_experts_get_adapters_in_their_mlp(folders):
    names = learns(adapted(folders["qwen2_moe"], Technique(type="lora")))
    assert any(".layers.0.mlp.gate_proj.lora_A" in name for name in names)


def test_experts_get_the_rank_divided_among_those_that_a_token_visits(folders):
    model = adapted(folders["mixtral"], Technique(type="lora", rank=8, alpha=16, expert_rank=4))
    layer = model.get_submodule("base_model.model.model.layers.0")
    assert layer.mlp.experts.lora_A["default"].weight.shape[0] == 4 * EXPERTS
    assert layer.self_attn.q_proj.lora_A["default"].weight.shape[0] == 8
    assert layer.mlp.experts.scaling == layer.self_attn.q_proj.scaling == {"default": 2.0}


def test_rslora_scales_experts_as_it_scales_the_others(folders):
    model = adapted(folders["qwen2_moe"], Technique(type="lora", rank=16, alpha=32, expert_rank=4, use_rslora=True))
    mlp = model.get_submodule("base_model.model.model.layers.1.mlp")
    assert mlp.experts.scaling == mlp.shared_expert.up_proj.scaling == {"default": 8.0}


def test_dora_adds_a_length_for_every_row(folders):
    model = adapted(folders["llama"], Technique(type="lora", use_dora=True))
    lengths = [model.get_parameter(name).shape for name in learns(model) if "magnitude" in name and ".1.self_attn.k_proj" in name]
    assert lengths == [(HIDDEN // 2,)]


@pytest.mark.parametrize(
    ("architecture", "technique", "error", "said"),
    [
        ("llama", Technique(type="lora", expert_rank=2), ExpertsNotAdapted, "got all, but this model has no fused experts"),
        ("mixtral", Technique(type="lora", target_modules=("q_proj", "gate")), WouldRouteAnew, "would train the router"),
        ("qwen2_moe", Technique(type="lora", target_modules=("q_proj", "shared_expert_gate")), WouldRouteAnew, "would train the router"),
        (
            "qwen2_moe",
            Technique(type="lora", use_dora=True),
            NotBesideParameters,
            r"use_dora has no place .* \[k_proj, o_proj, q_proj, v_proj\]",
        ),
        ("qwen2_moe", Technique(type="lora", dropout=0.1), NotBesideParameters, "dropout has no place"),
        ("mixtral", Technique(type="lora", target_modules=("qkv",)), TargetNotFound, "qkv not in this model"),
    ],
)
def test_a_technique_that_would_train_something_else_is_refused(folders, architecture, technique, error, said):
    with pytest.raises(error, match=said):
        adapted(folders[architecture], technique)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
def test_names_that_peft_reads_as_experts_are_refused(folders):
    model = load_base(folders["qwen2_moe"], technique=Technique(type="lora"), placement=Placement())
    # In this family PEFT takes `gate_proj` for the experts, although a dense layer has a module of that name.
    model.config.model_type = "qwen3_moe"
    with pytest.raises(WouldRouteAnew, match=r"write technique\.experts: all"):
        with_technique(model, technique=Technique(type="lora", target_modules=("gate_proj", "up_proj")), seed=0)


def test_experts_that_got_no_adapter_are_noticed(folders, monkeypatch):
    # As when a name has changed: PEFT only warns.
    only_one = lambda name, parameter: name.endswith("experts.down_proj")  # noqa: E731
    monkeypatch.setattr("fine_tune_pipeline.programs.training.targets._is_fused_expert", only_one)
    with pytest.raises(ExpertsNotAdapted, match="2 of 4 expert parameters have got an adapter"):
        adapted(folders["mixtral"], Technique(type="lora", expert_rank=2))
