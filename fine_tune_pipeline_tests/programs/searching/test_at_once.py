"""Several trials at the same time, on nodes that are threads: the same search, whatever is lost, killed or broken on the way."""

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from fine_tune_pipeline.programs import search, search_rung
from fine_tune_pipeline.programs.exit_codes import STALLED
from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.programs.search_requests import Budget, RungRecord, RungRequest, SearchRequest, SearchResult, TrialRecord
from fine_tune_pipeline.programs.searching import elsewhere, rung
from fine_tune_pipeline.programs.searching.elsewhere import TrialBroken
from fine_tune_pipeline.programs.searching.nodes import Ended
from fine_tune_pipeline.programs.searching.ray_nodes import TASKS_VARIABLE, NotOnRay, ray_nodes
from fine_tune_pipeline.programs.searching.telling import LiveFile, NotAsked, Told
from fine_tune_pipeline.programs.training.steadiness import Diverged
from fine_tune_pipeline_tests.programs.searching.searches import (
    Threads,
    answered_by_rule,
    killed_together,
    nothing,
    search_request,
    trained_by_rule,
)
from fine_tune_pipeline_tests.programs.searching.test_search import found
from fine_tune_pipeline_tests.programs.training.killing import started
from fine_tune_pipeline_tests.small_training import Recorder


@pytest.fixture(autouse=True)
def by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rung.train, "run", trained_by_rule)
    monkeypatch.setattr(rung.predict, "run", answered_by_rule)
    monkeypatch.setattr(rung, "free_memory", nothing)
    monkeypatch.setattr(elsewhere, "LOOK_SECONDS", 0.02)


@pytest.fixture
def asked(model: Path, data: Path, tmp_path: Path) -> SearchRequest:
    return search_request(tmp_path / "together", model=model, data=data, trials=4, at_once=2)


def together(request: SearchRequest, **threads: Any) -> tuple[SearchResult, Recorder, Threads]:
    nodes, recorder = Threads(**threads), Recorder()
    try:
        return search.run(request, recorder, nodes=nodes), recorder, nodes
    finally:
        nodes.close()


def alone(request: SearchRequest) -> SearchResult:
    """The same search, one trial after another."""
    output = Path(request.output).with_name("alone")
    output.mkdir()
    return search.run(request.model_copy(update={"output": str(output), "at_once": 1}), Recorder())


def outcome(record: RungRecord) -> dict[str, Any]:
    return record.model_dump(exclude={"seconds", "answering_seconds", "node", "began", "ended"})


def test_the_table_and_the_winner_are_those_of_one_after_another(asked: SearchRequest):
    # Three of the four are drawn by the seed alone, and the rest of this space is ranks.
    request = asked.model_copy(update={"trials": 3})
    result, _, nodes = together(request)
    assert found(result) == found(alone(request))
    assert nodes.most == 2
    assert result.chosen.rungs[-1].score >= result.trials[0].rungs[-1].score
    assert "3 trials, 2 at a time, in" in result.said


def test_two_trainings_overlap(asked: SearchRequest, monkeypatch: pytest.MonkeyPatch):
    both = threading.Barrier(2, timeout=30)

    def trained(request: Any, *more: Any) -> Any:
        if request.output.endswith("rung-1"):
            both.wait()
        return trained_by_rule(request, *more)

    monkeypatch.setattr(rung.train, "run", trained)
    result, _, _ = together(asked)
    first = sorted((trial.rungs[0] for trial in result.trials), key=lambda one: one.began or 0)
    for one, other in ((first[0], first[1]), (first[2], first[3])):
        assert one.ended is not None
        assert other.began is not None
        assert other.began < one.ended
    assert all(one.node for one in first)


def test_the_folder_of_a_trial_is_as_that_of_one_trained_here(asked: SearchRequest):
    together(asked)
    folder = Path(asked.output) / "trials" / "0000" / "rung-2"
    assert {path.name for path in folder.iterdir()} == {"answers.jsonl", "curve.jsonl", "result.json"}


