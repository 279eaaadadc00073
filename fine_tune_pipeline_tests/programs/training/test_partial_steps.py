from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback

from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.requests import Placement, PromptFormat, Technique
from fine_tune_pipeline.programs.training.batches import Collate, as_records, tokenised_rows
from fine_tune_pipeline.programs.training.trainer import build_trainer
from fine_tune_pipeline_tests.small_training import train_request, write_rows
from fine_tune_pipeline_tests.tiny import tiny_model

ROWS, EFFECTIVE_BATCH = 11, 8


class LastGradient(TrainerCallback):
    """Keeps what the last optimizer step is given."""

    def __init__(self) -> None:
        self.gradient: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **event: object) -> None:
        self.gradient = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_a_last_step_of_fewer_rows_has_the_gradient_of_the_mean_over_their_tokens(micro_batch: int, tmp_path: Path):
    request = train_request(
        tmp_path,
        model=tiny_model(tmp_path / "model"),
        train=write_rows(tmp_path / "train.jsonl"),
        technique=Technique(type="full"),
        placement=Placement(micro_batch=micro_batch, threads=1),
        max_grad_norm=1e9,
        effective_batch=EFFECTIVE_BATCH,
        # So small that the weights of the second step are still those of the folder.
        learning_rate=1e-30,
        epochs=1,
    )
    tokenizer = load_tokenizer(request.model)
    rows = tokenised_rows(request.train, tokenizer=tokenizer, format=PromptFormat(), loss_on="completion")[:ROWS]
    seen = LastGradient()
    trainer = build_trainer(request, rows=rows, tokenizer=tokenizer, callbacks=[seen])
    trainer.train()
    places = list(trainer.steps)[-1]
    assert len(places) == ROWS - EFFECTIVE_BATCH
    model = load_model(request.model)
    assert isinstance(model, PreTrainedModel)
    model.requires_grad_(True).train()
    batch = Collate(pad_id=0, flat=False)(as_records([rows[place] for place in places]))
    model(**{name: value for name, value in batch.items() if name != "row"}, use_cache=False).loss.backward()
    wanted = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert seen.gradient.keys() == wanted.keys()
    for name, gradient in seen.gradient.items():
        assert (gradient - wanted[name]).norm() <= 1e-3 * wanted[name].norm() + 1e-7, name
