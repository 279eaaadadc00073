"""Which parameters learn how fast, and what decays: as transformers' trainer has it, but for LoRA+."""

from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from fine_tune_pipeline.programs.requests import Hyperparameters, Placement, Technique
from fine_tune_pipeline.programs.training.adapters import load_base, with_technique
from fine_tune_pipeline.programs.training.optimizers import adamw
from fine_tune_pipeline_tests.tiny import tiny_model

WANTED = Hyperparameters(learning_rate=1e-3, epochs=1, effective_batch=8, max_length=64, weight_decay=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def settings(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Name -> rate and decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(one)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for one in group["params"]}


@pytest.mark.parametrize("technique", [Technique(type="full"), Technique(type="lora", rank=4, use_dora=True)], ids=lambda one: one.label)
def test_rates_decay_and_numbers_are_those_of_the_stock_trainer(folder: Path, tmp_path: Path, technique: Technique):
    model = with_technique(load_base(folder, technique=technique, placement=Placement()), technique=technique, seed=0)
    ours = adamw(model, technique=technique, hyperparameters=WANTED)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), learning_rate=1e-3, weight_decay=0.1, optim="adamw_torch_fused", report_to="none", use_cpu=True
    )
    stock = Trainer(model=model, args=arguments).create_optimizer()
    assert settings(model, ours) == settings(model, stock)
    assert type(ours) is type(stock)
    assert {name: ours.defaults[name] for name in ("betas", "eps", "fused", "amsgrad")} == {
        name: stock.defaults[name] for name in ("betas", "eps", "fused", "amsgrad")
    }


@pytest.mark.parametrize(
    "technique",
    [Technique(type="lora", rank=4, lora_plus_ratio=16.0), Technique(type="lora", rank=4, lora_plus_ratio=16.0, use_dora=True)],
    ids=["lora+", "dora+"],
)
def test_with_lora_plus_the_second_halves_learn_faster(folder: Path, technique: Technique):
    model = with_technique(load_base(folder, technique=technique, placement=Placement()), technique=technique, seed=0)
    found = settings(model, adamw(model, technique=technique, hyperparameters=WANTED))
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, (rate, decay) in found.items():
        assert rate == pytest.approx(1e-3 if "lora_A" in name else 16e-3)
        assert decay == 0.1