def test_killed_while_two_are_running_it_goes_on_without_training_the_finished_ones_again(asked: SearchRequest, tmp_path: Path):
    whole = asked.model_copy(update={"output": str(tmp_path / "whole")})
    (tmp_path / "whole").mkdir()
    wanted = found(together(whole)[0])
    # With a budget trial 0 goes first, so that something has been finished.
    budget = Budget(seconds=1e9, said="all the time")
    request = asked.model_copy(update={"budget": budget})
    request.write(tmp_path / "request.json")
    process = started(killed_together, str(tmp_path / "request.json"))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    places = sorted((Path(asked.output) / "trials").glob("*/trial.json"))
    assert [len(TrialRecord.read(place).rungs) for place in places] == [2, 0, 0]
    result, recorder, nodes = together(request)
    assert found(result) == wanted
    assert 0 not in [order.number for order in nodes.orders]
    assert not any(line.startswith("trial 0, ") for line in recorder.lines)


def test_a_record_that_a_trial_has_left_after_its_search_was_gone_is_taken(asked: SearchRequest):
    whole = found(together(asked)[0])
    output = Path(asked.output)
    place = output / "trials" / "0001" / "trial.json"
    trial = TrialRecord.read(place)
    # As if the search had ended after the program of trial 1, and before it wrote that down.
    trial.rungs[0].write(place.parent / "rung-1" / rung.RECORD)
    trial.model_copy(update={"rungs": ()}).write(place)
    result, _, nodes = together(asked)
    assert found(result) == whole
    assert (1, "rung-1") not in {(order.number, Path(order.command[-1]).parent.name) for order in nodes.orders}


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (Ended(None, "WorkerCrashedError: the node is gone"), "WorkerCrashedError: the node is gone"),
        (Ended(-9), "killed by signal 9; 9 that nobody sent is usually the node out of memory"),
        (Ended(STALLED), "it made no progress any more"),
        (Ended(0), "it left no record"),
    ],
)
def test_a_trial_that_is_lost_is_handed_on_once_more(asked: SearchRequest, end: Ended, said: str):
    result, recorder, nodes = together(asked, first={1: [end]})
    assert found(result) == found(together(asked.model_copy(update={"output": _other(asked)}))[0])
    assert f"trial 1, rung 1 of 2: lost, {said}; handed on once more, it goes on from its last checkpoint" in recorder.lines
    assert [order.number for order in nodes.orders].count(1) >= 2
    assert f"tried again: {said}" in result.row(result.trials[1])["outcome"]


def _other(asked: SearchRequest) -> str:
    other = Path(asked.output).with_name("other")
    other.mkdir()
    return str(other)


def test_a_trial_that_is_lost_twice_fails_with_its_reason_in_the_table_and_the_search_goes_on(asked: SearchRequest):
    lost = Ended(None, "NodeDiedError: no heartbeat")
    result, _, _ = together(asked, first={1: [lost, lost]})
    assert result.trials[1].failed == "Lost 2 times: NodeDiedError: no heartbeat"
    assert result.row(result.trials[1])["outcome"] == "Lost 2 times: NodeDiedError: no heartbeat"
    assert len(result.trials) == 4
    assert result.choice.number != 1


def test_a_plan_that_is_lost_twice_ends_the_search_by_name(asked: SearchRequest):
    lost = Ended(-9)
    with pytest.raises(search.PlanFailed, match=r"trial 0, the plan as it is, cannot be trained: Lost 2 times: killed by signal 9"):
        together(asked, first={0: [lost, lost]})


def test_an_error_that_says_nothing_about_the_point_ends_the_search_with_its_last_lines(asked: SearchRequest):
    with pytest.raises(TrialBroken, match=r"trial 2 ended with exit code 1\. Last lines of its output:\nFileNotFoundError: model"):
        together(asked, first={2: [Ended(1, "FileNotFoundError: model\n")]})


def test_a_trial_that_diverges_fails_as_it_would_here(asked: SearchRequest, monkeypatch: pytest.MonkeyPatch):
    def trained(request: Any, *more: Any) -> Any:
        if "/0002/" in request.output:
            raise Diverged("step 3: no number")
        return trained_by_rule(request, *more)

    monkeypatch.setattr(rung.train, "run", trained)
    result, _, nodes = together(asked)
    assert result.trials[2].failed == "Diverged: step 3: no number"
    assert [order.number for order in nodes.orders].count(2) == 1


def test_a_budget_counts_what_is_under_way(asked: SearchRequest):
    # By rule a rung takes 300 or 600 seconds, trial 0 so 900, and another trial is begun where 900 are left.
    for seconds, trials in ((1795.0, 1), (1805.0, 2), (2095.0, 2), (2105.0, 3)):
        output = Path(asked.output).with_name(f"{seconds:g}")
        output.mkdir()
        request = asked.model_copy(update={"output": str(output), "budget": Budget(seconds=seconds, said="little"), "trials": 6})
        result, _, _ = together(request)
        assert (len(result.trials), result.outcome) == (trials, "budget")
        assert result.seconds <= seconds


