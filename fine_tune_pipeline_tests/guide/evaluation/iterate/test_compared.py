"""Evaluations of one use case side by side: what had changed, and the paired gain on the same test rows."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, predictions
from fine_tune_pipeline.guide.evaluation.iterate.compared import History, NotComparable, gain_over, history
from fine_tune_pipeline.guide.evaluation.iterate.experiments_page import html_page, markdown
from fine_tune_pipeline.guide.evaluation.statistics import gain_bounds
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline_tests.guide.evaluation.world import (
    RIGHT,
    PretendedCompute,
    before_evaluation,
    examples,
    put,
    resources,
    train_result,
    use_case,
)

TRAIN, TEST = examples(160), examples(120, start=160)


def trained(store: Store, *, epochs: float, run: str | None = None) -> Artifact:
    """An adapter of so many epochs."""
    content = content_of(asset="adapter", version=1, what={"training": {"epochs": epochs}}, upstream={})
    with store.draft("triage", content) as draft:
        (draft.folder / "adapter").mkdir()
        (draft.folder / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
        (draft.folder / "curve.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 20, "loss": 0.3}\n', encoding="utf-8")
        train_result(mlflow_run_id=run).write(draft.folder / "train.json")
        return draft.finish(Built())


def evaluated(folder: Path, *, right: float, **bound: Any) -> dg.ExecuteInProcessResult:
    compute = PretendedCompute(answers={row.id: row.completion for row in TEST}, right={**RIGHT, "fine_tuned": right})
    spec = use_case(folder)
    found = {**resources(folder, compute), **bound}
    return dg.materialize([predictions(spec), evaluation_report(spec)], resources=found, raise_on_error=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three evaluations: of a model, of one that trained longer, and of the same on other test rows."""
    folder = tmp_path_factory.mktemp("experiments")
    store = Store.at(str(folder / "store"))
    before_evaluation(store, train=TRAIN, test=TEST)
    trained(store, epochs=1.0)
    evaluated(folder, right=0.7)
    trained(store, epochs=3.0)
    evaluated(folder, right=0.95)
    put(store, "dataset", {"train.jsonl": TRAIN, "test.jsonl": TEST[:100]}, made="again")
    evaluated(folder, right=0.95)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> History:
    return history(Store.at(str(folder / "store")), use_case(folder))


def scores(folder: Path, fingerprint: str) -> dict[str, float]:
    file = folder / "store" / "triage" / "evaluation_report" / fingerprint / "scores.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row["exact_match"] for row in rows if row["system"] == "fine_tuned"}


def test_experiments_stand_in_order_of_time_with_the_one_in_use_marked(found: History):
    assert [one.current for one in found.experiments] == [False, False, True]
    assert [one.n for one in found.experiments] == [120, 120, 100]
    assert sorted(one.made_at for one in found.experiments) == [one.made_at for one in found.experiments]
    assert found.unread == []


def test_what_changed_is_followed_up_to_the_setting(found: History):
    assert found.experiments[0].changed == ()
    assert found.experiments[1].changed == ("training.epochs: 1.0 → 3.0",)
    assert found.experiments[2].changed == ("made: by hand → again",)


def test_the_gain_is_paired_by_row_with_the_one_before(folder: Path, found: History):
    first, second, _ = found.experiments
    before, after = scores(folder, first.fingerprint), scores(folder, second.fingerprint)
    differences = [after[row.id] - before[row.id] for row in TEST]
    wanted = gain_bounds(differences, level=0.975, binary=True)
    assert second.gain is not None
    assert (second.gain.estimate, second.gain.low, second.gain.high) == pytest.approx((wanted.estimate, wanted.lower, wanted.upper))
    assert second.gain.estimate == pytest.approx(sum(differences) / 120)
    assert (second.gain.n, second.not_compared) == (120, "")


def test_other_test_rows_are_not_compared(found: History):
    first, _, third = found.experiments
    assert (first.gain, first.not_compared) == (None, "the first")
    assert (third.gain, third.not_compared) == (None, "not comparable: other test rows")


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("no_such", "no_such is no metric of the task by now"),
        ("recall.login", "is no metric of the task by now"),
        ("edit_rate", "metric of"),
    ],
)
def test_a_metric_that_one_of_them_lacks_is_not_compared(folder: Path, found: History, metric: str, why: str):
    store, spec = Store.at(str(folder / "store")), use_case(folder)
    before, after = (store.version("triage", "evaluation_report", one.fingerprint) for one in found.experiments[:2])
    with pytest.raises(NotComparable, match=why):
        gain_over(store, spec, read_task(spec), before, after, metric=metric)


