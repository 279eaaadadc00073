"""A retrained model is held against the version that answers now, and against fresh rows of production."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from scipy import stats

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, predictions
from fine_tune_pipeline.guide.evaluation.retraining.champion import champion_of, read_champion
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline_tests.guide.evaluation.world import (
    BASE,
    RIGHT,
    PretendedCompute,
    before_evaluation,
    examples,
    put,
    resources,
    train_result,
    use_case,
)

TRAIN, TEST = examples(160, start=1000), examples(200)
FRESH = [replace(row, source="production_feedback") for row in examples(40, start=3000)]
OLD = {"champion": 0.6, "fresh_champion": 0.5, "fresh_fine_tuned": 0.9, "fresh_base_zero_shot": 0.0, "fresh_base_few_shot": 0.2}
GUARD = {"guards": [{"metric": "exact_match", "versus": "champion", "margin": 0.05}]}


class World:
    """A first adapter, evaluated and answering as triage-v1; then a second one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.at(str(folder / "store"))
        before_evaluation(self.store, train=TRAIN, test=TEST)

    def adapter(self, number: int, **upstream: str) -> Artifact:
        """An adapter of its own; `upstream` replaces fingerprints of what it was made from."""
        made_from = {name: self.store.current("triage", name).fingerprint for name in ("dataset", "base_model")}
        content = content_of(asset="adapter", version=1, what={"made": number}, upstream={})
        content["upstream"] = {**made_from, **upstream}
        with self.store.draft("triage", content) as draft:
            (draft.folder / "adapter").mkdir()
            (draft.folder / "adapter" / "adapter_config.json").write_text(str(number), encoding="utf-8")
            (draft.folder / "train.json").write_text(train_result().model_dump_json(), encoding="utf-8")
            (draft.folder / "curve.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, "learning_rate": 0.1}) + "\n", encoding="utf-8")
            return draft.finish(Built())

    def live(self, predictions: Artifact, *, name: str = "triage-v1") -> None:
        """Say that the model of these predictions answers."""
        fingerprints = {"predictions": predictions.fingerprint, "dataset": predictions.manifest.payload["upstream"]["dataset"]}
        put(self.store, "endpoint", {"endpoint.json": {"live": {"name": name, **fingerprints}}}, made=name)

    def predict(self, spec: UseCaseSpec, **compute: Any) -> Artifact:
        assert self.run(spec, predictions, **compute).success
        return self.store.current("triage", "predictions")

    def run(self, spec: UseCaseSpec, *factories: Any, right: Mapping[str, float] | None = None) -> dg.ExecuteInProcessResult:
        answers = {row.id: row.completion for row in (*TEST, *FRESH)}
        place = PretendedCompute(answers=answers, right={**RIGHT, **OLD, **(right or {})})
        return dg.materialize([make(spec) for make in factories], resources=resources(self.folder, place), raise_on_error=False)

    def report(self) -> dict[str, Any]:
        found = self.store.peek("triage", "evaluation_report")
        assert found is not None
        return found.json("report.json")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.adapter(1)
    return made


def with_fresh_rows(world: World) -> None:
    put(world.store, "dataset", {"train.jsonl": TRAIN, "test.jsonl": TEST, "fresh.jsonl": FRESH}, made="fresh")


def right(answers: Artifact, name: str, rows: Any) -> list[bool]:
    return [row["text"] == one.completion for row, one in zip(read_rows(answers.file(name)), rows, strict=True)]


def objective(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    return next(check for check in result.get_asset_check_evaluations() if check.check_name == "meets_objective")


def test_without_a_version_that_answers_nothing_changes_and_a_guard_against_it_is_met(world: World):
    spec = use_case(world.folder, objective=GUARD)
    result = world.run(spec, predictions, evaluation_report)
    assert objective(result).passed, objective(result).description
    assert "champion" not in world.report()["systems"]
    assert "retraining" not in world.report()
    [guard] = [one for one in world.report()["verdicts"] if one["kind"] == "guard"]
    assert "no other version answers yet" in guard["reason"]


def test_the_version_that_answers_is_asked_the_same_rows_and_its_gain_is_paired(world: World):
    spec = use_case(world.folder, objective=GUARD)
    world.live(world.predict(spec))
    world.adapter(2)
    result = world.run(spec, predictions, evaluation_report)
    report, answers = world.report(), world.store.current("triage", "predictions")
    assert objective(result).passed, objective(result).description
    kept = read_champion(answers)
    assert kept is not None
    assert (kept.name, kept.left_out) == ("triage-v1", "")
    mine, theirs = (right(answers, f"{system}.jsonl", TEST) for system in ("fine_tuned", "champion"))
    [gain] = [one for one in report["gains"] if (one["over"], one["metric"]) == ("champion", "exact_match")]
    assert gain["estimate"] == pytest.approx((sum(mine) - sum(theirs)) / len(TEST))
    assert report["retraining"]["champion"] == {"name": "triage-v1", "left_out": ""}
    assert "triage-v1 answers now and was asked the same rows" in world.store.current("triage", "evaluation_report").file(
        "report.md"
    ).read_text(encoding="utf-8")


def test_a_model_that_is_worse_than_the_one_that_answers_is_stopped_by_the_guard(world: World):
    spec = use_case(world.folder, objective=GUARD)
    world.live(world.predict(spec))
    world.adapter(2)
    result = world.run(spec, predictions, evaluation_report, right={"champion": 0.99})
    said = objective(result)
    assert not said.passed
    assert "not worse than champion" in (said.description or "")


def test_evaluating_again_once_it_answers_is_the_same_evaluation(world: World):
    spec = use_case(world.folder)
    first = world.predict(spec)
    world.live(first)
    assert world.predict(spec).fingerprint == first.fingerprint
    world.adapter(2)
    second = world.predict(spec)
    assert second.json("champion.json")["adapter"] == first.manifest.payload["upstream"]["adapter"]
    world.live(second, name="triage-v2")
    assert world.predict(spec).fingerprint == second.fingerprint


def _gone(world: World, asset: str, fingerprint: str) -> None:
    (world.folder / "store" / "triage" / asset / fingerprint / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda world, first: _gone(world, "adapter", first.manifest.payload["upstream"]["adapter"]), "its adapter is gone"),
        (lambda world, first: _gone(world, "predictions", first.fingerprint), "what it was evaluated with is gone"),
        (
            lambda world, first: put(
                world.store, "base_model", {"model/config.json": {}, "base_model.json": {**BASE, "weights_sha256": "other"}}, made="other"
            ),
            "another base model",
        ),
    ],
)
def test_one_that_cannot_be_asked_is_left_out_with_the_reason_and_the_guard_cannot_tell(world: World, change: Any, why: str):
    spec = use_case(world.folder, objective=GUARD)
    first = world.predict(spec)
    world.live(first)
    change(world, first)
    world.adapter(2)
    result = world.run(spec, predictions, evaluation_report)
    assert not objective(result).passed
    assert why in (objective(result).description or "")
    assert why in world.report()["retraining"]["champion"]["left_out"]
    assert "champion" not in world.report()["systems"]


