import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.exit_codes import PREEMPTED
from fine_tune_pipeline.programs.models import load_model, load_tokenizer, weights_sha256
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import Placement, PromptFormat, Technique, Tracking, TrainRequest, TrainResult
from fine_tune_pipeline.programs.training import attempt
from fine_tune_pipeline.programs.training.batches import NoLabelledTokens, RowsTooLong
from fine_tune_pipeline.programs.training.curve import Validation
from fine_tune_pipeline.programs.training.preemption import Preempted, Preemption
from fine_tune_pipeline.programs.training.progress import Progress
from fine_tune_pipeline.programs.training.steadiness import Diverged
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer
from fine_tune_pipeline_tests.programs.launching import launch
from fine_tune_pipeline_tests.programs.training.own_forward import mean_loss
from fine_tune_pipeline_tests.small_training import ROWS, Recorder, train_request, write_rows
from fine_tune_pipeline_tests.waiting import wait_until


@pytest.fixture(scope="module")
def trained(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, Recorder]:
    """Four epochs of LoRA, looked at by several tests."""
    recorder = Recorder()
    request = train_request(tmp_path_factory.mktemp("output"), model=model, train=data, epochs=4.0)
    return train.run(request, recorder), recorder


def curve_of(result: TrainResult) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(result.curve).read_text(encoding="utf-8").splitlines()]


def test_the_loss_falls_and_the_adapter_is_what_the_result_says(trained: tuple[TrainResult, Recorder]):
    result, _ = trained
    assert result.final_loss < 0.7 * result.first_loss
    assert result.adapter_sha256 == weights_sha256(result.adapter)
    assert sorted(path.name for path in Path(result.adapter).parent.iterdir()) == ["adapter", "curve.jsonl"]


def test_every_step_is_in_the_curve_and_is_reported(trained: tuple[TrainResult, Recorder]):
    result, recorder = trained
    curve = curve_of(result)
    assert result.steps == 12
    assert [point["step"] for point in curve] == list(range(1, 13))
    assert curve[0].keys() == {
        "step", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "padding_share", "memory_bytes",
    }  # fmt: skip
    assert curve[0]["loss"] == result.first_loss
    assert max(point["learning_rate"] for point in curve) == pytest.approx(1e-2)
    assert [step[:3] for step in recorder.steps] == [(step, 12, "training") for step in range(1, 13)]
    assert recorder.steps[3][3].keys() == {
        "loss", "learning_rate", "gradient_norm", "tokens_per_second", "padding_share", "memory_gib", "eta_seconds",
    }  # fmt: skip
    assert recorder.steps[-1][3]["eta_seconds"] == 0.0
    assert recorder.steps[3][3]["gradient_norm"] > 0
    assert recorder.steps[3][3]["loss"] == curve[3]["loss"]


def test_real_tokens_of_all_epochs_are_counted(trained: tuple[TrainResult, Recorder], model: Path):
    result, _ = trained
    tokenizer = load_tokenizer(model)
    encoded = [encode(prompt, completion, tokenizer=tokenizer, format=PromptFormat()) for _, prompt, completion in ROWS]
    assert result.tokens == 4 * sum(len(row.prompt_ids) + len(row.completion_ids) for row in encoded)
    assert result.labelled_tokens == 4 * sum(len(row.completion_ids) for row in encoded)
    assert result.tokens_per_second == pytest.approx(result.tokens / result.seconds)


def test_validation_is_measured_before_in_every_epoch_and_at_the_end_and_as_transformers_does(
    trained: tuple[TrainResult, Recorder], model: Path
):
    result, _ = trained
    steps = [step for step, _ in result.validation_losses]
    assert steps[0] == 0
    assert steps[-1] == 12
    assert len(steps) >= 1 + 4 * 3
    assert result.validation_losses[0][1] == pytest.approx(mean_loss(load_model(model), model=model), rel=1e-4)
    tuned = load_model(model, adapter=result.adapter)
    assert result.validation_losses[-1][1] == pytest.approx(mean_loss(tuned, model=model), rel=1e-4)


def test_the_validation_sample_grows_with_the_training_and_stays_the_same():
    rows = list(range(400))
    sizes = {}
    for training_rows in (10, 1500, 2400, 100_000):
        sample = Validation([Stub(place) for place in rows], training_rows=training_rows)  # type: ignore[misc]
        again = Validation([Stub(place) for place in rows], training_rows=training_rows)  # type: ignore[misc]
        assert sample.rows == again.rows
        sizes[training_rows] = len(sample.rows)
    assert sizes == {10: 64, 1500: 64, 2400: 100, 100_000: 400}


