from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.requests import Hyperparameters, Placement, PromptFormat, Technique, TrainRequest
from fine_tune_pipeline.programs.training.adapters import with_technique
from fine_tune_pipeline.programs.training.batches import Row, tokenised_rows
from fine_tune_pipeline.programs.training.trainer import LossNotFinite, LossNotTheModels, build_trainer, fitting_collate, rate_factor
from fine_tune_pipeline_tests.small_training import train_request


class FirstGradient(TrainerCallback):
    """Keeps what the first optimizer step is given, before it is clipped away or spent."""

    def __init__(self) -> None:
        self.gradient: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **event: object) -> None:
        self.gradient = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def rows_of(request: TrainRequest) -> list[Row]:
    return tokenised_rows(request.train, tokenizer=load_tokenizer(request.model), format=PromptFormat(), loss_on="completion")


def first_gradient(request: TrainRequest, *, rows: list[Row]) -> dict[str, torch.Tensor]:
    seen = FirstGradient()
    trainer = build_trainer(request, rows=rows, tokenizer=load_tokenizer(request.model), max_steps=1, callbacks=[seen])
    trainer.train()
    return seen.gradient


def stock_first_gradient(request: TrainRequest, *, rows: list[Row]) -> dict[str, torch.Tensor]:
    """The same step by TRL alone: one padded batch, its own loss."""
    base = load_model(request.model)
    assert isinstance(base, PreTrainedModel)
    seen = FirstGradient()
    SFTTrainer(
        model=with_technique(base, technique=request.technique, seed=request.hyperparameters.seed),
        args=SFTConfig(
            output_dir=request.output,
            per_device_train_batch_size=len(rows),
            max_steps=1,
            max_grad_norm=1e9,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            max_length=None,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows]),
        processing_class=load_tokenizer(request.model),
        callbacks=[seen],
    ).train()
    return seen.gradient


@pytest.mark.parametrize("micro_batch", [8, 3, 1])
@pytest.mark.parametrize("technique", [Technique(type="lora", rank=4), Technique(type="full")], ids=["lora", "full"])
def test_an_accumulated_step_has_the_gradient_of_the_whole_batch_in_stock_trl(
    technique: Technique, micro_batch: int, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CI", "true")  # TRL sends telemetry otherwise
    placement = Placement(micro_batch=micro_batch, threads=1)
    request = train_request(tmp_path, model=model, train=data, technique=technique, placement=placement, max_grad_norm=1e9)
    rows = rows_of(request)[:8]
    wanted = stock_first_gradient(request, rows=rows)
    got = first_gradient(request, rows=rows)
    assert got.keys() == wanted.keys()
    for name, gradient in got.items():
        assert (gradient - wanted[name]).norm() <= 1e-3 * wanted[name].norm() + 1e-7, name


def test_gradient_checkpointing_changes_no_gradient(model: Path, data: Path, tmp_path: Path):
    plain, checkpointed = (
        first_gradient(request, rows=rows_of(request)[:8])
        for request in (
            train_request(tmp_path, model=model, train=data, placement=Placement(micro_batch=8, threads=1, gradient_checkpointing=wanted))
            for wanted in (False, True)
        )
    )
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_the_gradient_is_clipped(model: Path, data: Path, tmp_path: Path):
    request = train_request(tmp_path, model=model, train=data, max_grad_norm=0.01)
    gradient = first_gradient(request, rows=rows_of(request)[:8])
    assert torch.cat([part.flatten() for part in gradient.values()]).norm() == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_a_number_names_the_step_and_the_rows(model: Path, data: Path, tmp_path: Path):
    request = train_request(tmp_path, model=model, train=data, learning_rate=1e30)
    trainer = build_trainer(request, rows=rows_of(request)[:4], tokenizer=load_tokenizer(request.model))
    with pytest.raises(LossNotFinite, match=r"step 2: the loss is (nan|inf) on rows row0-[0-3], row0-[0-3], .*learning_rate"):
        trainer.train()


def test_adapters_of_a_quantised_base_are_float32(model: Path, data: Path, tmp_path: Path):
    request = train_request(tmp_path, model=model, train=data, technique=Technique(type="qlora", rank=4))
    trainer = build_trainer(request, rows=rows_of(request), tokenizer=load_tokenizer(request.model))
    trainable = {parameter.dtype for parameter in trainer.trained.parameters() if parameter.requires_grad}
    assert trainable == {torch.float32}


@pytest.mark.parametrize("type", ["full", "lora"])
def test_the_planned_number_format_is_the_one_of_the_products(type: Any, model: Path, data: Path, tmp_path: Path):
    placement = Placement(micro_batch=8, threads=1, dtype="bfloat16")
    request = train_request(tmp_path, model=model, train=data, technique=Technique(type=type, rank=4), placement=placement)
    trainer = build_trainer(request, rows=rows_of(request)[:8], tokenizer=load_tokenizer(request.model), max_steps=1)
    seen: set[torch.dtype] = set()
    for name, module in trainer.trained.named_modules():
        if name.endswith("down_proj"):
            module.register_forward_hook(lambda module, given, made: seen.add(made.dtype))
    trainer.train()
    assert seen == {torch.bfloat16}
    learned = {parameter.dtype for parameter in trainer.trained.parameters() if parameter.requires_grad}
    assert learned == {torch.float32}


def test_an_architecture_whose_loss_is_computed_otherwise_is_refused():
    # A Llama does not scale its logits, whatever its configuration says.
    config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.logit_scale = 3.0
    torch.manual_seed(0)
    llama = LlamaForCausalLM(config)
    torch.nn.init.normal_(llama.lm_head.weight)
    with pytest.raises(LossNotTheModels, match="LlamaForCausalLM computes a loss of"):
        fitting_collate(llama, rows=[Row("a", [2, 5, 6, 7], [-100, 5, 6, 7])], pad_id=0)


RATES = Hyperparameters(learning_rate=1.0, epochs=1, effective_batch=1, max_length=1, warmup_share=0.2)


def test_the_rate_warms_up_from_above_nothing_and_then_falls_to_nearly_nothing():
    rates = [rate_factor(step, total=20, hyperparameters=RATES) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[12] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.02


@pytest.mark.parametrize(("schedule", "halfway", "end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)])
def test_each_schedule_from_its_top(schedule: str, halfway: float, end: float):
    wanted = RATES.model_copy(update={"schedule": schedule, "warmup_share": 0.0})
    assert [rate_factor(step, total=10, hyperparameters=wanted) for step in (0, 5, 10)] == pytest.approx([1.0, halfway, end])
