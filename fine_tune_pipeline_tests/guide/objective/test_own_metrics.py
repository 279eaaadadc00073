from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.objective.criteria import objective_problems
from fine_tune_pipeline.guide.objective.metrics import allowed_metrics, metric_named, score_one
from fine_tune_pipeline.guide.objective.own_metrics import BadScore, MetricFailed, MissingMetric, own_code, scored_with
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.spec.objective import OwnMetric
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline_tests.guide.objective.use_cases import use_case

ROW = Example("r7", "Is my card lost?", "yes", metadata={"channel": "mail"})


def with_metric(folder: Path, code: str | None, **declared: Any) -> UseCaseSpec:
    """A use case with a metric `polite`, and its code beside it."""
    place = folder / "metrics" / "polite"
    place.mkdir(parents=True, exist_ok=True)
    if code is not None:
        (place / "polite.py").write_text(code, encoding="utf-8")
    return use_case(folder, metrics=[{"name": "polite", "better": "higher", "about": "says please", **declared}])


def score(spec: UseCaseSpec, prediction: str = "please") -> float:
    return score_one(prediction, "yes", task=read_task(spec), metrics=["polite"], example=ROW)["polite"]


GOOD = "def score_one(prediction, reference, example):\n    return float('please' in prediction)\n"


def test_a_metric_in_the_use_case_scores_like_any_other(tmp_path: Path):
    spec = with_metric(tmp_path, GOOD, binary=True)
    task = read_task(spec)
    assert [score(spec, text) for text in ("please wait", "wait")] == [1.0, 0.0]
    assert "polite" in allowed_metrics(task)
    metric = metric_named("polite", task)
    assert (metric.low, metric.high, metric.better, metric.binary, metric.about) == (0, 1, "higher", True, "says please")
    assert objective_problems(spec.objective, task, held_out_rows=None) == []


def test_it_sees_the_whole_row(tmp_path: Path):
    code = "def score_one(prediction, reference, example):\n    return len(example['prompt']) + len(example['metadata']['channel'])\n"
    assert score(with_metric(tmp_path, code, high=100.0)) == len(ROW.prompt) + len("mail")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, r"polite\.py is not there; want a Python file with score_one"),
        ("def score(a, b, c):\n    return 1\n", "has no function score_one"),
        ("import nothing_of_that_name\n", "cannot be imported .ModuleNotFoundError"),
        ("def score_one(:\n", "cannot be imported .SyntaxError"),
    ],
)
def test_a_metric_that_cannot_be_loaded_is_refused_before_anything_runs(tmp_path: Path, code: str | None, said: str):
    spec = with_metric(tmp_path, code)
    with pytest.raises(MissingMetric, match=said):
        score(spec)
    (problem,) = objective_problems(spec.objective, read_task(spec), held_out_rows=None)
    assert problem.startswith("objective.metrics (polite): ")


def test_an_error_in_the_function_names_the_row(tmp_path: Path):
    code = "def score_one(prediction, reference, example):\n    return 1 / 0\n"
    with pytest.raises(MetricFailed, match=r"score_one failed on row r7 \(ZeroDivisionError: division by zero\)"):
        score(with_metric(tmp_path, code))


@pytest.mark.parametrize(
    ("value", "declared"), [("float('nan')", {}), ("1.5", {}), ("'high'", {}), ("None", {}), ("0.5", {"binary": True})]
)
def test_a_score_outside_the_declared_range_names_the_row(tmp_path: Path, value: str, declared: dict[str, Any]):
    code = f"def score_one(prediction, reference, example):\n    return {value}\n"
    with pytest.raises(BadScore, match="for row r7, want"):
        score(with_metric(tmp_path, code, **declared))


def test_the_name_of_a_built_in_metric_is_taken(tmp_path: Path):
    (tmp_path / "metrics" / "field_f1").mkdir(parents=True)
    (tmp_path / "metrics" / "field_f1" / "field_f1.py").write_text(GOOD, encoding="utf-8")
    spec = use_case(tmp_path, metrics=[{"name": "field_f1", "better": "higher", "about": "x"}])
    (problem,) = objective_problems(spec.objective, read_task(spec), held_out_rows=None)
    assert "field_f1 is a metric of its own already" in problem
    assert "give yours another name" in problem


def test_its_code_and_declaration_belong_to_the_fingerprint_of_scores(tmp_path: Path):
    spec = with_metric(tmp_path, GOOD)
    before = own_code(spec)
    assert set(scored_with(spec)) == {"objective.metrics", "own_metrics_sha256"}
    (tmp_path / "metrics" / "polite" / "words.txt").write_text("please", encoding="utf-8")
    assert own_code(spec) != before
    assert scored_with(use_case(tmp_path)) == {}


@pytest.mark.parametrize(
    ("declared", "said"), [({"low": 1.0, "high": 1.0}, "want low below high"), ({"binary": True, "high": 5.0}, "a binary metric is 0 or 1")]
)
def test_a_range_that_holds_nothing_is_refused(declared: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        OwnMetric.model_validate({"name": "polite", "better": "higher", "about": "x", **declared})
