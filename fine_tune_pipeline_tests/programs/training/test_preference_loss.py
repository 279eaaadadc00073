"""Losses and gradients of compared answers are those of TRL's own trainers, which share no code with ours."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from fine_tune_pipeline.artifacts.comparisons import NoComparisons
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.preference import Preference
from fine_tune_pipeline.programs.requests import Hyperparameters, PromptFormat, Technique, TrainRequest
from fine_tune_pipeline.programs.training.batches import Collate, Row, as_records
from fine_tune_pipeline.programs.training.flat_rows import use_rows_attention
from fine_tune_pipeline.programs.training.preference_loss import loss_of
from fine_tune_pipeline.programs.training.preference_rows import Judged, Pair, learned_rows
from fine_tune_pipeline_tests.comparisons import write_pairs
from fine_tune_pipeline_tests.small_training import train_request
from fine_tune_pipeline_tests.tiny import tiny_model

COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def asked(folder: Path, tmp_path: Path, wanted: Preference, **numbers: Any) -> TrainRequest:
    data = write_pairs(tmp_path / "pairs.jsonl")
    return train_request(tmp_path / "out", model=folder, train=data, technique=Technique(type="full"), preference=wanted, **numbers)


def rows_of(request: TrainRequest, *, count: int) -> list[Row]:
    """Of the first examples of the file."""
    lines = Path(request.train).read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines][:count]
    tokenizer = load_tokenizer(request.model)
    return learned_rows(examples, source="train", tokenizer=tokenizer, format=request.format, hyperparameters=request.hyperparameters).rows


def base(folder: Path) -> PreTrainedModel:
    model = load_model(folder)
    assert isinstance(model, PreTrainedModel)
    return model


def moved(folder: Path) -> PreTrainedModel:
    """The model after some learning: far enough from the reference that every term of a loss counts."""
    model = base(folder)
    torch.manual_seed(7)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.requires_grad_(True).train()


def ours(
    request: TrainRequest, rows: Sequence[Row], *, flat: bool, rows_a_pass: int, back: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of one step, in passes; `back`: of a model that is what the reference has moved from."""
    folder = Path(request.model)
    reference, model = (moved(folder), base(folder).requires_grad_(True).train()) if back else (base(folder), moved(folder))
    assert not flat or (use_rows_attention(reference) and use_rows_attention(model))
    collate = Collate(pad_id=0, flat=flat)
    loss = loss_of(request, reference, rows, collate=collate)
    passes = [rows[first : first + rows_a_pass] for first in range(0, len(rows), rows_a_pass)]

    def batched(sequences: Sequence[Row]) -> dict[str, Any]:
        return collate(as_records(sequences))

    begun = loss.begun(loss.begin(model, passes, batched), rows)
    total = 0.0
    for some in passes:
        summed = loss.summed(model, some, batched(loss.sequences(some)), begun).loss / loss.weight(rows)
        summed.backward()
        total += summed.item()
    return total, gradients(model)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(got: tuple[float, dict[str, torch.Tensor]], wanted: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert got[0] == pytest.approx(wanted[0], rel=1e-4)
    assert got[1].keys() == wanted[1].keys()
    for name, gradient in got[1].items():
        assert (gradient - wanted[1][name]).norm() <= 1e-3 * wanted[1][name].norm(), name


def parts(row: Row) -> tuple[list[int], list[int]]:
    return row.input_ids[: row.prompt_tokens], row.input_ids[row.prompt_tokens :]


USUAL: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "activation_checkpointing": False, "max_length": None}

FORMS = pytest.mark.parametrize(("flat", "rows_a_pass"), [(True, COUNT), (True, 1), (False, 4)], ids=["flat", "one by one", "padded"])


@FORMS
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_is_that_of_trl(beta: float, flat: bool, rows_a_pass: int, folder: Path, tmp_path: Path):
    request = asked(folder, tmp_path, Preference(type="dpo", beta=beta))
    rows = rows_of(request, count=COUNT)
    model = moved(folder)
    trainer = DPOTrainer(
        model=model,
        ref_model=base(folder),
        args=DPOConfig(output_dir=str(tmp_path / "trl"), beta=beta, **USUAL),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=load_tokenizer(folder),
    )
    records = []
    for row in rows:
        assert isinstance(row, Pair)
        prompt, chosen = parts(row)
        records.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": parts(row.rejected)[1]})
    theirs = trainer.compute_loss(model, DataCollatorForPreference(pad_token_id=0)(records))
    theirs.backward()
    got = ours(request, rows, flat=flat, rows_a_pass=rows_a_pass)
    assert_same(got, (theirs.item(), gradients(model)))