def test_what_all_of_them_tell_is_shown_live(asked: SearchRequest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(elsewhere, "SHOW_SECONDS", 0.0)
    both = threading.Barrier(3, timeout=30)
    recorder, nodes = Recorder(), Threads()

    def trained(request: Any, reporter: Any, *more: Any) -> Any:
        reporter.progress(3, 6, "train", loss=0.5)
        if request.output.endswith("rung-1") and "/0000/" not in request.output:
            both.wait()
        return trained_by_rule(request, reporter, *more)

    def progress(self: Recorder, done: int, total: int, what: str, **numbers: float) -> None:
        if {"trial_1/loss", "trial_2/loss"} <= numbers.keys() and both.n_waiting == 2:
            both.wait()
        self.steps.append((done, total, what, numbers))

    monkeypatch.setattr(rung.train, "run", trained)
    monkeypatch.setattr(Recorder, "progress", progress)
    search.run(asked.model_copy(update={"trials": 3, "budget": Budget(seconds=1e9, said="all")}), recorder, nodes=nodes)
    nodes.close()
    assert (6, 12, "trials 1, 2", {f"trial_{n}/{name}": 0.5 for n in (1, 2) for name in ("share_done", "loss")}) in recorder.steps
    assert any(line.startswith("trial 2, rung 1 of 2: begins on ") for line in recorder.lines)
    assert "trial 1, rung 1 of 2: in the middle of it" in recorder.lines
    assert {"trial", "rung", "score", "best"} <= recorder.steps[-1][3].keys()


def test_runs_of_trials_that_are_under_way_when_it_breaks_off_are_closed(asked: SearchRequest, tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("triage", artifact_location=str(tmp_path / "artifacts"))
    tracking = Tracking(uri=uri, experiment="triage", run_name="triage search", tags={})
    with pytest.raises(TrialBroken):
        together(asked.model_copy(update={"tracking": tracking}), first={1: [Ended(1)]})
    runs = {run.data.tags.get("trial", "all"): run.info.status for run in client.search_runs([experiment])}
    assert runs["1"] == runs["all"] == "FAILED"
    assert "RUNNING" not in runs.values()
    result, _, _ = together(asked.model_copy(update={"tracking": tracking}))
    statuses = {run.info.status for run in client.search_runs([experiment])}
    assert (len(result.trials), statuses) == (4, {"FINISHED"})


def test_a_trial_that_was_handed_on_ends_where_nobody_asks_for_it_any_more(asked: SearchRequest, tmp_path: Path):
    live = tmp_path / "live-1.jsonl"
    live.touch()
    reporter, told = LiveFile(live), Told(live)
    reporter.progress(1, 4, "train", loss=1.0)
    reporter.progress(2, 4, "train", loss=0.9)
    reporter.log("a line")
    with live.open("ab") as file:
        file.write(b'{"log": "half of')
    assert told.new() == [{"done": 1, "total": 4, "what": "train", "numbers": {"loss": 1.0}}, {"log": "a line"}]
    assert told.new() == []
    live.unlink()
    with pytest.raises(NotAsked, match="nobody waits for this trial"):
        reporter.log("another")
    record = TrialRecord(number=0, parameters={"learning_rate": 1e-3, "rank": 8})
    with pytest.raises(NotAsked):
        search_rung.run(RungRequest(output=str(tmp_path), search=asked, trial=record, rung=0, live=str(live)))


def test_another_number_at_a_time_is_another_search_and_one_is_written_as_ever(asked: SearchRequest):
    one = asked.model_copy(update={"at_once": 1})
    assert "at_once" not in json.loads(one.model_dump_json())
    assert one.identity() != asked.identity()
    assert SearchRequest.model_validate_json(asked.model_dump_json()) == asked


def test_a_search_that_no_cluster_has_started_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TASKS_VARIABLE, raising=False)
    with (
        pytest.raises(NotOnRay, match=r"training\.search\.parallel: .* FINE_TUNE_PIPELINE_COMPUTE=ray .* or leave parallel out"),
        ray_nodes(),
    ):
        raise AssertionError("never here")
