"""Losses of compared answers: dpo, orpo and kto, with the formulas of TRL, which `test_preference_loss.py` compares them with.

Letters: B rows.
"""
# ruff: noqa: N803, N806 (capitals name the shape of a tensor)

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.preference import Preference
from fine_tune_pipeline.programs.training.adapters import evaluate
from fine_tune_pipeline.programs.training.batches import Collate, Row, as_records
from fine_tune_pipeline.programs.training.preference_rows import Judged, Pair
from fine_tune_pipeline.programs.training.progress import request_sha256
from fine_tune_pipeline.programs.training.recipe import Recipe, computing, on_device
from fine_tune_pipeline.programs.training.references import References, compared, computed, kept
from fine_tune_pipeline.programs.training.sequence_logps import answers_of
from fine_tune_pipeline.programs.training.step_loss import Batched, CompletionLoss, StepLoss, Summed
from fine_tune_pipeline.programs.training.team import ALONE, Team

SUREST = -1e-6
"""Mean log-probability above which float32 cannot tell 1 - p from nothing."""


def loss_of(
    recipe: Recipe,
    base: PreTrainedModel,
    rows: Sequence[Row],
    *,
    collate: Collate,
    file: Path | None = None,
    beat: Callable[[], None] = lambda: None,
    team: Team = ALONE,
) -> StepLoss:
    """What the recipe wants to make small; where it needs a reference, that is `base` as it is now.

    Args:
        rows: all that will be looked at.
        file: keeps the reference for other tries of the same work.
        beat: called after every pass.
        team: shares the work of the reference.
    """
    wanted = recipe.hyperparameters.preference
    if wanted is None:
        return CompletionLoss(label_smoothing=recipe.hyperparameters.label_smoothing)
    if wanted.type == "orpo":
        return OrpoLoss(wanted)

    def batched(sequences: Sequence[Row]) -> dict[str, Any]:
        beat()
        return on_device(collate(as_records(sequences)), base.device)

    sha256 = request_sha256(recipe)
    references = team.from_first(lambda: None if file is None else kept(file, request_sha256=sha256))
    if references is None:
        evaluate(base)
        own = compared(rows)[team.rank :: team.size]
        with computing(recipe):
            found = computed(base, own, batched, rows_a_pass=2 * recipe.placement.micro_batch)
        logps = {key: value for each in team.everyone(found) for key, value in each.items()}
        references = References(request_sha256=sha256, logps=logps)
        if file is not None and team.first:
            references.write(file)
    return DpoLoss(wanted, references) if wanted.type == "dpo" else KtoLoss(wanted, references)


class _Compared:
    """What all three have in common: a row weighs one."""

    unit = "nats per comparison"
    figures: tuple[str, ...] = ("reward_accuracy", "reward_margin")

    def weight(self, rows: Sequence[Row]) -> int:
        return len(rows)

    def begin(self, model: nn.Module, passes: Sequence[Sequence[Row]], batched: Batched) -> Sequence[float]:
        return ()

    def begun(self, numbers: Sequence[float], rows: Sequence[Row]) -> float:
        return 0.0


class _Pairs(_Compared):
    """Preferred answers first, then the rejected ones in the same order."""

    def sequences(self, rows: Sequence[Row]) -> Sequence[Row]:
        pairs = _pairs(rows)
        return [*(pair.preferred for pair in pairs), *(pair.rejected for pair in pairs)]


class DpoLoss(_Pairs):
    """Direct preference optimisation: the preferred answer must gain more, against the reference, than the rejected one.

    Source: Rafailov et al. 2023, equation 7; `loss_type: sigmoid` of TRL's DPOTrainer.
    """

    def __init__(self, wanted: Preference, references: References) -> None:
        self._beta = wanted.beta
        self._references = references

    def summed(self, model: nn.Module, rows: Sequence[Row], batch: dict[str, Any], begun: float) -> Summed:
        sequences = self.sequences(rows)
        logps = answers_of(model, sequences, batch).logps
        better, worse = (self._beta * (logps - self._references.of(sequences, logps))).chunk(2)
        return Summed(-logsigmoid(better - worse).sum(), _won(better - worse))


