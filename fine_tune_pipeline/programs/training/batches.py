"""Which tokens go through the model together: rows of a data set, the rows of each optimizer step, and their tensors.

The rows of an optimizer step depend on the seed and the effective batch alone. How a step is cut into micro-batches depends on the
placement, so moving a training to another machine does not change what it computes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.rows import read_rows
from fine_tune_pipeline.programs.tokenizer_fit import model_limits
from fine_tune_pipeline.programs.training.row_checks import NoLabelledTokens, refuse_unlearnable

IGNORED = -100
"""The label of a token that does not count: prompt, padding, the first token of a row."""

ROWS = "row"
"""Key of a batch that says which rows are in it, by their place in the data set."""

TEXT_FIELDS = ("id", "prompt", "completion")
"""What a row must have, as text."""

SHOWN_IDS = 10

EPOCHS_APART = 100_003
"""Distance of two seeds' shuffles: more than any number of epochs."""


class RowsTooLong(ValueError):
    """Rows do not fit into max_length tokens; they are never cut silently."""


@dataclass(frozen=True)
class Row:
    """One tokenised example. `labels` is as long as `input_ids` and IGNORED where a token must not count; `prompt_tokens` stand before the
    answer."""

    id: str
    input_ids: list[int]
    labels: list[int]
    prompt_tokens: int = 0

    @property
    def length(self) -> int:
        """Tokens of the longest sequence that goes through the model for it."""
        return len(self.input_ids)

    @property
    def own_labelled(self) -> int:
        """Tokens of `input_ids` that count. The first never does: nothing stands before it to predict it from."""
        return sum(label != IGNORED for label in self.labels[1:])

    @property
    def labelled(self) -> int:
        """Tokens that count, of everything that goes through the model for it."""
        return self.own_labelled


def tokenised_rows(
    path: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    format: PromptFormat,
    loss_on: Literal["completion", "all"],
) -> list[Row]:
    """Every row of a JSONL file of id, prompt and completion, as tokens that the model will also see when it serves.

    Args:
        tokenizer: of `load_tokenizer`: the folder that it was read from is the model's.

    Raises:
        BadRows: names the file and every wrong line.
        NoLabelledTokens, BeyondContext, TokenWithoutPlace: the model could not learn from some rows; names the file and the rows.
    """
    examples = read_rows(path, text_fields=TEXT_FIELDS, unique=("id",))
    rows = [tokenised(example, tokenizer=tokenizer, format=format, loss_on=loss_on) for example in examples]
    refuse_unlearnable(rows, source=str(path), tokenizer=tokenizer, limits=model_limits(tokenizer.name_or_path))
    return rows


def tokenised(
    example: Mapping[str, Any], *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat, loss_on: Literal["completion", "all"]
) -> Row:
    """One row of a JSONL file as tokens."""
    encoded = encode(Asked.of(example), example["completion"], tokenizer=tokenizer, format=format)
    prompt_labels = encoded.prompt_ids if loss_on == "all" else [IGNORED] * len(encoded.prompt_ids)
    input_ids, labels = encoded.prompt_ids + encoded.completion_ids, prompt_labels + encoded.completion_ids
    return Row(example["id"], input_ids, labels, prompt_tokens=len(encoded.prompt_ids))


def check_rows(rows: Sequence[Row], *, source: str, max_length: int) -> None:
    """Refuse what training could not learn from whole.

    Args:
        source: the file that they come from.

    Raises:
        RowsTooLong: names the rows longer than `max_length`, prompt, completion and end token together.
        NoLabelledTokens: names the rows without a token that counts.
    """
    if long := over_long(rows, max_length=max_length):
        longest = max(row.length for row in rows)
        raise RowsTooLong(
            f"{source}: {len(long)} of {len(rows)} rows are longer than max_length {max_length} (the longest has {longest} tokens): "
            f"{shown_ids(long)}; raise training.max_length, or shorten or quarantine these rows"
        )
    if empty := [row.id for row in rows if not row.labelled]:
        raise NoLabelledTokens(
            f"{source}: {len(empty)} of {len(rows)} rows have no token to learn from: {shown_ids(empty)}; give them a completion"
        )


def over_long(rows: Sequence[Row], *, max_length: int) -> list[str]:
    """Ids of the rows that have more than `max_length` tokens."""
    return [row.id for row in rows if row.length > max_length]


def shown_ids(ids: Sequence[str]) -> str:
    """Some ids, for a message that stays readable."""
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(ids[:SHOWN_IDS]) + more


class Steps(Sampler[list[int]]):
    """The rows of each optimizer step, in the order of training: a seeded shuffle, cut into steps.

    Within a step the longest rows come first: rows of a like length share a micro-batch, and one that does not fit into memory fails at
    once.
    """

    def __init__(self, lengths: Sequence[int], *, effective_batch: int, seed: int) -> None:
        self._lengths = lengths
        self._effective_batch = effective_batch
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle; the trainer calls it before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Optimizer steps of one epoch; the last may hold fewer rows."""
        return -(-len(self._lengths) // self._effective_batch)

    def __iter__(self) -> Iterator[list[int]]:
        # Not the sum: seed 0 in its second epoch and seed 1 in its first would shuffle alike.
        generator = torch.Generator().manual_seed(self._seed * EPOCHS_APART + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(order), self._effective_batch):
            yield sorted(order[start : start + self._effective_batch], key=lambda row: (-self._lengths[row], row))


class Collate:
    """Makes the tensors of one micro-batch.

    Letters: B rows, T tokens of the longest row, N tokens of all rows together.

    `flat` lays the rows end to end, without padding: `input_ids`, `labels` and `position_ids` are [1, N], and `cu_seq_lens_q` [B + 1] says
    where rows begin. Otherwise `input_ids`, `labels` and `attention_mask` are [B, T], padded on the right.
    """

    def __init__(self, *, pad_id: int, flat: bool) -> None:
        self.flat = flat
        self._collate = DataCollatorForLanguageModeling(pad_token_id=pad_id, padding_free=flat)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self._collate(rows)
        # For linear attention, which flat batches are not used with.
        batch.pop("seq_idx", None)
        return {**batch, ROWS: [row[ROWS] for row in rows]}


def as_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as the trainer's data set holds them."""
    return [{"input_ids": row.input_ids, "labels": row.labels, ROWS: place} for place, row in enumerate(rows)]


def real_tokens(batch: dict[str, Any]) -> int:
    """Tokens of a micro-batch that are not padding."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())


def counted_labels(labels: Tensor) -> int:
    """Labels [B, T] that count once they are shifted: the first of a row has nothing before it."""
    return int((labels[:, 1:] != IGNORED).sum())
