"""Ending a training that gets no better any more, with the weights of where it was best.

What is decided follows from the looks alone (step and figure), which every checkpoint holds; the best weights are one file, and every
checkpoint keeps it as it was then. So a break changes nothing, whenever it comes.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fine_tune_pipeline.artifacts.taking import linked
from fine_tune_pipeline.programs.requests import EarlyStopping

BEST = "best.safetensors"

Looks = Sequence[tuple[int, float]]
"""Step and figure, from the first on."""


class EnoughLearned(Exception):
    """Raised out of a training that gets no better; what was learned by then is whole."""


class BestNotKept(OSError):
    """There is no room for the best weights, without which stopping early makes no sense."""


class Standing(NamedTuple):
    """The best look, and how many came after it."""

    step: int
    best: float
    without_gain: int


def standing(looks: Looks, *, higher_is_better: bool, min_delta: float) -> Standing:
    """Of all looks so far, at least one. A figure that is no number is no gain."""
    sign = 1.0 if higher_is_better else -1.0
    place, best = 0, looks[0][1]
    for number, (_, figure) in enumerate(looks):
        gain = sign * (figure - best)
        if gain > min_delta or (math.isfinite(figure) and not math.isfinite(best)):
            place, best = number, figure
    return Standing(looks[place][0], best, len(looks) - 1 - place)


class BestWeights:
    """Everything that learns, as it was at the best look: a file of its own, which checkpoints share."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, model: nn.Module) -> None:
        """As it is now; the file is the old one or the new one, never half of it.

        Raises:
            BestNotKept: the disk is full.
        """
        learned = {name: parameter.detach().contiguous() for name, parameter in _learning(model)}
        partial = self.path.with_name(self.path.name + ".partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(learned, str(partial))
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise BestNotKept(
                f"{self.path}: the best weights cannot be written ({error}); make room there and start again, which goes on from the last "
                "checkpoint, or leave training.early_stopping out"
            ) from error
        os.replace(partial, self.path)

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Give the model back what it was at the best look."""
        kept = load_file(str(self.path))
        for name, parameter in _learning(model):
            parameter.copy_(kept[name])

    def copy_to(self, checkpoint: Path) -> None:
        """Into a checkpoint: the same file under another name, where the disk can do that."""
        if self.path.exists():
            linked(self.path, checkpoint / BEST)

    def take_from(self, checkpoint: Path | None) -> None:
        """As it was at a checkpoint; without one there is none yet."""
        self.path.unlink(missing_ok=True)
        if checkpoint is not None and (checkpoint / BEST).exists():
            linked(checkpoint / BEST, self.path)


def _learning(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


class Stopping:
    """Judges a training by its looks.

    Args:
        score: of the answers that the model gives now; None when the validation loss is what counts.
        scores: looks of an earlier try.
        say: hears of every score.
    """

    def __init__(
        self,
        wanted: EarlyStopping,
        weights: BestWeights,
        *,
        score: Callable[[], float] | None,
        higher_is_better: bool,
        scores: Looks,
        say: Callable[[str], None],
    ) -> None:
        self.scores = list(scores)
        self.weights = weights
        self._wanted = wanted
        self._score = score
        self._higher_is_better = higher_is_better
        self._say = say

    def looked(self, model: nn.Module, *, step: int, losses: Looks) -> dict[str, float]:
        """After a validation loss was measured: answer and score if that is asked for, and keep the weights if they are the best.

        Returns:
            What was measured here.

        Raises:
            Interrupted: see `Answers.score`.
        """
        found = {}
        if self._score is not None:
            score = self._score()
            self.scores.append((step, score))
            found[self._wanted.metric] = score
            self._say(f"{self._wanted.metric} {score:.4f} on a sample of validation rows after step {step}")
        if self.standing(losses).step == step:
            self.weights.keep(model)
        return found

    def standing(self, losses: Looks) -> Standing:
        """By the figure that counts."""
        looks = losses if self._score is None else self.scores
        return standing(looks, higher_is_better=self._higher_is_better, min_delta=self._wanted.min_delta)

    def judge(self, *, step: int, last: int, losses: Looks) -> None:
        """Whether to go on.

        Raises:
            EnoughLearned: as many looks as the patience says were no gain.
        """
        if step < last and self.standing(losses).without_gain >= self._wanted.patience:
            raise EnoughLearned(self.outcome(step=step, last=last, losses=losses))

    def outcome(self, *, step: int, last: int, losses: Looks) -> str:
        """In words, where it ended and why, and where it was best."""
        now = self.standing(losses)
        best = f"{self._wanted.metric} was best after step {now.step} ({now.best:.4f}), and that is kept"
        if step >= last:
            return f"trained to step {step}, the last; {best}"
        return f"stopped after step {step} of {last}: {now.without_gain} looks without a gain above {self._wanted.min_delta:g}; {best}"
