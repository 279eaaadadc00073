"""What learns and what does not, for every technique, on dense models and mixtures of experts, by really training each."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.adapters import load_base, with_technique
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline.programs.requests import Placement, Technique
from fine_tune_pipeline.programs.targets import ExpertsNotAdapted, NotBesideParameters, TargetNotFound, WouldRouteAnew
from fine_tune_pipeline.programs.trainer import CompletionTrainer
from fine_tune_pipeline_tests.small_training import Recorder, train_request, write_rows
from fine_tune_pipeline_tests.tiny import EXPERTS, HIDDEN, tiny_model

IDS = torch.tensor([[2, 40, 50, 60, 70, 80, 90]])

RANK = 4


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
    monkeypatch.setattr("fine_tune_pipeline.programs.targets._expert_parameters", lambda model: {"mlp.experts.down_proj"})
    with pytest.raises(ExpertsNotAdapted, match="2 of 4 expert parameters have got an adapter"):
        adapted(folders["mixtral"], Technique(type="lora", expert_rank=2))


@pytest.mark.parametrize(
    ("architecture", "technique"),
    [
        ("gemma3", Technique(type="lora", rank=RANK, use_dora=True)),
        ("llama", Technique(type="lora", rank=RANK, use_rslora=True)),
        ("llama", Technique(type="qlora", rank=RANK, use_dora=True)),
        ("mixtral", Technique(type="lora", rank=RANK, use_dora=True)),
        ("mixtral", Technique(type="lora", rank=RANK, expert_rank=2)),
        ("mixtral", Technique(type="qlora", rank=RANK, expert_rank=2)),
        ("qwen2_moe", Technique(type="lora", rank=RANK)),
        ("qwen2_moe", Technique(type="lora", rank=RANK, expert_rank=2, use_rslora=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.label,
)
def test_training_changes_only_what_learns_and_what_is_loaded_again_answers_alike(folders, tmp_path, monkeypatch, architecture, technique):
    kept: list[CompletionTrainer] = []
    before: dict[str, torch.Tensor] = {}
    build = train.build_trainer

    def keep(*arguments, **options):
        kept.append(build(*arguments, **options))
        before.update({name: parameter.detach().clone() for name, parameter in kept[0].trained.named_parameters()})
        return kept[0]

    monkeypatch.setattr(train, "build_trainer", keep)
    rows = write_rows(tmp_path / "rows.jsonl")
    request = train_request(tmp_path / "output", model=folders[architecture], train=rows, technique=technique, epochs=3.0)
    result = train.run(request, Recorder())
    assert result.final_loss < result.first_loss
    network = kept[0].trained.eval()
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert changed == trained
    assert not any(".gate." in name or "expert_gate" in name for name in changed)
    assert any(".experts." in name for name in changed) is bool(technique.expert_rank)
    if technique.type == "lora":
        network.get_base_model().set_attn_implementation("sdpa")
        with torch.no_grad():
            again = load_model(folders[architecture], adapter=result.adapter)(IDS).logits
            torch.testing.assert_close(again, network(IDS).logits, rtol=0, atol=0)
