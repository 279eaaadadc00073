"""NEFTune against its paper, in flat and padded micro-batches, and inside a training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline.programs.requests import CheckpointPolicy, Placement, Technique, TrainRequest
from fine_tune_pipeline.programs.training.adapters import with_technique
from fine_tune_pipeline.programs.training.batches import ROWS, Collate, Row, as_records
from fine_tune_pipeline.programs.training.embedding_noise import EmbeddingNoise, lengths_of
from fine_tune_pipeline.programs.training.preemption import Preempted, Preemption
from fine_tune_pipeline.programs.training.step_gradient import StepGradient
from fine_tune_pipeline_tests.small_training import Recorder, train_request
from fine_tune_pipeline_tests.tiny import HIDDEN

ALPHA = 5.0

BATCH = [Row(str(tokens), list(range(3, 3 + tokens)), list(range(3, 3 + tokens))) for tokens in (40, 9, 3)]


def batch_of(rows: list[Row], *, flat: bool) -> dict[str, Any]:
    return Collate(pad_id=0, flat=flat)([record for record in as_records(BATCH) if BATCH[record[ROWS]] in rows])


def noises(model: Path, rows: list[Row], *, flat: bool, seed: int = 0, step: int = 1) -> list[torch.Tensor]:
    """What was added to each row's embeddings."""
    network = load_model(model)
    batch = batch_of(rows, flat=flat)
    embeddings = network.get_input_embeddings()
    with torch.no_grad():
        plain = embeddings(batch["input_ids"])
        noise = EmbeddingNoise(network, alpha=ALPHA, seed=seed)
        with noise.over(batch, step=step):
            added = embeddings(batch["input_ids"]) - plain
        torch.testing.assert_close(embeddings(batch["input_ids"]), plain, rtol=0, atol=0)
    if flat:
        return list(added[0].split(list(lengths_of(batch))))
    mask = batch["attention_mask"].bool()
    assert not added[~mask].any()
    return [row[seen] for row, seen in zip(added, mask, strict=True)]


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "padded"])
def test_a_rows_noise_is_uniform_up_to_alpha_over_the_root_of_its_own_tokens_times_the_width(flat: bool, model: Path):
    for row, noise in zip(BATCH, noises(model, BATCH, flat=flat), strict=True):
        reach = ALPHA / math.sqrt(len(row.input_ids) * HIDDEN)
        assert 0.95 * reach < noise.abs().max() <= 1.001 * reach
        assert noise.mean() == pytest.approx(0.0, abs=0.15 * reach)
        # Of a uniform distribution: its standard deviation is the reach over the root of 3.
        assert noise.std() == pytest.approx(reach / math.sqrt(3), rel=0.1)


def test_a_rows_noise_does_not_depend_on_its_neighbours_nor_on_how_they_are_laid(model: Path):
    flat, padded = noises(model, BATCH, flat=True), noises(model, BATCH, flat=False)
    alone = [noises(model, [row], flat=True)[0] for row in BATCH]
    for together, spread, single in zip(flat, padded, alone, strict=True):
        torch.testing.assert_close(together, spread)
        torch.testing.assert_close(together, single)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"step": 2}], ids=["seed", "step"])
def test_another_seed_or_step_is_other_noise(changed: dict[str, int], model: Path):
    assert not torch.allclose(noises(model, BATCH[:1], flat=True)[0], noises(model, BATCH[:1], flat=True, **changed)[0])


def request(output: Path, *, model: Path, data: Path, micro_batch: int = 4, checkpointing: bool = False, **numbers: Any) -> TrainRequest:
    placement = Placement(micro_batch=micro_batch, threads=1, gradient_checkpointing=checkpointing)
    return train_request(output, model=model, train=data, placement=placement, neftune_alpha=ALPHA, **numbers)


def test_the_gradient_of_a_step_is_that_of_the_noisy_embeddings(model: Path, tmp_path: Path, data: Path):
    """Independently: the same noise handed to the model as input embeddings."""
    asked = request(tmp_path, model=model, data=data, micro_batch=3)
    added = noises(model, BATCH, flat=False)
    network = with_technique(loaded(model), technique=Technique(type="full"), seed=0)
    total = torch.zeros(())
    for row, noise in zip(BATCH, added, strict=True):
        ids = torch.tensor([row.input_ids])
        embedded = network.get_input_embeddings()(ids) + noise
        total = total + network(inputs_embeds=embedded, labels=ids).loss * row.labelled
    labelled = sum(row.labelled for row in BATCH)
    (total / labelled).backward()
    wanted = {name: parameter.grad for name, parameter in network.named_parameters()}
    other = with_technique(loaded(model), technique=Technique(type="full"), seed=0)
    step = StepGradient(other, BATCH, asked, Collate(pad_id=0, flat=False), accelerator=Cpu())  # type: ignore[arg-type]
    assert step.of([0, 1, 2], step=1).loss == pytest.approx(float(total.detach() / labelled), rel=1e-5)
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-6)


class Cpu:
    """What a step wants of accelerate."""

    device = torch.device("cpu")

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


def loaded(model: Path) -> PreTrainedModel:
    network = load_model(model)
    assert isinstance(network, PreTrainedModel)
    return network


def losses(asked: TrainRequest) -> list[float]:
    recorder = Recorder()
    train.run(asked, recorder)
    return [numbers["loss"] for *_, numbers in recorder.steps]


def test_noise_changes_what_is_learned_and_not_the_validation_before(model: Path, data: Path, tmp_path: Path):
    plain = train.run(train_request(tmp_path / "plain", model=model, train=data), Recorder())
    noisy = train.run(request(tmp_path / "noisy", model=model, data=data), Recorder())
    assert noisy.validation_losses[0] == plain.validation_losses[0]
    assert noisy.first_loss != pytest.approx(plain.first_loss, rel=1e-4)
    assert noisy.validation_losses[-1][1] < 0.9 * noisy.validation_losses[0][1]


def test_micro_batch_and_recomputing_do_not_change_the_losses(model: Path, data: Path, tmp_path: Path):
    wanted = losses(request(tmp_path / "four", model=model, data=data))
    assert losses(request(tmp_path / "three", model=model, data=data, micro_batch=3)) == pytest.approx(wanted, rel=1e-3)
    assert losses(request(tmp_path / "again", model=model, data=data, checkpointing=True)) == pytest.approx(wanted, rel=1e-4)


class EndsAfter(Recorder):
    def __init__(self, step: int, preemption: Preemption) -> None:
        super().__init__()
        self._step, self._preemption = step, preemption

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        self._preemption.asked = done >= self._step


def test_a_training_with_noise_goes_on_bit_by_bit(model: Path, data: Path, tmp_path: Path):
    whole = train.run(request(tmp_path / "whole", model=model, data=data), Recorder())
    asked = request(tmp_path / "broken", model=model, data=data).model_copy(update={"checkpoints": CheckpointPolicy()})
    preemption = Preemption()
    with pytest.raises(Preempted):
        train.run(asked, EndsAfter(2, preemption), preemption)
    assert train.run(asked, Recorder()).adapter_sha256 == whole.adapter_sha256