@FORMS
def test_kto_is_that_of_trl_however_a_step_is_cut(flat: bool, rows_a_pass: int, folder: Path, tmp_path: Path):
    wanted = Preference(type="kto", beta=0.3, undesirable_weight=1.5)
    request = asked(folder, tmp_path, wanted)
    rows = rows_of(request, count=COUNT)
    # From a mean gain below nothing, the reference point would be cut off.
    model = base(folder).requires_grad_(True).train()
    trainer = KTOTrainer(
        model=model,
        ref_model=moved(folder),
        args=KTOConfig(output_dir=str(tmp_path / "trl"), beta=0.3, undesirable_weight=1.5, per_device_train_batch_size=2, **USUAL),
        train_dataset=Dataset.from_list([{"prompt": "a", "completion": "b", "label": True}] * 2),
        processing_class=load_tokenizer(folder),
    )
    answers = [parts(row)[1] for row in rows]
    turned = [*answers[-1:], *answers[:-1]]
    records = []
    for row, other in zip(rows, turned, strict=True):
        assert isinstance(row, Judged)
        prompt, answer = parts(row)
        records.append({"prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": other, "label": row.desirable})
    theirs = trainer.compute_loss(model, DataCollatorForUnpairedPreference(pad_token_id=0)(records))
    theirs.backward()
    got = ours(request, rows, flat=flat, rows_a_pass=rows_a_pass, back=True)
    assert trainer._metrics["train"]["kl"][-1] > 0, "the reference point must count"
    assert_same(got, (theirs.item(), gradients(model)))


def trl_orpo(folder: Path, tmp_path: Path, rows: Sequence[Row], *, prompts_count: bool) -> tuple[float, dict[str, torch.Tensor]]:
    from trl.experimental.orpo.orpo_config import ORPOConfig
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    model = moved(folder)
    trainer = ORPOTrainer(
        model=model,
        args=ORPOConfig(output_dir=str(tmp_path / "trl"), beta=0.4, padding_value=0, **{**USUAL, "max_length": 128}),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=load_tokenizer(folder),
    )
    batch: dict[str, torch.Tensor] = {}
    for name, some in (("chosen", rows), ("rejected", [row.rejected for row in rows if isinstance(row, Pair)])):
        longest = max(len(row.input_ids) for row in some)
        pads = [longest - len(row.input_ids) for row in some]
        batch[f"{name}_input_ids"] = torch.tensor([row.input_ids + [0] * pad for row, pad in zip(some, pads, strict=True)])
        batch[f"{name}_attention_mask"] = torch.tensor([[1] * len(row.input_ids) + [0] * pad for row, pad in zip(some, pads, strict=True)])
        batch[f"{name}_labels"] = torch.tensor(
            [[-100] * row.prompt_tokens + row.input_ids[row.prompt_tokens :] + [-100] * pad for row, pad in zip(some, pads, strict=True)]
        )
    loss = trainer.compute_loss(model, batch)
    if not prompts_count:
        # Theirs has the whole text in its supervised part; ours has it too only if the use case says so.
        whole = trainer.concatenated_forward(model, batch)[4]
        labels = batch["chosen_labels"]
        answers = model(batch["chosen_input_ids"], attention_mask=batch["chosen_attention_mask"], labels=labels).loss
        loss = loss - whole + answers
    loss.backward()
    return loss.item(), gradients(model)


@FORMS
@pytest.mark.parametrize("loss_on", ["all", "completion"])
def test_orpo_is_that_of_trl(loss_on: Literal["all", "completion"], flat: bool, rows_a_pass: int, folder: Path, tmp_path: Path):
    request = asked(folder, tmp_path, Preference(type="orpo", beta=0.4), loss_on=loss_on)
    rows = rows_of(request, count=COUNT)
    got = ours(request, rows, flat=flat, rows_a_pass=rows_a_pass)
    assert_same(got, trl_orpo(folder, tmp_path, rows, prompts_count=loss_on == "all"))