class OrpoLoss(_Pairs):
    """Odds ratio preference optimisation: supervised learning of the preferred answer, and odds that favour it. It needs no reference.

    Source: Hong et al. 2024, equations 4 to 7; ORPOTrainer of TRL, whose supervised part is that of `loss_on: all`.
    """

    unit = "nats"

    def __init__(self, wanted: Preference) -> None:
        self._beta = wanted.beta

    def begun(self, numbers: Sequence[float], rows: Sequence[Row]) -> float:
        """Rows per supervised token of the step: its supervised part is a mean over tokens, the other one a mean over rows."""
        return len(rows) / sum(pair.own_labelled for pair in _pairs(rows))

    def summed(self, model: nn.Module, rows: Sequence[Row], batch: dict[str, Any], begun: float) -> Summed:
        found = answers_of(model, self.sequences(rows), batch)
        mean = (found.logps / found.tokens).clamp(max=SUREST)
        better, worse = (mean - _log1mexp(mean)).chunk(2)
        supervised = begun * found.nll[: len(rows)].sum()
        first, second = (self._beta * mean).chunk(2)
        return Summed(supervised - self._beta * logsigmoid(better - worse).sum(), _won(first - second))


class KtoLoss(_Compared):
    """Kahneman-Tversky optimisation: answers that are wanted must gain, and others lose, against what all answers gain by themselves.

    That reference point is taken over the whole step, before its first pass. Source: Ethayarajh et al. 2024, equations 7 and 8; TRL's
    KTOTrainer, which takes it over a micro-batch.
    """

    def __init__(self, wanted: Preference, references: References) -> None:
        self._beta = wanted.beta
        self._undesirable_weight = wanted.undesirable_weight
        self._references = references

    def sequences(self, rows: Sequence[Row]) -> Sequence[Row]:
        return rows

    @torch.no_grad()
    def begin(self, model: nn.Module, passes: Sequence[Sequence[Row]], batched: Batched) -> Sequence[float]:
        """What each answer to another question has gained."""
        training = model.training
        evaluate(model)
        gained = []
        for rows in passes:
            others = [row.other for row in _judged(rows)]
            logps = answers_of(model, others, batched(others)).logps
            gained.append(logps - self._references.of(others, logps))
        if training:
            model.train()
        return torch.cat(gained).tolist() if gained else ()

    def begun(self, numbers: Sequence[float], rows: Sequence[Row]) -> float:
        """What a mean one has gained, at least nothing."""
        return max(0.0, float(torch.tensor(numbers).mean()))

    def summed(self, model: nn.Module, rows: Sequence[Row], batch: dict[str, Any], begun: float) -> Summed:
        logps = answers_of(model, rows, batch).logps
        sides = [1.0 if row.desirable else -1.0 for row in _judged(rows)]
        sign_B = torch.tensor(sides, device=logps.device)
        reward_B = sign_B * self._beta * (logps - self._references.of(rows, logps) - begun)
        weight_B = torch.where(sign_B > 0, 1.0, self._undesirable_weight)
        return Summed((weight_B * (1 - reward_B.sigmoid())).sum(), _won(reward_B))


def _won(margin_B: Tensor) -> Tensor:
    """Rows that are on the right side, and by how much all are together."""
    margin_B = margin_B.detach()
    return torch.stack([(margin_B > 0).float().sum(), margin_B.sum()])


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of numbers below 0, exact at both ends."""
    return torch.where(x < -0.6931472, torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))


def _pairs(rows: Sequence[Row]) -> list[Pair]:
    pairs = [row for row in rows if isinstance(row, Pair)]
    assert len(pairs) == len(rows)
    return pairs


def _judged(rows: Sequence[Row]) -> list[Judged]:
    judged = [row for row in rows if isinstance(row, Judged)]
    assert len(judged) == len(rows)
    return judged
