"""A search small enough for a test: the small training, whose first rung is too short to learn much."""

import os
import signal
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.requests import AnswerScoring, CheckpointPolicy
from fine_tune_pipeline.programs.search_requests import Dimension, SearchRequest
from fine_tune_pipeline_tests.small_training import train_request

LABELS = ["duplicate_charge", "lost_card", "change_address"]

SCORING = AnswerScoring(
    function="fine_tune_pipeline.guide.objective.metrics:scorer",
    settings={"task": {"type": "classification", "labels": LABELS, "schema": None}, "metric": "exact_match"},
    max_new_tokens=16,
    higher_is_better=True,
)

SPACE = (
    Dimension(name="learning_rate", default=1e-3, low=5e-4, high=2e-2),
    Dimension(name="rank", default=8, values=(2, 8)),
)
"""The default rate is far too low."""


def search_request(output: Path, *, model: Path, data: Path, **more: Any) -> SearchRequest:
    """Three trials of four epochs, of which the first rung is a half."""
    output.mkdir(exist_ok=True)
    plan = train_request(output, model=model, train=data, learning_rate=1e-3, epochs=4.0)
    usual: dict[str, Any] = {
        "plan": plan,
        "space": SPACE,
        "trials": 3,
        "rungs": (0.5, 1.0),
        "keep": 0.25,
        "seed": 0,
        "scoring": SCORING,
        "rows": 12,
        "level": 0.95,
        "predicted_seconds": 10.0,
        "checkpoints": CheckpointPolicy(steps=2),
    }
    return SearchRequest(output=str(output), **usual | more)


def searched(path: str, *, die_at: str = "") -> None:
    """As the program does on the request in a file; SIGKILL at a line of the log that has `die_at` in it, or after writing such a file."""
    import sys

    from fine_tune_pipeline.programs import search
    from fine_tune_pipeline.programs.contracts import Contract
    from fine_tune_pipeline.programs.reporting import Reporter

    sys.argv = ["search", "--request", path]
    log, write = Reporter.log, Contract.write

    def die(said: str) -> None:
        if die_at and die_at in said:
            os.kill(os.getpid(), signal.SIGKILL)

    def logged(self: Reporter, message: str) -> None:
        log(self, message)
        die(message)

    def written(self: Contract, place: str | Path) -> None:
        write(self, place)
        die(f"{'/'.join(Path(place).parts[-3:])} {type(self).__name__}")

    Reporter.log, Contract.write = logged, written  # type: ignore[method-assign]
    search.main()