@pytest.mark.parametrize("type", ["dpo", "kto"])
def test_the_untrained_model_is_its_own_reference(type: Literal["dpo", "kto"], folder: Path, tmp_path: Path):
    request = asked(folder, tmp_path, Preference(type=type))
    rows = rows_of(request, count=COUNT)
    model, collate = base(folder), Collate(pad_id=0, flat=False)
    loss = loss_of(request, model, rows, collate=collate)

    def batched(sequences: Sequence[Row]) -> dict[str, Any]:
        return collate(as_records(sequences))

    begun = loss.begun(loss.begin(model, [rows], batched), rows)
    with torch.no_grad():
        seen = loss.summed(model, rows, batched(loss.sequences(rows)), begun)
    # ln 2 of a pair that is as likely this way as that; a half of an answer that has neither gained nor lost.
    assert seen.loss.item() / len(rows) == pytest.approx({"dpo": 0.693147, "kto": 0.5}[type], abs=1e-5)
    assert seen.figures is not None
    assert seen.figures[1].item() == pytest.approx(0, abs=1e-4)


def test_figures_are_the_share_that_is_won_and_by_how_much(folder: Path, tmp_path: Path):
    request = asked(folder, tmp_path, Preference(type="dpo", beta=0.5))
    rows = rows_of(request, count=COUNT)
    collate = Collate(pad_id=0, flat=False)
    loss = loss_of(request, base(folder), rows, collate=collate)
    model = moved(folder)
    margins = []
    for row in rows:
        with torch.no_grad():
            seen = loss.summed(model, [row], collate(as_records(loss.sequences([row]))), 0.0)
        margin = -torch.log(torch.expm1(seen.loss)).item()
        assert seen.figures is not None
        assert seen.figures[1].item() == pytest.approx(margin, rel=1e-3, abs=1e-4)
        margins.append(margin)
    with torch.no_grad():
        whole = loss.summed(model, rows, collate(as_records(loss.sequences(rows))), 0.0)
    assert whole.figures is not None
    assert whole.figures.tolist() == pytest.approx([sum(margin > 0 for margin in margins), sum(margins)], rel=1e-3)
    assert 0 < whole.figures[0] < COUNT, "both must occur"


NUMBERS = Hyperparameters(learning_rate=1.0, epochs=1, effective_batch=1, max_length=24)


def some_rows(folder: Path, tmp_path: Path, *, type: Literal["dpo", "kto"], single: int) -> Any:
    lines = write_pairs(tmp_path / "pairs.jsonl", single=single).read_text(encoding="utf-8").splitlines()
    wanted = NUMBERS.model_copy(update={"preference": Preference(type=type)})
    examples = [json.loads(line) for line in lines]
    return learned_rows(examples, source="train.jsonl", tokenizer=load_tokenizer(folder), format=PromptFormat(), hyperparameters=wanted)


def test_rows_without_a_second_answer_are_left_out_of_pairs_and_named(folder: Path, tmp_path: Path):
    found = some_rows(folder, tmp_path, type="dpo", single=2)
    assert (len(found.rows), found.left_out) == (22, ("row3-4", "row3-5"))
    assert found.said() == "2 rows have no rejected answer and are not learned from: row3-4, row3-5"
    first = found.rows[0]
    assert first.length == max(len(first.input_ids), len(first.rejected.input_ids))
    assert first.labelled == sum(label != -100 for label in (*first.labels, *first.rejected.labels))


def test_a_single_right_answer_is_wanted_in_kto_and_no_row_meets_its_own_answer(folder: Path, tmp_path: Path):
    found = some_rows(folder, tmp_path, type="kto", single=2)
    assert found.left_out == ()
    assert [row.desirable for row in found.rows] == [True] * 24 + [False] * 22
    for row in found.rows:
        assert row.other.input_ids[: row.prompt_tokens] == row.input_ids[: row.prompt_tokens][:24]
        assert len(row.other.input_ids) <= 24


def test_nothing_to_compare_is_an_error_that_says_what_to_give(folder: Path, tmp_path: Path):
    with pytest.raises(NoComparisons, match=r"train\.jsonl: none of 24 rows has a rejected answer.*dpo.*layout: preference"):
        some_rows(folder, tmp_path, type="dpo", single=24)
