"""A training small enough for a test: 24 short rows, three intents, a tiny model."""

import json
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import Hyperparameters, Placement, PromptFormat, Technique, TrainRequest

MESSAGES = (
    ("my card was charged twice for one coffee", "duplicate_charge"),
    ("I lost my card on the train this morning", "lost_card"),
    ("please tell me how to change my address", "change_address"),
    ("charged two times", "duplicate_charge"),
    ("someone must have taken my card, it is not in my wallet since we came back from the market yesterday", "lost_card"),
    ("I moved", "change_address"),
)

Rows = tuple[tuple[str, str, str], ...]
"""Id, prompt, completion."""

ROWS: Rows = tuple(
    (f"row{turn}-{place}", prompt + "!" * turn, answer) for turn in range(4) for place, (prompt, answer) in enumerate(MESSAGES)
)


class Recorder(Reporter):
    """Remembers what a program told the world."""

    def __init__(self) -> None:
        super().__init__(None)
        self.steps: list[tuple[int, int, str, dict[str, float]]] = []
        self.lines: list[str] = []

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        self.steps.append((done, total, what, numbers))

    def log(self, message: str) -> None:
        self.lines.append(message)


def write_rows(path: Path, rows: Rows = ROWS) -> Path:
    lines = [json.dumps({"id": id, "prompt": prompt, "completion": completion}) for id, prompt, completion in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train_request(
    output: Path,
    *,
    model: Path,
    train: Path,
    technique: Technique | None = None,
    placement: Placement | None = None,
    **hyperparameters: Any,
) -> TrainRequest:
    """LoRA on one thread for two epochs of three steps, unless said otherwise."""
    output.mkdir(exist_ok=True)
    usual: dict[str, Any] = {"learning_rate": 1e-2, "epochs": 2.0, "effective_batch": 8, "max_length": 96}
    return TrainRequest(
        output=str(output),
        model=str(model),
        train=str(train),
        validation=str(train),
        format=PromptFormat(),
        technique=technique or Technique(type="lora", rank=8),
        hyperparameters=Hyperparameters(**usual | hyperparameters),
        placement=placement or Placement(micro_batch=4, threads=1),
    )


def preflight_request(request: TrainRequest) -> PreflightRequest:
    """The preflight of a training."""
    names = [name for name in PreflightRequest.model_fields if name in TrainRequest.model_fields and name != "validation"]
    return PreflightRequest(**{name: getattr(request, name) for name in names})
