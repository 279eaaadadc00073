from math import inf, nan

import pytest

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.guide.training.adapter import falling, kept_rows, loss_picture, range_test_picture, run_link
from fine_tune_pipeline.programs.requests import Tracking, TrainResult


def result(*losses: float, first: float = 4.0, final: float = 1.0) -> TrainResult:
    return TrainResult(
        adapter="adapter",
        adapter_sha256="0",
        steps=10,
        rows=100,
        tokens=1000,
        labelled_tokens=300,
        seconds=10.0,
        tokens_per_second=100.0,
        first_loss=first,
        final_loss=final,
        validation_losses=tuple((step * 5, loss) for step, loss in enumerate(losses)),
        peak_memory_bytes=1,
        trainable_parameters=5,
        curve="curve.jsonl",
    )


@pytest.mark.parametrize(
    ("found", "passed", "said"),
    [
        (result(4.0, 2.0, 1.0), True, "4.0000 before training, 1.0000 after 10 steps"),
        (result(4.0, 1.0, 3.9), True, "3.9000 after"),
        (result(4.0, 4.0), False, "it did not fall"),
        (result(4.0, 5.0), False, "it did not fall: lower training.learning_rate"),
        (result(4.0, nan), False, "a loss is not a number"),
        (result(4.0, 1.0, final=inf), False, "a loss is not a number"),
    ],
)
def test_the_validation_loss_must_be_finite_and_fall(found, passed, said):
    check = falling(found)
    assert check.passed is passed
    assert check.blocking
    assert said in check.description


def test_what_counts_after_early_stopping_are_the_weights_that_are_kept():
    risen = result(4.0, 1.0, 5.0)
    assert not falling(risen).passed
    kept = falling(risen.model_copy(update={"best_step": 5}))
    assert kept.passed
    assert "4.0000 before training, 1.0000 after 5 steps" in kept.description


def test_over_long_rows_are_left_out_and_the_others_kept_whole(tmp_path):
    rows = [{"id": str(number), "prompt": "p", "completion": "c"} for number in range(4)]
    write_rows(tmp_path / "train.jsonl", rows)
    kept = kept_rows(tmp_path / "train.jsonl", tmp_path / "kept.jsonl", left_out=["1", "3"])
    assert read_rows(kept) == [rows[0], rows[2]]
    assert kept_rows(tmp_path / "train.jsonl", tmp_path / "same.jsonl", left_out=[]) == tmp_path / "train.jsonl"


@pytest.mark.parametrize(
    ("uri", "run_id", "said"),
    [
        ("http://mlflow:5000/", "abc", "[triage 1](http://mlflow:5000/#/runs/abc)"),
        ("sqlite:///mlflow.db", "abc", "`mlflow ui --backend-store-uri sqlite:///mlflow.db`"),
        ("sqlite:///mlflow.db", None, "not tracked"),
    ],
)
def test_the_mlflow_run_can_be_found(uri, run_id, said):
    assert said in run_link(Tracking(uri=uri, experiment="triage", run_name="triage 1"), run_id)


def test_a_range_test_is_shown_with_its_rate_and_why():
    points = [{"learning_rate": 10.0**-power, "loss": nan if power == 1 else 2.0, "smoothed": 2.0} for power in (4, 3, 2, 1)]
    shown = range_test_picture({"learning_rate": 1e-3, "why": "a tenth of 0.01", "points": points})
    assert shown.startswith("learning rate 0.001: a tenth of 0.01")
    assert "data:image/svg+xml" in shown
    assert range_test_picture({"learning_rate": 1e-3, "why": "as planned", "points": []}) == "learning rate 0.001: as planned"


def test_losses_that_are_no_numbers_are_left_out_of_the_picture():
    curve = [{"step": 1, "loss": nan}, {"step": 2, "loss": 1.0}]
    assert "data:image/svg+xml" in loss_picture(curve, result(4.0, nan))
    assert loss_picture([{"step": 1, "loss": nan}], result(nan)) == "no finite loss"
