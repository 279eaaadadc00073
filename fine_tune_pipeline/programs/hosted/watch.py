"""What is heard of a job while it runs: its states, its messages, and its losses as points of the curve."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.training.tracked_run import TrackedRun

_STEP = re.compile(r"^Step (?P<step>\d+)(?:/(?P<total_steps>\d+))?: (?P<rest>.*)$", re.IGNORECASE)
_LOSS = re.compile(r"(?P<name>training loss|validation loss|full validation loss)=(?P<value>[-+.\deE]+)", re.IGNORECASE)
_NAMES = {"training loss": "train_loss", "validation loss": "valid_loss", "full validation loss": "full_valid_loss"}


class JobWatch:
    """Hears a job's events. `points` are its training losses, `validation_losses` (step, loss), both in the order of the steps."""

    def __init__(self, curve: Path, *, reporter: Reporter, tracked: TrackedRun | None) -> None:
        """
        Args:
            curve: JSONL file of step, loss and whatever else the provider measured.
        """
        self.points: list[tuple[int, float]] = []
        self.validation_losses: list[tuple[int, float]] = []
        self._reporter = reporter
        self._tracked = tracked
        self._status = ""
        self._curve = curve
        # Old points come again when a running job is adopted.
        curve.write_text("", encoding="utf-8")

    def hear(self, job: FineTuningJob, events: list[FineTuningJobEvent]) -> None:
        """Tell what is new, oldest first."""
        for event in events:
            numbers = numbers_of(event)
            if numbers:
                self._measured(numbers)
            else:
                self._reporter.log(f"{job.id}: {event.message}")
        if job.status != self._status:
            self._status = job.status
            self._reporter.log(f"{job.id} is {job.status}")

    def _measured(self, numbers: Mapping[str, float]) -> None:
        step, total = int(numbers["step"]), int(numbers.get("total_steps", 0))
        measured = {name: value for name, value in numbers.items() if name not in ("step", "total_steps")}
        shown = {_shown(name): value for name, value in measured.items()}
        if "loss" in shown:
            self.points.append((step, shown["loss"]))
            with self._curve.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step, **shown}) + "\n")
        if "validation_loss" in shown:
            self.validation_losses.append((step, shown["validation_loss"]))
        if self._tracked is not None:
            self._tracked.numbers(step, shown)
        self._reporter.progress(step, max(step, total), "training", **shown)


def numbers_of(event: FineTuningJobEvent) -> dict[str, float]:
    """The numbers of an event of type `metrics`; of a message such as `Step 5/90: training loss=0.31` where there are no such events."""
    data = event.data if isinstance(event.data, Mapping) else {}
    found = {name: float(value) for name, value in data.items() if _is_number(value)}
    if "step" in found and len(found) > 1:
        return found
    line = _STEP.match(event.message)
    if line is None:
        return {}
    losses = {_NAMES[loss["name"].lower()]: float(loss["value"]) for loss in _LOSS.finditer(line["rest"])}
    counted = {name: float(line[name]) for name in ("step", "total_steps") if line[name]}
    return {**counted, **losses} if losses else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(name: str) -> str:
    """As our own trainings call it."""
    return {"train_loss": "loss", "valid_loss": "validation_loss", "full_valid_loss": "full_validation_loss"}.get(name, name)
