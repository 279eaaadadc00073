"""Schedules, weight decay, clipping and AdamW, each against torch's own or against its formula by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from transformers import PreTrainedModel, TrainerCallback

from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.requests import Hyperparameters, PromptFormat, Technique, TrainRequest
from fine_tune_pipeline.programs.training.adapters import with_technique
from fine_tune_pipeline.programs.training.batches import tokenised_rows
from fine_tune_pipeline.programs.training.trainer import build_trainer, rate_factor
from fine_tune_pipeline_tests.small_training import train_request

STEPS, WARMUP = 50, 5

BETAS, EPSILON = (0.9, 0.999), 1e-8


def after_warmup(schedule: str, optimizer: SGD, *, steps: int) -> LRScheduler:
    match schedule:
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=steps)
        case "linear":
            return LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
    return ConstantLR(optimizer, factor=1.0)


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_rates_are_those_of_torchs_own_schedulers(schedule: Any, warmup: int):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = after_warmup(schedule, optimizer, steps=STEPS - warmup)
    if warmup:
        rising = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        reference = SequentialLR(optimizer, [rising, reference], milestones=[warmup])
    wanted = []
    for _ in range(STEPS):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    numbers = Hyperparameters(learning_rate=1.0, epochs=1, effective_batch=1, max_length=1, warmup_share=warmup / STEPS, schedule=schedule)
    assert [rate_factor(step, total=STEPS, hyperparameters=numbers) for step in range(STEPS)] == pytest.approx(wanted, abs=1e-12)


class Seen(TrainerCallback):
    """Weights and gradients at each optimizer step, the gradients as they are after clipping."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.rates: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **event: object) -> None:
        learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.gradients.append({name: parameter.grad.clone() for name, parameter in learned.items()})
        self.weights.append({name: parameter.detach().clone() for name, parameter in learned.items()})
        self.rates.append(optimizer.param_groups[0]["lr"])


def seen(request: TrainRequest) -> Seen:
    """Of the first three steps."""
    found = Seen()
    tokenizer = load_tokenizer(request.model)
    rows = tokenised_rows(request.train, tokenizer=tokenizer, format=PromptFormat(), loss_on="completion")
    build_trainer(request, rows=rows, tokenizer=tokenizer, callbacks=[found], max_steps=3).train()
    return found


@pytest.mark.parametrize("technique", [Technique(type="lora", rank=4), Technique(type="full")], ids=["lora", "full"])
def test_two_steps_are_those_of_adamw_by_hand(technique: Technique, model: Path, data: Path, tmp_path: Path):
    """Loshchilov & Hutter 2019: decay apart from the gradient, by the rate of the step; norms do not decay."""
    decay = 0.1
    found = seen(train_request(tmp_path, model=model, train=data, technique=technique, weight_decay=decay, learning_rate=1e-3))
    assert len(found.weights) == 3
    for name, weight in found.weights[0].items():
        mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
        for step, (rate, gradients) in enumerate(zip(found.rates[:2], found.gradients[:2], strict=True), start=1):
            mean = BETAS[0] * mean + (1 - BETAS[0]) * gradients[name]
            square = BETAS[1] * square + (1 - BETAS[1]) * gradients[name] ** 2
            if "norm" not in name:
                weight = weight * (1 - rate * decay)
            root = (square / (1 - BETAS[1] ** step)).sqrt() + EPSILON
            weight = weight - rate * (mean / (1 - BETAS[0] ** step)) / root
            torch.testing.assert_close(found.weights[step][name], weight, rtol=1e-5, atol=1e-7)


def test_a_gradient_is_clipped_in_its_length_and_not_in_its_direction(model: Path, data: Path, tmp_path: Path):
    free, bound = (
        torch.cat(
            [part.flatten() for part in seen(train_request(tmp_path, model=model, train=data, max_grad_norm=most)).gradients[0].values()]
        )
        for most in (1e9, 0.25)
    )
    assert free.norm() > 0.25
    torch.testing.assert_close(bound, free * 0.25 / free.norm(), rtol=1e-4, atol=1e-8)


def test_a_gradient_below_the_bound_stays_as_it_is(model: Path, data: Path, tmp_path: Path):
    free, bound = (seen(train_request(tmp_path, model=model, train=data, max_grad_norm=most)).gradients[0] for most in (1e9, 1e6))
    assert all(torch.equal(bound[name], gradient) for name, gradient in free.items())


@pytest.mark.parametrize("technique", [Technique(type="lora", rank=4), Technique(type="full")], ids=["lora", "full"])
def test_a_smoothed_gradient_is_that_of_torchs_cross_entropy_and_the_loss_that_is_shown_is_plain(
    technique: Technique, model: Path, data: Path, tmp_path: Path
):
    request = train_request(tmp_path, model=model, train=data, technique=technique, label_smoothing=0.1)
    tokenizer = load_tokenizer(request.model)
    rows = tokenised_rows(request.train, tokenizer=tokenizer, format=PromptFormat(), loss_on="completion")[:8]
    trainer = build_trainer(request, rows=rows, tokenizer=tokenizer)
    shown = trainer.gradient.of(range(8), step=1).loss
    got = {name: parameter.grad for name, parameter in trainer.trained.named_parameters() if parameter.grad is not None}
    base = load_model(model)
    assert isinstance(base, PreTrainedModel)
    network = with_technique(base, technique=technique, seed=0)
    logits, labels = [], []
    for row in rows:
        logits.append(network(input_ids=torch.tensor([row.input_ids])).logits[0, :-1])
        labels.append(torch.tensor(row.labels[1:]))
    all_logits, all_labels = torch.cat(logits), torch.cat(labels)
    cross_entropy(all_logits, all_labels, label_smoothing=0.1).backward()
    assert shown == pytest.approx(float(cross_entropy(all_logits.detach(), all_labels)), rel=1e-4)
    wanted = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert got.keys() == wanted.keys()
    for name, gradient in got.items():
        assert (gradient - wanted[name]).norm() <= 1e-3 * wanted[name].norm() + 1e-7, name