class Stub:
    """A row of which only the length matters."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stub) and self.length == other.length


def test_the_same_request_gives_the_same_adapter_and_another_seed_another(model: Path, data: Path, tmp_path: Path):
    hashes = [
        train.run(train_request(tmp_path / name, model=model, train=data, seed=seed), Recorder()).adapter_sha256
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    ]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def test_the_micro_batch_changes_the_speed_and_not_the_losses(model: Path, data: Path, tmp_path: Path):
    curves = [
        [
            point["loss"]
            for point in curve_of(
                train.run(
                    train_request(tmp_path / str(size), model=model, train=data, placement=Placement(micro_batch=size, threads=1)),
                    Recorder(),
                )
            )
        ]
        for size in (8, 3)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


@pytest.mark.parametrize(
    ("technique", "placement", "rate"),
    [
        (Technique(type="full"), Placement(micro_batch=8, threads=1), 1e-3),
        (Technique(type="qlora", rank=8), Placement(micro_batch=8, threads=1), 1e-2),
        (Technique(type="lora", rank=8), Placement(micro_batch=8, threads=1, dtype="bfloat16"), 1e-2),
        (Technique(type="qlora", rank=8), Placement(micro_batch=8, threads=1, dtype="bfloat16"), 1e-2),
        (Technique(type="full"), Placement(micro_batch=8, threads=1, dtype="bfloat16"), 1e-3),
        (Technique(type="lora", rank=8, dropout=0.1), Placement(micro_batch=8, threads=1, gradient_checkpointing=True), 1e-2),
    ],
    ids=["full", "qlora nf4", "lora bfloat16", "qlora bfloat16", "full bfloat16", "lora dropout checkpointing"],
)
def test_every_technique_learns(technique: Technique, placement: Placement, rate: float, model: Path, data: Path, tmp_path: Path):
    request = train_request(tmp_path, model=model, train=data, technique=technique, placement=placement, learning_rate=rate, epochs=4.0)
    result = train.run(request, Recorder())
    assert result.final_loss < 0.7 * result.first_loss
    assert result.validation_losses[-1][1] < 0.7 * result.validation_losses[0][1]


@pytest.mark.parametrize("technique", [Technique(type="lora", rank=4), Technique(type="full")], ids=["lora", "full"])
def test_what_is_loaded_again_is_what_was_trained(
    technique: Technique, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept: list[CompletionTrainer] = []
    build = attempt.build_trainer

    def keep(*arguments: Any, **options: Any) -> CompletionTrainer:
        kept.append(build(*arguments, **options))
        return kept[0]

    monkeypatch.setattr(attempt, "build_trainer", keep)
    result = train.run(train_request(tmp_path, model=model, train=data, technique=technique, learning_rate=1e-3), Recorder())
    network = kept[0].trained.eval()
    (network if technique.type == "full" else network.get_base_model()).set_attn_implementation("sdpa")
    ids = torch.tensor([[2, 40, 50, 60, 70]])
    with torch.no_grad():
        torch.testing.assert_close(load_model(model, adapter=result.adapter)(ids).logits, network(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (1.0, 3), (1.5, 5)])
def test_epochs_may_be_fractions(epochs: float, steps: int, model: Path, data: Path, tmp_path: Path):
    assert train.run(train_request(tmp_path, model=model, train=data, epochs=epochs), Recorder()).steps == steps


def test_a_row_that_is_too_long_stops_the_training_before_it_begins(model: Path, data: Path, tmp_path: Path):
    output = tmp_path / "output"
    with pytest.raises(RowsTooLong, match="row0-4, row1-4, row2-4, row3-4;"):
        train.run(train_request(output, model=model, train=data, max_length=64), Recorder())
    assert list(output.iterdir()) == []


def test_a_validation_row_that_is_too_long_is_told_with_its_file(model: Path, data: Path, tmp_path: Path):
    validation = write_rows(tmp_path / "validation.jsonl", (("short", "hello", "greeting"), ("long", "hello " * 40, "greeting")))
    request = train_request(tmp_path / "output", model=model, train=data).model_copy(update={"validation": str(validation)})
    with pytest.raises(RowsTooLong, match=r"/validation\.jsonl: 1 of 2 rows are longer than max_length 96 .*: long;"):
        train.run(request, Recorder())


def test_rows_with_nothing_to_learn_stop_it_too(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def mute(prompt: str, completion: str | None, **options: Any) -> Any:
        return encode(prompt, None, **options)

    monkeypatch.setattr("fine_tune_pipeline.programs.training.batches.encode", mute)
    with pytest.raises(NoLabelledTokens, match="24 of 24 rows have no token to learn from"):
        train.run(train_request(tmp_path / "output", model=model, train=data), Recorder())


def tracking(folder: Path) -> Tracking:
    return Tracking(uri=f"sqlite:///{folder}/mlflow.db", experiment="support", run_name="adapter", tags={"use_case": "support"})


def only_run(folder: Path) -> tuple[MlflowClient, Any]:
    client = MlflowClient(tracking_uri=tracking(folder).uri)
    experiment = client.get_experiment_by_name("support")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


@pytest.fixture
def mlflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MLflow puts the artifacts of a SQLite store under the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tracked(request: TrainRequest, folder: Path) -> TrainRequest:
    return request.model_copy(update={"tracking": tracking(folder)})


def test_mlflow_has_parameters_every_step_the_curve_and_the_adapter(model: Path, data: Path, mlflow_home: Path):
    result = train.run(tracked(train_request(mlflow_home / "output", model=model, train=data), mlflow_home), Recorder())
    client, run = only_run(mlflow_home)
    assert (run.info.run_id, run.info.status, run.info.run_name) == (result.mlflow_run_id, "FINISHED", "adapter")
    assert run.data.params["technique.rank"] == "8"
    assert run.data.params["hyperparameters.learning_rate"] == "0.01"
    assert run.data.tags["use_case"] == "support"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(point["step"], point["loss"]) for point in curve_of(result)]
    validation = client.get_metric_history(run.info.run_id, "validation_loss")
    assert [(metric.step, metric.value) for metric in validation] == list(result.validation_losses)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"adapter", "curve.jsonl"}
    assert {file.path for file in client.list_artifacts(run.info.run_id, "adapter")} >= {"adapter/adapter_model.safetensors"}


def test_a_failed_training_is_failed_in_mlflow_too_and_leaves_no_adapter(model: Path, data: Path, mlflow_home: Path):
    request = tracked(train_request(mlflow_home / "output", model=model, train=data, learning_rate=1e30), mlflow_home)
    with pytest.raises(Diverged):
        train.run(request, Recorder())
    assert only_run(mlflow_home)[1].info.status == "FAILED"
    assert [path.name for path in (mlflow_home / "output").iterdir()] == ["curve.jsonl"]


class Impatient(Recorder):
    """Someone who presses Ctrl-C after the second step."""

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        if done == 2:
            raise KeyboardInterrupt


def test_an_interrupted_training_is_killed_in_mlflow_with_what_it_had_measured(model: Path, data: Path, mlflow_home: Path):
    with pytest.raises(KeyboardInterrupt):
        train.run(tracked(train_request(mlflow_home / "output", model=model, train=data), mlflow_home), Impatient())
    client, run = only_run(mlflow_home)
    assert run.info.status == "KILLED"
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 2


def test_the_program_writes_its_result_and_asks_no_network(model: Path, data: Path, tmp_path: Path):
    result = TrainResult.read(launch(train_request(tmp_path, model=model, train=data)))
    assert result.adapter_sha256 == weights_sha256(result.adapter)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "curve.jsonl", "request.json", "result.json"]


def test_a_signal_before_the_first_step_is_whole_leaves_nothing(model: Path, data: Path, tmp_path: Path):
    preemption = Preemption()
    preemption.asked = True
    with pytest.raises(Preempted):
        train.run(train_request(tmp_path / "output", model=model, train=data), Recorder(), preemption)
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["curve.jsonl"]


def test_sigterm_ends_the_program_without_an_adapter_or_a_result_but_with_a_checkpoint(model: Path, data: Path, tmp_path: Path):
    request = train_request(tmp_path, model=model, train=data, epochs=10_000.0)
    asked = tmp_path / "request.json"
    request.write(asked)
    command = [sys.executable, "-m", request.module, "--request", str(asked)]
    with (tmp_path / "stderr").open("w") as stderr:
        program = subprocess.Popen(command, stderr=stderr, env={**os.environ, "OMP_NUM_THREADS": "1"})
    curve = tmp_path / "curve.jsonl"
    try:
        wait_until(
            lambda: program.poll() is not None or (curve.exists() and curve.stat().st_size), deadline_seconds=120, what="the first step"
        )
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=60) == PREEMPTED
    finally:
        program.kill()
        program.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "curve.jsonl", "request.json", "stderr"]
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    step = Progress.of(checkpoint).step
    assert f"preempted after step {step}: checkpoint {checkpoint} is written" in (tmp_path / "stderr").read_text(encoding="utf-8")
