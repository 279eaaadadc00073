"""Training ends when it gets no better, keeps the best, and is the same training after every break."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from fine_tune_pipeline.guide.objective.metrics import scorer
from fine_tune_pipeline.programs import predict, train
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline.programs.requests import (
    AnswerScoring,
    CheckpointPolicy,
    EarlyStopping,
    Placement,
    PredictJob,
    PredictRequest,
    PromptFormat,
    Technique,
    TrainRequest,
    TrainResult,
)
from fine_tune_pipeline.programs.training import early_stopping
from fine_tune_pipeline.programs.training.early_stopping import standing
from fine_tune_pipeline.programs.training.preemption import Preempted, Preemption
from fine_tune_pipeline_tests.programs.training.killing import files_of, killed_at_random, started, train_to_the_end
from fine_tune_pipeline_tests.programs.training.own_forward import mean_loss
from fine_tune_pipeline_tests.small_training import ROWS, Recorder, train_request, write_rows

LABELS = ["duplicate_charge", "lost_card", "change_address"]

OTHER = {"duplicate_charge": "lost_card", "lost_card": "lost_card", "change_address": "change_address"}
"""Some answers of the validation rows contradict what is learned, so that its loss falls first and rises then."""

HELD_OUT = tuple((id, prompt, OTHER[answer]) for id, prompt, answer in ROWS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "validation.jsonl", HELD_OUT)
    return write_rows(folder / "train.jsonl")


@pytest.fixture
def ask(model: Path, data: Path, tmp_path: Path) -> Callable[..., TrainRequest]:
    def request(
        name: str, *, stopping: EarlyStopping | None, policy: CheckpointPolicy | None = None, validation: str = "validation", **numbers: Any
    ) -> TrainRequest:
        usual: dict[str, Any] = {"technique": Technique(type="lora", rank=8, dropout=0.1), "epochs": 12.0}
        asked = train_request(
            tmp_path / name,
            model=model,
            train=data,
            placement=Placement(micro_batch=4, threads=1),
            early_stopping=stopping,
            **usual | numbers,
        )
        changed = {"validation": str(data.with_name(f"{validation}.jsonl")), "checkpoints": policy or CheckpointPolicy(steps=1)}
        return asked.model_copy(update=changed)

    return request


LOSS = EarlyStopping(metric="validation_loss", patience=3, min_delta=0.0, rows=1)


@pytest.mark.parametrize(
    ("figures", "higher", "least", "wanted"),
    [
        ([5.0], False, 0.0, (0, 5.0, 0)),
        ([5.0, 4.0, 3.0], False, 0.0, (2, 3.0, 0)),
        ([5.0, 4.0, 4.0, 4.5], False, 0.0, (1, 4.0, 2)),
        ([5.0, 4.0, 3.9, 3.8, 3.4], False, 0.5, (4, 3.4, 0)),
        ([5.0, 4.0, 3.9, 3.8], False, 0.5, (1, 4.0, 2)),
        ([0.1, 0.3, 0.2], True, 0.0, (1, 0.3, 1)),
        ([0.1, 0.05, 0.0], True, 0.0, (0, 0.1, 2)),
        ([float("nan"), 4.0, float("nan"), float("inf")], False, 0.0, (1, 4.0, 2)),
        ([float("nan"), float("nan")], False, 0.0, (0, None, 1)),
    ],
)
def test_the_best_look_and_how_many_came_after_it(figures: list[float], higher: bool, least: float, wanted: tuple[int, float | None, int]):
    step, best, without_gain = standing(list(enumerate(figures)), higher_is_better=higher, min_delta=least)
    assert (step, without_gain) == (wanted[0], wanted[2])
    assert wanted[1] is None or best == wanted[1]


@pytest.mark.parametrize("technique", [Technique(type="lora", rank=8), Technique(type="full")], ids=["lora", "full"])
def test_it_stops_after_its_patience_and_keeps_the_best_weights(technique: Technique, ask: Callable[..., TrainRequest], model: Path):
    numbers = {"technique": technique, "learning_rate": 1e-2 if technique.type == "lora" else 1e-3}
    result = train.run(ask("stopped", stopping=LOSS, **numbers), Recorder())
    whole = train.run(ask("whole", stopping=None, **numbers), Recorder())
    looks = whole.validation_losses
    assert result.validation_losses == looks[: len(result.validation_losses)]
    best = min(result.validation_losses, key=lambda look: look[1])
    assert result.best_step == best[0]
    assert result.validation_losses[-4][0] == best[0]
    assert result.steps == result.validation_losses[-1][0] < whole.steps == 36
    assert result.outcome.startswith(f"stopped after step {result.steps} of 36: 3 looks without a gain above 0; validation_loss was best")
    assert result.kept_loss == best[1] < looks[-1][1]
    assert mean_loss(load_model(model, adapter=result.adapter), model=model, rows=HELD_OUT) == pytest.approx(best[1], rel=1e-4)


def test_without_a_reason_to_stop_it_trains_to_the_end_as_it_would_without(ask: Callable[..., TrainRequest]):
    numbers = {"epochs": 2.0, "validation": "train"}
    result = train.run(ask("watched", stopping=LOSS, **numbers), Recorder())
    whole = train.run(ask("whole", stopping=None, **numbers), Recorder())
    assert (result.adapter_sha256, result.best_step) == (whole.adapter_sha256, 6)
    assert result.outcome.startswith("trained to step 6, the last; validation_loss was best after step 6")
    assert whole.outcome == ""


def learned(result: TrainResult) -> tuple[Any, ...]:
    """What a break must not change."""
    points = [json.loads(line) for line in Path(result.curve).read_text(encoding="utf-8").splitlines()]
    losses = [(point["step"], point["loss"], point["learning_rate"]) for point in points]
    return result.adapter_sha256, losses, result.validation_losses, result.scores, result.best_step, result.outcome, result.passes


class EndsAfter(Recorder):
    def __init__(self, step: int, preemption: Preemption) -> None:
        super().__init__()
        self._step, self._preemption = step, preemption

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        self._preemption.asked = done >= self._step


class EndsAtLook(Recorder):
    """Asks for the end while a look is made: the line comes when the loss is known and the answers are not yet scored."""

    def __init__(self, step: int, preemption: Preemption) -> None:
        super().__init__()
        self._step, self._preemption = step, preemption

    def log(self, message: str) -> None:
        super().log(message)
        if message.endswith(f"after step {self._step}"):
            self._preemption.asked = True


ANSWERS = EarlyStopping(metric="exact_match", patience=3, min_delta=0.0, rows=12)

SCORING = AnswerScoring(
    function="fine_tune_pipeline.guide.objective.metrics:scorer",
    settings={"task": {"type": "classification", "labels": LABELS, "schema": None}, "metric": "exact_match"},
    max_new_tokens=16,
    higher_is_better=True,
)


def scored(request: TrainRequest) -> TrainRequest:
    return request.model_copy(update={"answers": SCORING})


@pytest.fixture(scope="module")
def wholes() -> dict[str, TrainResult]:
    """Trainings that were not broken off, by their metric."""
    return {}


@pytest.mark.parametrize(
    ("metric", "after", "listener", "policy"),
    [
        ("loss", "best", EndsAfter, CheckpointPolicy()),
        ("loss", "best", EndsAtLook, CheckpointPolicy(steps=1)),
        ("loss", "last", EndsAfter, CheckpointPolicy(steps=1)),
        ("answers", "best", EndsAtLook, CheckpointPolicy()),
        ("answers", "one before the last", EndsAfter, CheckpointPolicy(steps=1)),
    ],
)
def test_a_preempted_training_goes_on_bit_by_bit_and_stops_at_the_same_step(
    metric: str,
    after: str,
    listener: type[EndsAfter] | type[EndsAtLook],
    policy: CheckpointPolicy,
    ask: Callable[..., TrainRequest],
    wholes: dict[str, TrainResult],
):
    def asked(name: str) -> TrainRequest:
        return ask(name, stopping=LOSS, policy=policy) if metric == "loss" else scored(ask(name, stopping=ANSWERS, policy=policy))

    if metric not in wholes:
        wholes[metric] = train.run(asked("whole"), Recorder())
    whole = wholes[metric]
    assert whole.best_step is not None
    step = {"best": whole.best_step, "one before the last": whole.steps - 1, "last": whole.steps}[after]
    preemption = Preemption()
    request = asked("broken")
    with pytest.raises(Preempted):
        train.run(request, listener(step, preemption), preemption)
    assert any(name.isdigit() for name in files_of(Path(request.output) / "checkpoints"))
    assert learned(train.run(request, Recorder())) == learned(whole)


def test_kills_at_random_moments_change_nothing(ask: Callable[..., TrainRequest]):
    request = ask("killed", stopping=LOSS)
    output = Path(request.output)
    request.write(output / "request.json")
    killed_at_random(output, times=5, most_steps=3)
    process = started(train_to_the_end, str(output / "request.json"))
    process.join()
    assert process.exitcode == 0
    result = TrainResult.read(output / "result.json")
    assert learned(result) == learned(train.run(ask("whole", stopping=LOSS), Recorder()))
    assert result.continued_from
    assert files_of(output) == ["adapter", "curve.jsonl", "request.json", "result.json"]


def test_the_score_is_that_of_the_predict_program_on_the_kept_adapter(ask: Callable[..., TrainRequest], model: Path, tmp_path: Path):
    wanted = ANSWERS.model_copy(update={"rows": len(ROWS)})
    recorder = Recorder()
    result = train.run(scored(ask("scored", stopping=wanted, validation="train", epochs=6.0)), recorder)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": id, "prompt": prompt}) + "\n" for id, prompt, _ in ROWS), encoding="utf-8")
    job = PredictJob(
        name="tuned",
        prompts=str(prompts),
        output=str(tmp_path / "answers.jsonl"),
        format=PromptFormat(),
        adapter=result.adapter,
        max_new_tokens=16,
    )
    (tmp_path / "predict").mkdir()
    predict.run(PredictRequest(output=str(tmp_path / "predict"), model=str(model), jobs=(job,), threads=1), Recorder())
    answers = [json.loads(line)["text"] for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    score = scorer(SCORING.settings)
    mean = sum(score(answer, right) for answer, (_, _, right) in zip(answers, ROWS, strict=True)) / len(ROWS)
    assert dict(result.scores)[result.best_step or 0] == pytest.approx(mean)
    assert mean > result.scores[0][1]
    assert f"exact_match {mean:.4f} on a sample of validation rows after step {result.best_step}" in recorder.lines
    assert [step for step, _ in result.scores] == [step for step, _ in result.validation_losses]


def test_a_full_disk_says_what_to_do_and_keeps_the_best_before(ask: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch):
    written: list[str] = []
    save = early_stopping.save_file

    def full(tensors: dict[str, torch.Tensor], path: str) -> None:
        if len(written) == 2:
            Path(path).write_bytes(b"half")
            raise SafetensorError("No space left on device")
        written.append(path)
        save(tensors, path)

    monkeypatch.setattr(early_stopping, "save_file", full)
    request = ask("full", stopping=LOSS)
    with pytest.raises(early_stopping.BestNotKept, match=r"cannot be written \(No space left on device\); make room there"):
        train.run(request, Recorder())
    assert "best.safetensors.partial" not in files_of(Path(request.output) / "checkpoints")
    monkeypatch.setattr(early_stopping, "save_file", save)
    assert learned(train.run(request, Recorder())) == learned(train.run(ask("whole", stopping=LOSS), Recorder()))


def test_answering_in_between_does_not_change_what_is_learned(ask: Callable[..., TrainRequest]):
    patient = ANSWERS.model_copy(update={"patience": 100})
    watched = train.run(scored(ask("watched", stopping=patient, epochs=2.0)), Recorder())
    whole = train.run(ask("whole", stopping=None, epochs=2.0), Recorder())
    assert watched.validation_losses == whole.validation_losses
    assert watched.final_loss == whole.final_loss
