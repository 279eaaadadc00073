from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from fine_tune_pipeline.programs.head import TILE_TOKENS, Head
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.training.batches import Collate, Row, as_records, tokenised_rows
from fine_tune_pipeline.programs.training.flat_rows import use_rows_attention
from fine_tune_pipeline.programs.training.losses import batch_nll, labelled_loss, labelled_nll
from fine_tune_pipeline_tests.small_training import write_rows
from fine_tune_pipeline_tests.tiny import Architecture, tiny_model

VOCABULARY = 2 * TILE_TOKENS + 123
WIDTH = 24
COUNT = 17


def head_tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(COUNT, WIDTH, generator=draw)
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw)
    bias = torch.randn(VOCABULARY, generator=draw)
    targets = torch.randint(VOCABULARY, (COUNT,), generator=draw)
    # Borders of the tiles, where an index that is off by one would show.
    targets[:4] = torch.tensor([0, TILE_TOKENS - 1, TILE_TOKENS, VOCABULARY - 1])
    return hidden, weight, bias, targets


def by_the_book(hidden: torch.Tensor, targets: torch.Tensor, head: Head, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy over whole logits, by torch."""
    logits = hidden @ head.weight.t()
    logits = (logits if head.bias is None else logits + head.bias) * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)


@pytest.mark.parametrize("learns", [False, True], ids=["frozen head", "learning head"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.25, None), (1.0, 5.0), (0.5, 3.0)])
def test_tiled_loss_and_its_gradients_are_those_of_whole_logits(
    scale: float, softcap: float | None, smoothing: float, with_bias: bool, learns: bool
):
    results = []
    for dtype, loss_of in ((torch.float64, by_the_book), (torch.float32, trained_loss)):
        hidden, weight, bias, targets = head_tensors()
        leaves = [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(learns), bias.to(dtype).requires_grad_(learns)]
        loss = loss_of(leaves[0], targets, Head(leaves[1], leaves[2] if with_bias else None, scale, softcap), label_smoothing=smoothing)
        (loss * 0.37).backward()
        results.append((loss.item(), [leaf.grad for leaf in leaves]))
    (wanted, wanted_gradients), (got, got_gradients) = results
    assert got == pytest.approx(wanted, rel=1e-5)
    for expected, gradient in zip(wanted_gradients, got_gradients, strict=True):
        assert (expected is None) == (gradient is None)
        if expected is not None and gradient is not None:
            torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)
            assert (gradient - expected).norm() <= 1e-5 * expected.norm()


def trained_loss(hidden: torch.Tensor, targets: torch.Tensor, head: Head, *, label_smoothing: float = 0.0) -> torch.Tensor:
    return labelled_loss(hidden, targets, head, label_smoothing=label_smoothing).trained


def test_the_reported_loss_is_not_smoothed_and_has_no_gradient():
    hidden, weight, _, targets = head_tensors()
    smoothed = labelled_loss(hidden.requires_grad_(), targets, Head(weight), label_smoothing=0.2)
    assert smoothed.nll.item() == pytest.approx(by_the_book(hidden.double(), targets, Head(weight.double())).item(), rel=1e-5)
    assert abs(smoothed.trained.item() - smoothed.nll.item()) > 0.5
    assert smoothed.trained.requires_grad
    assert not smoothed.nll.requires_grad


def test_in_bfloat16_the_smoothed_loss_and_its_gradient_are_near_the_true_ones():
    hidden, weight, _, targets = (tensor.bfloat16() if tensor.is_floating_point() else tensor for tensor in head_tensors())
    exact = hidden.double().requires_grad_()
    by_the_book(exact, targets, Head(weight.double()), label_smoothing=0.1).backward()
    loss = trained_loss(hidden.requires_grad_(), targets, Head(weight), label_smoothing=0.1)
    loss.backward()
    assert exact.grad is not None
    assert hidden.grad is not None
    assert loss.item() == pytest.approx(by_the_book(exact, targets, Head(weight.double()), label_smoothing=0.1).item(), rel=1e-2)
    assert (hidden.grad.double() - exact.grad).norm() <= 2e-2 * exact.grad.norm()


def test_logits_too_large_for_exp_give_a_finite_loss():
    hidden, weight, _, targets = head_tensors()
    wanted = by_the_book(1e4 * hidden.double(), targets, Head(weight.double()))
    assert labelled_nll(1e4 * hidden, targets, Head(weight)).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_in_bfloat16_the_loss_of_a_sure_model_is_near_the_true_one_and_never_negative():
    _, weight, _, targets = head_tensors()
    weight = weight.bfloat16()
    for certainty in (0.5, 1.0, 3.0):
        for token in targets:
            hidden = certainty * weight[token][None]
            wanted = by_the_book(hidden.double(), token[None], Head(weight.double())).item()
            loss = labelled_nll(hidden, token[None], Head(weight)).item()
            assert loss >= 0
            # A logit of this size has steps of 1/4 in bfloat16.
            assert loss == pytest.approx(wanted, abs=0.3)


def test_not_a_number_in_the_hidden_states_reaches_the_loss():
    hidden, weight, _, targets = head_tensors()
    hidden[3, 5] = torch.nan
    assert labelled_nll(hidden, targets, Head(weight)).isnan()


def test_without_a_wanted_gradient_only_the_loss_is_computed():
    hidden, weight, _, targets = head_tensors()
    loss = labelled_nll(hidden, targets, Head(weight))
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(by_the_book(hidden.double(), targets, Head(weight.double())).item(), rel=1e-5)


def prepared(folder: Path, *, technique: str, softcap: float | None) -> nn.Module:
    """The model of the folder; with a LoRA adapter that already does something, the same at each call."""
    model = load_model(folder)
    assert isinstance(model, PreTrainedModel)
    model.config.final_logit_softcapping = softcap
    if technique == "full":
        return model.requires_grad_(True).train()
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
    return tuned.train()


def some_rows(folder: Path, data: Path, *, loss_on: str) -> list[Row]:
    return tokenised_rows(write_rows(data), tokenizer=load_tokenizer(folder), format=PromptFormat(), loss_on=loss_on)[:6]  # type: ignore[arg-type]


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "padded"])
@pytest.mark.parametrize(
    ("architecture", "technique", "loss_on", "softcap"),
    [
        ("gemma3", "lora", "completion", None),
        ("gemma3", "full", "completion", None),
        ("gemma3", "lora", "all", 4.0),
        ("llama", "lora", "all", None),
    ],
)
def test_loss_and_gradients_are_those_of_stock_trl(
    architecture: Architecture,
    technique: str,
    loss_on: str,
    softcap: float | None,
    flat: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("CI", "true")  # TRL sends telemetry otherwise
    folder = tiny_model(tmp_path / "model", architecture=architecture)
    rows = some_rows(folder, tmp_path / "rows.jsonl", loss_on=loss_on)
    labelled = sum(row.labelled for row in rows)

    theirs = prepared(folder, technique=technique, softcap=softcap)
    stock = SFTTrainer(
        model=theirs,
        args=SFTConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", activation_checkpointing=False, max_length=None
        ),
        train_dataset=Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows]),
        processing_class=load_tokenizer(folder),
    )
    batch = stock.data_collator([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
    their_loss = stock.compute_loss(theirs, batch, num_items_in_batch=torch.tensor(labelled))
    their_loss.backward()

    ours = prepared(folder, technique=technique, softcap=softcap)
    base = ours if isinstance(ours, PreTrainedModel) else ours.get_base_model()
    assert not flat or use_rows_attention(base)
    our_loss = batch_nll(ours, Collate(pad_id=0, flat=flat)(as_records(rows))) / labelled
    our_loss.backward()

    assert our_loss.item() == pytest.approx(their_loss.item(), rel=1e-4)
    wanted, got = gradients(theirs), gradients(ours)
    assert got.keys() == wanted.keys()
    for name, gradient in got.items():
        assert (gradient - wanted[name]).norm() <= 1e-3 * wanted[name].norm(), name


def test_frozen_embeddings_get_no_gradient(tmp_path: Path):
    folder = tiny_model(tmp_path / "model")
    model = prepared(folder, technique="lora", softcap=None)
    batch = Collate(pad_id=0, flat=False)(as_records(some_rows(folder, tmp_path / "rows.jsonl", loss_on="completion")))
    batch_nll(model, batch).backward()
    assert gradients(model).keys() == {name for name, _ in model.named_parameters() if "lora_" in name}