def test_the_same_weights_under_another_fingerprint_are_the_same_base(world: World):
    spec = use_case(world.folder)
    base = {"model/config.json": {}, "base_model.json": {**BASE, "weights_sha256": "same"}}
    put(world.store, "base_model", base, made="before")
    world.adapter(3)
    world.live(world.predict(spec))
    current = put(world.store, "base_model", base, made="after")
    found = champion_of(world.store, spec, adapter=world.adapter(4), base_model=current)
    assert found is not None
    assert found.adapter is not None


def test_fresh_rows_are_reported_beside_the_old_ones_and_take_no_part_in_the_verdicts(world: World):
    spec = use_case(world.folder)
    world.live(world.predict(spec))
    with_fresh_rows(world)
    world.adapter(2)
    result = world.run(spec, predictions, evaluation_report)
    assert result.success, objective(result).description
    answers, report = world.store.current("triage", "predictions"), world.report()
    fresh = report["retraining"]["fresh"]
    assert (report["n"], fresh["n"]) == (len(TEST), len(FRESH))
    assert list(fresh["systems"]) == ["base_zero_shot", "base_few_shot", "champion", "fine_tuned"]
    mine, theirs = (right(answers, f"fresh/{system}.jsonl", FRESH) for system in ("fine_tuned", "champion"))
    figure = fresh["systems"]["fine_tuned"]["exact_match"]
    bounds = stats.binomtest(sum(mine), len(mine)).proportion_ci(confidence_level=0.95, method="wilson")
    assert (figure["estimate"], figure["low"], figure["high"]) == pytest.approx((sum(mine) / len(mine), bounds.low, bounds.high))
    [gain] = [one for one in fresh["gains"] if (one["over"], one["metric"]) == ("champion", "exact_match")]
    assert gain["estimate"] == pytest.approx((sum(mine) - sum(theirs)) / len(FRESH))
    assert gain["low"] < gain["estimate"] < gain["high"]
    shown = {name: value.value for name, value in result.asset_materializations_for_node("triage__evaluation_report")[0].metadata.items()}
    assert (shown["fresh_rows"], shown["fresh_exact_match/fine_tuned"]) == (len(FRESH), figure["estimate"])
    page = world.store.current("triage", "evaluation_report").file("report.html").read_text(encoding="utf-8")
    assert "Against the version that answers now" in page
