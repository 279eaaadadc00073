"""Each technique from end to end on a tiny model: the loss falls, only what should changes, and what is saved answers as the trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.head import base_of
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline.programs.requests import Placement, PromptFormat, Technique, TrainResult
from fine_tune_pipeline.programs.serving.served_models import ServedModels
from fine_tune_pipeline.programs.training import attempt
from fine_tune_pipeline.programs.training.adapters import load_base, with_technique
from fine_tune_pipeline.programs.training.batches import Collate, Row, as_records
from fine_tune_pipeline.programs.training.losses import batch_nll
from fine_tune_pipeline.programs.training.targets import (
    ExpertsNotAdapted,
    LayerNotFound,
    NotBesideParameters,
    RankTooLarge,
    expert_adapters,
)
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer
from fine_tune_pipeline_tests.small_training import ROWS, Recorder, Rows, train_request, write_rows
from fine_tune_pipeline_tests.tiny import EXPERTS, tiny_model

IDS = torch.tensor([[2, 40, 50, 60, 70, 80, 90]])

DECAY = 0.1
"""Whoever decays what should rest is found out."""

ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
ALL = ATTENTION | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
BOTH = {0, 1}


@dataclass(frozen=True)
class Case:
    """What a technique is expected to change: parts of which layers."""

    technique: Technique
    architecture: str = "llama"
    layers: frozenset[int] = frozenset(BOTH)
    parts: frozenset[str] = frozenset(ALL)


LOW = {"type": "lora", "rank": 4}

CASES = {
    "full": Case(Technique(type="full")),
    "lora": Case(Technique(**LOW)),
    "qlora": Case(Technique(type="qlora", rank=4)),
    "dora": Case(Technique(**LOW, use_dora=True)),
    "rslora": Case(Technique(**LOW, use_rslora=True)),
    "gemma3 dora": Case(Technique(**LOW, use_dora=True), "gemma3"),
    "moe dora": Case(Technique(**LOW, use_dora=True), "mixtral", parts=frozenset(ATTENTION)),
    "qdora": Case(Technique(type="qlora", rank=4, use_dora=True)),
    "qlora experts": Case(Technique(type="qlora", rank=4, expert_rank=2), "mixtral", parts=frozenset(ATTENTION | {"mlp.experts"})),
    "lora+": Case(Technique(**LOW, lora_plus_ratio=4.0)),
    "qlora+": Case(Technique(type="qlora", rank=4, lora_plus_ratio=4.0)),
    "pissa": Case(Technique(**LOW, use_pissa=True)),
    "rspissa": Case(Technique(**LOW, use_pissa=True, use_rslora=True), architecture="gemma3"),
    "layers": Case(Technique(**LOW, layers=(1,)), layers=frozenset({1})),
    "modules": Case(Technique(**LOW, target_modules=("v_proj", "up_proj")), parts=frozenset({"self_attn.v_proj", "mlp.up_proj"})),
    "layers and modules": Case(
        Technique(**LOW, layers=(0,), target_modules=("q_proj",)), layers=frozenset({0}), parts=frozenset({"self_attn.q_proj"})
    ),
    "experts": Case(Technique(**LOW, expert_rank=2), "mixtral", parts=frozenset(ATTENTION | {"mlp.experts"})),
    "chosen experts": Case(Technique(**LOW, expert_rank=2, experts=(0, 3)), "mixtral", parts=frozenset(ATTENTION | {"mlp.experts"})),
    "experts of a layer": Case(
        Technique(**LOW, expert_rank=2, layers=(1,)), "mixtral", frozenset({1}), frozenset(ATTENTION | {"mlp.experts"})
    ),
    "router": Case(Technique(**LOW, router="train"), "mixtral", parts=frozenset(ATTENTION | {"mlp.gate"})),
    "router and experts": Case(
        Technique(**LOW, router="train", expert_rank=2, layers=(1,), use_rslora=True),
        "qwen2_moe",
        frozenset({1}),
        frozenset(ATTENTION | {"mlp.gate", "mlp.experts"} | {f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")}),
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_model(root / name, architecture=name) for name in ("gemma3", "llama", "mixtral", "qwen2_moe")}


@dataclass
class Trained:
    """A training, with the tensors of its model before and the model after."""

    result: TrainResult
    before: dict[str, Tensor]
    model: nn.Module

    @property
    def changed(self) -> set[str]:
        return {name for name, tensor in tensors(self.model).items() if not torch.equal(tensor, self.before[name])}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def trained(
    folder: Path, technique: Technique, output: Path, monkeypatch: pytest.MonkeyPatch, *, rows: Rows = ROWS, **changes: Any
) -> Trained:
    kept: list[CompletionTrainer] = []
    before: dict[str, Tensor] = {}
    build = attempt.build_trainer

    def keep(*arguments: Any, **options: Any) -> CompletionTrainer:
        kept.append(build(*arguments, **options))
        before.update({name: tensor.detach().clone() for name, tensor in tensors(kept[0].trained).items()})
        return kept[0]

    monkeypatch.setattr(attempt, "build_trainer", keep)
    data = write_rows(output.with_suffix(".jsonl"), rows)
    request = train_request(output, model=folder, train=data, technique=technique, weight_decay=DECAY, **changes)
    return Trained(train.run(request, Recorder()), before, kept[0].trained.eval())


def part(name: str) -> tuple[int, str] | None:
    """Layer and part of a tensor: `model.layers.1.mlp.experts.base_layer.lora_A.default.weight` -> 1, `mlp.experts`."""
    plain = name.replace(".base_layer", "").split(".layers.")
    if len(plain) < 2:
        return None
    layer, _, rest = plain[1].partition(".")
    return int(layer), rest.split(".lora_")[0].removesuffix(".weight")


def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    base_of(model).set_attn_implementation("eager")
    with torch.no_grad():
        return model(ids).logits.float()


@pytest.mark.parametrize("name", CASES)
def test_a_technique_learns_where_it_should_and_answers_alike_when_loaded_again(name, folders, tmp_path, monkeypatch):
    case = CASES[name]
    folder = folders[case.architecture]
    run = trained(folder, case.technique, tmp_path / "output", monkeypatch)
    assert run.result.validation_losses[-1][1] < run.result.validation_losses[0][1]
    learning = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    assert run.changed - {"lm_head.weight"} == learning
    if case.technique.type == "full":
        assert learning == {name for name, _ in run.model.named_parameters()}
    else:
        assert {part(name) for name in learning} == {(layer, what) for layer in case.layers for what in case.parts}
    assert torch.dist(logits(run.model), logits(load_model(folder))) > 0.1
    if case.technique.type != "qlora":
        torch.testing.assert_close(served(folder, run.result), logits(run.model), rtol=0, atol=1e-5)
        torch.testing.assert_close(logits(load_model(folder, adapter=run.result.adapter)), logits(run.model), rtol=0, atol=1e-5)


def served(folder: Path, result: TrainResult) -> Tensor:
    """As the endpoint loads it, where the base model answers as before."""
    models = ServedModels(folder, base_name="base", format=PromptFormat(), dtype="float32", device="cpu")
    untouched = logits(models.model_of("base"))
    models.load("version", Path(result.adapter))
    answer = logits(models.model_of("version"))
    models.unload("version")
    torch.testing.assert_close(logits(models.model_of("base")), untouched, rtol=0, atol=0)
    return answer


@pytest.mark.parametrize(
    ("name", "placement"),
    [
        ("router and experts", Placement(micro_batch=4, threads=1, dtype="bfloat16")),
        ("pissa", Placement(micro_batch=4, threads=1, dtype="bfloat16")),
        ("layers", Placement(micro_batch=4, threads=1, gradient_checkpointing=True)),
        ("chosen experts", Placement(micro_batch=4, threads=1, gradient_checkpointing=True)),
    ],
    ids=["router and experts in bfloat16", "pissa in bfloat16", "layers recomputed", "chosen experts recomputed"],
)
def test_other_numbers_and_recomputed_layers_learn_too(name, placement, folders, tmp_path, monkeypatch):
    case = CASES[name]
    run = trained(folders[case.architecture], case.technique, tmp_path / "output", monkeypatch, placement=placement)
    assert run.result.validation_losses[-1][1] < run.result.validation_losses[0][1]
    learning = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    assert run.changed == learning
    again = logits(load_model(folders[case.architecture], adapter=run.result.adapter, dtype=placement.dtype))
    near = 1e-5 if placement.dtype == "float32" else 0.05 * float(again.abs().max())
    torch.testing.assert_close(again, logits(run.model), rtol=0, atol=near)


def adapted(folder: Path, technique: Technique) -> Any:
    return with_technique(load_base(folder, technique=technique, placement=Placement()), technique=technique, seed=0)


def gradients(model: nn.Module) -> None:
    rows = [Row(str(number), list(range(2, 60 + number)), [-100, *range(3, 60 + number)]) for number in range(3)]
    batch_nll(model, Collate(pad_id=0, flat=False)(as_records(rows))).backward()


def test_experts_that_are_not_chosen_get_a_gradient_of_zero_and_keep_their_weights(folders, tmp_path, monkeypatch):
    technique = CASES["chosen experts"].technique
    model = adapted(folders["mixtral"], technique)
    gradients(model)
    for _, wrapper in expert_adapters(model):
        # The gradient of the weights that the two halves make, expert by expert.
        for half in (wrapper.lora_A["default"].weight.grad.view(EXPERTS, -1), wrapper.lora_B["default"].weight.grad.view(-1, EXPERTS).T):
            assert [bool(half[expert].any()) for expert in (1, 2)] == [False, False]
        assert wrapper.lora_B["default"].weight.grad.view(-1, EXPERTS).T[0].any()
    run = trained(folders["mixtral"], technique, tmp_path / "output", monkeypatch)
    for _, wrapper in expert_adapters(run.model):
        delta = wrapper.get_delta_weight("default")
        assert [bool(delta[expert].any()) for expert in range(EXPERTS)] == [True, False, False, True]
        assert [bool(half.any()) for half in wrapper.lora_A["default"].weight.view(EXPERTS, -1)] == [True, False, False, True]


def test_pissa_begins_as_the_model_was_and_takes_its_strongest_directions(folders):
    model, base = adapted(folders["llama"], Technique(**LOW, use_pissa=True)), load_model(folders["llama"])
    torch.testing.assert_close(logits(model), logits(base), rtol=0, atol=1e-4)
    name = "model.layers.0.mlp.up_proj"
    whole, rest = base.get_parameter(f"{name}.weight"), model.get_parameter(f"base_model.model.{name}.base_layer.weight")
    strengths, left = torch.linalg.svdvals(whole.detach()).tolist(), torch.linalg.svdvals(rest).tolist()
    # What is left begins with the fifth; sixteen steps find the four before it to a hundredth, in a matrix without any order.
    assert left[0] == pytest.approx(strengths[4], rel=0.02)
    assert left[0] < 0.95 * strengths[0]


def test_an_untrained_pissa_adapter_is_nothing_beside_the_weights_as_they_were(folders, tmp_path, monkeypatch):
    run = trained(folders["llama"], Technique(**LOW, use_pissa=True), tmp_path / "output", monkeypatch, learning_rate=0.0)
    again = logits(load_model(folders["llama"], adapter=run.result.adapter))
    torch.testing.assert_close(again, logits(load_model(folders["llama"])), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "technique", "error", "said"),
    [
        ("llama", Technique(**LOW, layers=(0, 2)), LayerNotFound, r"technique\.layers: got 2, want 0 to 1: the model has 2 layers"),
        ("llama", Technique(**LOW, layers=()), LayerNotFound, "got none, want 0 to 1"),
        (
            "llama",
            Technique(type="lora", rank=33),
            RankTooLarge,
            r"model\.layers\.0\.self_attn\.k_proj is 32 x 64 and would get an adapter of rank 33",
        ),
        (
            "qwen2_moe",
            Technique(type="lora", rank=4, expert_rank=33),
            RankTooLarge,
            r"layers\.1\.mlp\.experts\.down_proj is 64 x 32 .* rank 33",
        ),
        ("mixtral", Technique(**LOW, expert_rank=2, experts=(0, 4)), ExpertsNotAdapted, "got 4, want 0 to 3: a layer has 4 experts"),
        ("llama", Technique(**LOW, router="train"), ExpertsNotAdapted, "router: got train, but this model has no fused experts"),
        ("qwen2_moe", Technique(**LOW, expert_rank=2, layers=(0,)), ExpertsNotAdapted, "no fused experts in these layers"),
        ("qwen2_moe", Technique(**LOW, use_pissa=True), NotBesideParameters, "use_pissa has no place"),
    ],
)
def test_what_the_model_has_no_room_for_is_refused_before_the_first_step(folders, architecture, technique, error, said):
    with pytest.raises(error, match=said):
        adapted(folders[architecture], technique)