def test_a_metric_that_was_not_asked_for_is_not_compared(folder: Path, found: History):
    store, spec = Store.at(str(folder / "store")), use_case(folder)
    before, after = (store.version("triage", "evaluation_report", one.fingerprint) for one in found.experiments[:2])
    with pytest.raises(NotComparable, match=f"{found.experiments[0].fingerprint} was not judged by number_match"):
        gain_over(store, spec, read_task(spec), before, after, metric="number_match")


def test_the_page_says_what_changed_and_what_it_did_and_loads_nothing(found: History):
    page = html_page("triage", found)
    assert "training.epochs: 1.0 → 3.0" in page
    assert "not comparable: other test rows" in page
    assert page.count("<svg") == 1
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "The last one: exact_match" in page


def test_the_asset_shows_its_experiments_and_writes_the_page(folder: Path):
    again = evaluated(folder, right=0.95)
    shown = again.asset_materializations_for_node("triage__evaluation_report")[0].metadata
    assert shown["reused"].value is True
    table: Any = shown["experiments"].value
    assert [record.data["what changed"] for record in table.records] == ["made: by hand → again", "training.epochs: 1.0 → 3.0", "–"]
    assert (folder / "store" / "triage" / "experiments.html").read_text(encoding="utf-8").count("<tr") == 4
    assert "experiments_page" not in shown


def test_an_evaluation_that_cannot_be_read_leaves_the_others(folder: Path, found: History):
    file = folder / "store" / "triage" / "evaluation_report" / found.experiments[0].fingerprint / "report.json"
    text = file.read_text(encoding="utf-8")
    file.write_text('{"n": 1}', encoding="utf-8")
    try:
        left = history(Store.at(str(folder / "store")), use_case(folder))
        assert [one.fingerprint for one in left.experiments] == [one.fingerprint for one in found.experiments[1:]]
        assert left.unread == [f"{found.experiments[0].fingerprint}: KeyError: 'primary_metric'"]
        assert "Cannot be read, and is left out" in markdown("triage", left)
    finally:
        file.write_text(text, encoding="utf-8")


def test_the_command_tells_all_for_machines_and_people(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FINE_TUNE_PIPELINE_STORE", str(folder / "store"))
    written = use_case(folder).model_dump(mode="json", by_alias=True, exclude_unset=True)
    file = folder / "triage.yaml"
    file.write_text(json.dumps({"type": "fine_tune_pipeline.use_case.FineTuneUseCase", "attributes": written}), encoding="utf-8")
    assert main(["experiments", str(file), "--json", "--out", str(tmp_path / "page.html")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["changed"] for one in told["experiments"]] == [[], ["training.epochs: 1.0 → 3.0"], ["made: by hand → again"]]
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["experiments", "support_triage"]) == 1
    assert main(["experiments", "nobody"]) == 2


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    import mlflow

    before = mlflow.get_tracking_uri()
    yield f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(before)


def test_an_evaluation_is_a_run_below_that_of_its_training(tmp_path: Path, database: str):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database)
    parent = client.create_run(client.create_experiment("triage")).info.run_id
    store = Store.at(str(tmp_path / "store"))
    before_evaluation(store, train=TRAIN, test=TEST)
    trained(store, epochs=1.0, run=parent)
    shown = evaluated(tmp_path, right=0.9).asset_materializations_for_node("triage__evaluation_report")[0].metadata
    (run,) = [run for run in client.search_runs([client.get_run(parent).info.experiment_id]) if run.info.run_id != parent]
    report = store.current("triage", "evaluation_report", passed=False).json("report.json")
    assert shown["mlflow"].value == f"run {run.info.run_id} below {parent}"
    assert (run.info.status, run.data.tags["mlflow.parentRunId"], run.data.tags["objective"]) == ("FINISHED", parent, "met")
    assert run.data.metrics["fine_tuned/exact_match"] == report["exact_match"]
    assert run.data.metrics["gain/base_few_shot/low"] == report["gain_low"]


def test_mlflow_that_is_down_is_said_and_stops_nothing(tmp_path: Path):
    store = Store.at(str(tmp_path / "store"))
    before_evaluation(store, train=TRAIN, test=TEST)
    trained(store, epochs=1.0, run="gone")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = ExperimentTracking(uri=f"http://127.0.0.1:{taken.getsockname()[1]}")
        result = evaluated(tmp_path, right=0.9, tracking=dead)
    assert result.success
    said = result.asset_materializations_for_node("triage__evaluation_report")[0].metadata["mlflow"].value
    assert str(said).startswith("not logged to MLflow (TrackingSilent")
