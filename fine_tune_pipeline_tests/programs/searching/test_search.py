"""The program: what it finds, that it is the same search after every kill, its limits, its runs in MLflow."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fine_tune_pipeline.programs import search
from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.programs.search_requests import Base, Budget, Dimension, RecipeRows, SearchRequest, SearchResult
from fine_tune_pipeline.programs.searching import rung
from fine_tune_pipeline.programs.searching.space import training
from fine_tune_pipeline.programs.training.step_gradient import OutOfMemory
from fine_tune_pipeline_tests.programs.searching.searches import (
    SPACE,
    answered_by_rule,
    nothing,
    search_request,
    searched,
    trained_by_rule,
)
from fine_tune_pipeline_tests.programs.training.killing import started
from fine_tune_pipeline_tests.small_training import Recorder, write_rows


@pytest.fixture
def by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rung.train, "run", trained_by_rule)
    monkeypatch.setattr(rung.predict, "run", answered_by_rule)
    monkeypatch.setattr(rung, "free_memory", nothing)


def found(result: SearchResult) -> Any:
    """What a break must not change: all but times and runs."""
    rungs = [
        (trial.number, trial.parameters, one.rung, one.score, one.scores, one.steps, one.tokens, one.validation_loss, one.failed)
        for trial in result.trials
        for one in trial.rungs
    ]
    return rungs, result.choice, result.importance, result.outcome


@pytest.fixture(scope="module")
def whole(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResult, Recorder, Path]:
    """A search with real trainings."""
    folder, recorder = tmp_path_factory.mktemp("whole"), Recorder()
    return search.run(search_request(folder, model=model, data=data, trials=2), recorder), recorder, folder


def test_trials_are_trained_and_judged_and_the_better_rate_is_taken(whole: tuple[SearchResult, Recorder, Path]):
    result, recorder, folder = whole
    assert result.trials[0].parameters == {"learning_rate": 1e-3, "rank": 8}
    assert [one.steps for one in result.trials[0].rungs] == [3, 6]
    assert all(len(one.scores) == 12 and one.score == sum(one.scores) / 12 for trial in result.trials for one in trial.rungs)
    assert result.chosen.rungs[-1].score >= result.trials[0].rungs[-1].score
    assert (result.answered, result.outcome) == (12, "all trials")
    assert {path.name for path in (folder / "trials" / "0000" / "rung-2").iterdir()} == {"answers.jsonl", "curve.jsonl", "result.json"}
    assert any(line.startswith("trial 1, rung 1 of 2: exact_match ") for line in recorder.lines)
    last = recorder.steps[-1]
    assert last[2].startswith("trial ")
    assert set(last[3]) >= {"trial", "rung", "score", "best"}


def test_the_plan_is_trained_as_the_training_program_would(whole: tuple[SearchResult, Recorder, Path], model: Path, data: Path):
    _, _, folder = whole
    asked = search_request(folder, model=model, data=data)
    request = training(asked, {"learning_rate": 1e-3, "rank": 8}, share=1.0, output=folder)
    assert request.hyperparameters == asked.plan.hyperparameters
    assert request.technique == asked.plan.technique
    assert training(asked, {"rank": 2}, share=0.5, output=folder).hyperparameters.epochs == 1.0


def test_a_kill_in_the_middle_of_a_real_training_changes_nothing(
    whole: tuple[SearchResult, Recorder, Path], model: Path, data: Path, tmp_path: Path
):
    request = search_request(tmp_path / "killed", model=model, data=data, trials=2)
    output = Path(request.output)
    request.write(output / "request.json")
    process = started(searched, str(output / "request.json"), "trial 0, rung 2 of 2: validation loss", False)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (output / "result.json").exists()
    again = Recorder()
    assert found(search.run(request, again)) == found(whole[0])
    assert not any(line.startswith("trial 0, rung 1") for line in again.lines)


POINTS = (
    "work.json Begun",
    "trials/0000/trial.json TrialRecord",
    "trial 0, rung 1 of 2: in the middle",
    "0000/rung-1/result.json TrainResult",
    "trial 0, rung 1 of 2: exact_match",
    "trials/0001/trial.json TrialRecord",
    "trial 2, rung 1 of 2: in the middle",
    "trial 2, rung 2 of 2: exact_match",
    "cheapest",
    "/result.json SearchResult",
)
"""A line of the log, or a file and what it holds, after which the program is killed."""


def test_a_kill_at_any_point_leaves_the_same_search(by_rule: None, model: Path, data: Path, tmp_path: Path):
    wanted = found(search.run(search_request(tmp_path / "whole", model=model, data=data), Recorder()))
    request = search_request(tmp_path / "killed", model=model, data=data)
    output = Path(request.output)
    request.write(output / "request.json")
    ends = []
    for point in POINTS:
        process = started(searched, str(output / "request.json"), point, True)
        process.join()
        ends.append(process.exitcode)
        torn_journal(output)
    assert ends.count(-signal.SIGKILL) >= len(POINTS) - 2
    process = started(searched, str(output / "request.json"), "", True)
    process.join()
    assert process.exitcode == 0
    result = SearchResult.read(output / "result.json")
    assert found(result) == wanted
    storage = JournalStorage(JournalFileBackend(str(output / "journal.log")))
    study = optuna.load_study(study_name="search", storage=storage)
    assert [trial.params for trial in study.trials] == [trial.parameters for trial in result.trials]
    assert [trial.value for trial in study.trials] == [trial.rungs[0].score for trial in result.trials]


def torn_journal(output: Path) -> None:
    """As when the machine went down while the last line was written."""
    path = output / "journal.log"
    if path.exists():
        path.write_bytes(path.read_bytes()[:-5])


def test_a_budget_is_kept_and_said(by_rule: None, model: Path, data: Path, tmp_path: Path):
    # By rule a rung takes 300 or 600 seconds, so another trial needs room for 900.
    budget = Budget(seconds=2350.0, said="an hour")
    result = search.run(search_request(tmp_path / "out", model=model, data=data, trials=6, budget=budget), Recorder())
    assert result.outcome == "budget"
    assert len(result.trials) == 3
    assert 2100 <= result.seconds < 2350
    assert "3 trainings did not fit the budget of an hour" in result.said


def test_a_larger_budget_goes_on_with_what_is_there(by_rule: None, model: Path, data: Path, tmp_path: Path):
    small = search_request(tmp_path / "out", model=model, data=data, budget=Budget(seconds=1000.0, said="1000 s"))
    first = search.run(small, Recorder())
    second = search.run(small.model_copy(update={"budget": None}), Recorder())
    alone = search.run(search_request(tmp_path / "alone", model=model, data=data), Recorder())
    assert (len(first.trials), first.choice.number) == (1, 0)
    assert found(second) == found(alone)


def test_another_machine_where_everything_lies_elsewhere_goes_on_with_what_is_there(by_rule: None, model: Path, data: Path, tmp_path: Path):
    small = search_request(tmp_path / "one", model=model, data=data, budget=Budget(seconds=1000.0, said="1000 s"))
    search.run(small, Recorder())
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    again = Recorder()
    moved = search.run(search_request(tmp_path / "other", model=model, data=write_rows(tmp_path / "rows.jsonl")), again)
    assert len(moved.trials) == 3
    assert not any(line.startswith("trial 0, rung") and "in the middle" in line for line in again.lines)


def test_a_trial_without_memory_fails_and_the_search_goes_on(
    by_rule: None, monkeypatch: pytest.MonkeyPatch, model: Path, data: Path, tmp_path: Path
):
    def run(request: Any, *more: Any) -> Any:
        if request.hyperparameters.learning_rate != 1e-3:
            raise OutOfMemory("step 1: nothing is left\nlower something")
        return trained_by_rule(request, *more)

    monkeypatch.setattr(rung.train, "run", run)
    result = search.run(search_request(tmp_path / "out", model=model, data=data), Recorder())
    assert [trial.failed for trial in result.trials] == ["", *["OutOfMemory: step 1: nothing is left"] * 2]
    assert (result.choice.number, result.choice.gain) == (0, 0.0)


def test_a_plan_that_cannot_be_trained_ends_the_search_by_name(
    by_rule: None, monkeypatch: pytest.MonkeyPatch, model: Path, data: Path, tmp_path: Path
):
    def run(*request: Any) -> Any:
        raise OutOfMemory("step 1: nothing is left")

    monkeypatch.setattr(rung.train, "run", run)
    with pytest.raises(search.PlanFailed, match="trial 0, the plan as it is, cannot be trained: OutOfMemory"):
        search.run(search_request(tmp_path / "out", model=model, data=data), Recorder())


def test_each_trial_is_one_run_below_the_run_of_the_search(by_rule: None, model: Path, data: Path, tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("triage", artifact_location=str(tmp_path / "artifacts"))
    tracking = Tracking(uri=uri, experiment="triage", run_name="triage search", tags={"dagster/run_id": "one"})
    result = search.run(search_request(tmp_path / "out", model=model, data=data, tracking=tracking), Recorder())
    runs = {run.info.run_id: run for run in client.search_runs([experiment])}
    parent = runs.pop(result.mlflow_run_id or "")
    assert len(runs) == 3
    assert {trial.run_id for trial in result.trials} == set(runs)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in (*runs.values(), parent)} == {"FINISHED"}
    taken = runs[result.chosen.run_id or ""]
    assert taken.data.metrics["score"] == result.chosen.rungs[-1].score
    assert {name: float(value) for name, value in taken.data.params.items()} == result.chosen.parameters
    assert parent.data.metrics["gain_over_plan"] == result.choice.gain


def test_recipes_and_base_models_are_what_their_trials_train_on(by_rule: None, model: Path, data: Path, tmp_path: Path):
    half = write_rows(tmp_path / "half.jsonl")
    space = (
        Dimension(name="rows_share", default=1.0, values=(0.5, 1.0)),
        Dimension(name="base_model", default="one", values=("one", "other")),
    )
    recipes = tuple(RecipeRows(parameters={"rows_share": share}, train=str(path), rows=24) for share, path in ((0.5, half), (1.0, data)))
    bases = (Base(id="one", model=str(model)), Base(id="other", model=str(model)))
    asked = search_request(tmp_path / "out", model=model, data=data, space=space, recipes=recipes, bases=bases, trials=4)
    assert training(asked, {"rows_share": 0.5, "base_model": "other"}, share=1.0, output=tmp_path).train == str(half)
    result = search.run(asked, Recorder())
    assert len(result.trials) == 4
    assert result.chosen.parameters["base_model"] == "one"


def test_records_of_another_search_are_not_taken(by_rule: None, model: Path, data: Path, tmp_path: Path):
    first = search.run(search_request(tmp_path / "out", model=model, data=data, trials=2), Recorder())
    other = (SPACE[0], Dimension(name="rank", default=4, values=(4, 16)))
    second = search.run(search_request(tmp_path / "out", model=model, data=data, trials=2, space=other), Recorder())
    assert first.trials[0].parameters["rank"] == 8
    assert second.trials[0].parameters["rank"] == 4


def test_who_tracks_and_when_checkpoints_come_is_not_part_of_what_is_asked(model: Path, data: Path, tmp_path: Path):
    asked = search_request(tmp_path / "out", model=model, data=data)
    tracked = asked.model_copy(update={"tracking": Tracking(uri="x", experiment="y", run_name="z"), "stall_seconds": 5.0})
    assert asked.identity() == tracked.identity()
    assert SearchRequest.model_validate(json.loads(asked.model_dump_json())) == asked
