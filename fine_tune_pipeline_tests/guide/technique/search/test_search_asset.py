"""The asset `search` and what follows from it: space, request, plan, adapter, page, graph, forecast."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, content_of
from fine_tune_pipeline.guide.dataset.more.made_rows import SYNTHETIC
from fine_tune_pipeline.guide.environment.assets import environment
from fine_tune_pipeline.guide.technique.assets import training_plan
from fine_tune_pipeline.guide.technique.build_plan import read_plan
from fine_tune_pipeline.guide.technique.recipes import Recipe
from fine_tune_pipeline.guide.technique.search.asset import search
from fine_tune_pipeline.guide.training.assets import adapter
from fine_tune_pipeline.programs.requests import Request
from fine_tune_pipeline.programs.search_requests import Choice, Parameters, RungRecord, SearchRequest, SearchResult, TrialRecord
from fine_tune_pipeline.resources.compute.base import ResultT
from fine_tune_pipeline.spec.training import TrainingSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.use_case import assets_of
from fine_tune_pipeline_tests.guide.technique.stand_ins import (
    RuleCompute,
    artifact_store,
    examples,
    kept_base_model,
    kept_dataset,
    upstream_assets,
    use_case,
)
from fine_tune_pipeline_tests.guide.training.test_assets import NoServer
from fine_tune_pipeline_tests.tiny import tiny_model

TRAIN, VALIDATION = examples(copies=4), examples(copies=2, prefix="validation")
MADE = [replace(row, id=f"made-{row.id}", metadata={SYNTHETIC: "typos"}) for row in TRAIN[:8]]


class SearchCompute(RuleCompute):
    """Of a search: the plan, one trial at the other end of every dimension, which is better, and one of another base if there is one."""

    better: bool = True

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        if not isinstance(request, SearchRequest):
            return super().run(context, request, result)
        record = Path(self.record)
        record.mkdir(exist_ok=True)
        request.write(record / f"{len(list(record.iterdir())):03d}-search.json")
        found = searched(request, better=self.better)
        assert isinstance(found, result)
        return found


def searched(request: SearchRequest, *, better: bool) -> SearchResult:
    first: Parameters = {one.name: one.default for one in request.space}
    last: Parameters = {one.name: one.high if one.high is not None else other_value(one.values, one.default) for one in request.space}
    own = last | ({"base_model": first["base_model"]} if "base_model" in first else {})
    tried = [first, own, *([last] if own != last else [])]
    trials = tuple(
        TrialRecord(number=number, parameters=point, run_id=f"run{number}", rungs=tuple(rungs(request, number, better)))
        for number, point in enumerate(tried)
    )
    return SearchResult(
        metric=str(request.scoring.settings["metric"]),
        higher_is_better=True,
        trials=trials,
        choice=Choice(number=int(better), why=f"trial {int(better)} has the best exact_match", gain=0.25 * better, gain_bound=0.1),
        other_base=Choice(number=2, why="trial 2 has 1.0", gain=0.5, gain_bound=0.2) if len(tried) == 3 else None,
        importance={one.name: 1 / len(request.space) for one in request.space},
        answered=8,
        seconds=120.0,
        outcome="all trials",
        said="two trials in 2.0 minutes",
        mlflow_run_id="parent",
    )


def other_value(values: tuple[Any, ...], default: Any) -> Any:
    return next(value for value in reversed(values) if value != default)


def rungs(request: SearchRequest, number: int, better: bool) -> list[RungRecord]:
    score = 0.5 + 0.25 * number * better
    return [
        RungRecord(rung=place, share=share, score=score, scores=(score,) * 8, seconds=30.0, steps=4)
        for place, share in enumerate(request.rungs)
    ]


@pytest.fixture
def upstream(tmp_path: Path) -> None:
    store = artifact_store(tmp_path)
    kept_dataset(store, [*TRAIN, *MADE], VALIDATION)
    kept_base_model(store, tiny_model(tmp_path / "model"))


def spec_of(folder: Path, *, sections: dict[str, Any] | None = None, **wanted: Any) -> UseCaseSpec:
    training = {**(sections or {}).pop("training", {}), "search": {"trials": 4, **wanted}}
    return use_case(folder, training=training, **(sections or {}))


def run(
    folder: Path, spec: UseCaseSpec, *factories: Any, compute: dict[str, Any] | None = None, kind: type[SearchCompute] = SearchCompute
) -> dg.ExecuteInProcessResult:
    given = ["objective", "base_model", "dataset", "baselines"]
    return dg.materialize(
        [*(factory(spec) for factory in (search, *factories)), *upstream_assets(*given)],
        resources={
            "store": artifact_store(folder),
            "compute": kind(record=str(folder / "record"), **(compute or {})),
            "tracking": NoServer(uri="http://mlflow:5000"),
        },
        raise_on_error=False,
    )


def current(folder: Path, asset: str) -> Artifact:
    return artifact_store(folder).current("triage", asset)


def asked(folder: Path) -> list[SearchRequest]:
    return [SearchRequest.read(path) for path in sorted((folder / "record").glob("*-search.json"))]


def failure(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None
    return str((error.cause or error).message)


def test_the_search_is_kept_with_its_table_pictures_and_page(tmp_path: Path, upstream: None):
    assert run(tmp_path, spec_of(tmp_path)).success
    artifact = current(tmp_path, "search")
    assert {path.name for path in artifact.folder.iterdir()} == {"search.json", "winner.json", "search.html", "manifest.json"}
    metadata = artifact.metadata
    assert metadata["found"] == "from search, trial 1 of 2: two trials in 2.0 minutes"
    assert [row["outcome"] for row in metadata["trials"]] == ["", "taken"]
    assert metadata["trials"][1]["exact_match at 100%"] == 0.75
    assert (metadata["gain"], metadata["gain_lower_bound"], metadata["search_minutes"]) == (0.25, 0.1, 2.0)
    assert set(artifact.manifest.built.markdown) == {"parallel_coordinates", "importance", "to_keep_without_search"}
    page = artifact.file("search.html").read_text(encoding="utf-8")
    assert "trial 1 has the best exact_match" in page
    assert page.count("<polyline") == 2


def test_the_program_is_asked_for_trials_around_the_plan(tmp_path: Path, upstream: None):
    run(tmp_path, spec_of(tmp_path, space={"epochs": [1.0], "effective_batch": [8]}, rows=16))
    [request] = asked(tmp_path)
    plan = request.plan
    rate = plan.hyperparameters.learning_rate
    space = {one.name: one for one in request.space}
    assert set(space) == {"learning_rate", "rank", "epochs", "effective_batch"}
    assert (space["learning_rate"].low, space["learning_rate"].high) == (
        pytest.approx(rate / 3, rel=1e-2),
        pytest.approx(rate * 3, rel=1e-2),
    )
    assert (space["rank"].values, space["rank"].default) == ((8, 16, 32), plan.technique.rank)
    assert space["epochs"].values == (1.0, plan.hyperparameters.epochs)
    assert (request.trials, request.rungs, request.rows) == (4, (0.25, 1.0), 16)
    assert request.scoring.settings["metric"] == "exact_match"
    assert plan.tracking is None
    assert request.tracking is not None
    assert request.tracking.run_name.startswith("triage search ")


def test_data_recipes_become_files_of_rows_one_for_each_combination(tmp_path: Path, upstream: None):
    run(tmp_path, spec_of(tmp_path, space={"data": {"share_of_augmentation": [0.0], "drop_suspects": [True], "rows_share": [0.5]}}))
    [request] = asked(tmp_path)
    assert {one.name for one in request.space} == {"learning_rate", "rank", "share_of_augmentation", "rows_share"}
    rows = {tuple(recipe.parameters.values()): recipe.rows for recipe in request.recipes}
    assert rows == {(1.0, 1.0): 40, (1.0, 0.5): 20, (0.0, 1.0): 32, (0.0, 0.5): 16}
    assert current(tmp_path, "search").metadata["left_out"] == ["data.drop_suspects True: would keep the same rows as another value"]


def test_the_plan_takes_the_winner_and_says_so(tmp_path: Path, upstream: None):
    spec = spec_of(tmp_path, space={"rank": [8, 32], "epochs": [1.0], "data": {"rows_share": [0.5]}})
    assert run(tmp_path, spec, training_plan).success
    [request] = asked(tmp_path)
    chosen = searched(request, better=True).trials[1].parameters
    artifact = current(tmp_path, "training_plan")
    plan = read_plan(artifact)
    assert plan.hyperparameters.learning_rate == chosen["learning_rate"]
    assert (plan.hyperparameters.epochs, plan.technique.rank) == (chosen["epochs"], chosen["rank"]) == (1.0, 32)
    assert plan.recipe == Recipe(rows_share=0.5)
    assert plan.chosen.hyperparameters == plan.hyperparameters
    rules = {row["setting"]: row["rule"] for row in artifact.metadata["hyperparameters"]}
    assert {rules[name] for name in ("learning_rate", "epochs", "rank")} == {"from search, trial 1 of 2"}
    assert rules["effective_batch"] != "from search, trial 1 of 2"
    assert artifact.metadata["search"] == "from search, trial 1 of 2: trial 1 has the best exact_match"
    assert (artifact.metadata["data_recipe"], artifact.metadata["training_rows"]) == ("50% of what is left", 20)
    assert artifact.metadata["reason"] == "lora: from search, trial 1 of 2"


def test_the_plan_of_a_search_that_found_nothing_better_is_the_plan_without_it(tmp_path: Path, upstream: None):
    run(tmp_path, spec_of(tmp_path), training_plan, compute={"better": False})
    found = read_plan(current(tmp_path, "training_plan"))
    dg.materialize(
        [training_plan(use_case(tmp_path)), *upstream_assets("base_model", "dataset", "baselines")],
        resources={"store": artifact_store(tmp_path), "compute": RuleCompute(record=str(tmp_path / "record"))},
    )
    alone = read_plan(current(tmp_path, "training_plan"))
    assert (found.technique, found.hyperparameters, found.placement, found.recipe) == (
        alone.technique,
        alone.hyperparameters,
        alone.placement,
        None,
    )


@pytest.mark.parametrize("technique", [[], ["dora"]])
def test_what_is_shown_to_be_written_gives_the_same_plan_without_a_search(tmp_path: Path, upstream: None, technique: list[str]):
    spec = spec_of(tmp_path, space={"rank": [8], "epochs": [1.0], "effective_batch": [8], "technique": technique})
    run(tmp_path, spec, training_plan)
    found = read_plan(current(tmp_path, "training_plan"))
    shown = current(tmp_path, "search").manifest.built.markdown["to_keep_without_search"]
    written = yaml.safe_load(shown.removeprefix("```yaml").rstrip().removesuffix("```"))
    dg.materialize(
        [training_plan(use_case(tmp_path, **written)), *upstream_assets("base_model", "dataset", "baselines")],
        resources={"store": artifact_store(tmp_path), "compute": RuleCompute(record=str(tmp_path / "record"))},
    )
    alone = read_plan(current(tmp_path, "training_plan"))
    assert (alone.technique, alone.hyperparameters) == (found.technique, found.hyperparameters)
    assert found.technique.use_dora == bool(technique)


def test_trials_stop_early_as_the_training_would(tmp_path: Path, upstream: None):
    stopping = {"metric": "exact_match", "patience": 2}
    run(tmp_path, spec_of(tmp_path, sections={"training": {"early_stopping": stopping}}))
    [request] = asked(tmp_path)
    assert request.plan.answers is not None
    assert request.plan.hyperparameters.early_stopping is not None


def test_the_adapter_learns_from_the_rows_of_the_recipe(tmp_path: Path, upstream: None):
    spec = spec_of(tmp_path, space={"data": {"share_of_augmentation": [0.0]}})
    assert run(tmp_path, spec, training_plan, environment, adapter).success
    artifact = current(tmp_path, "adapter")
    assert artifact.json("train.json")["rows"] == len(TRAIN)
    assert artifact.metadata["data_recipe"] == "0% of the made rows"
    assert artifact.manifest.payload["what"]["training_plan.recipe"]["share_of_augmentation"] == 0.0


def test_the_same_search_is_reused_and_another_is_searched_again(tmp_path: Path, upstream: None):
    for spec in (spec_of(tmp_path), spec_of(tmp_path), spec_of(tmp_path, sections={"training": {"stall_minutes": 5.0}})):
        assert run(tmp_path, spec, training_plan).success
    assert len(asked(tmp_path)) == 1
    before = current(tmp_path, "training_plan").fingerprint
    run(tmp_path, spec_of(tmp_path, trials=5), training_plan)
    assert len(asked(tmp_path)) == 2
    assert current(tmp_path, "training_plan").fingerprint != before


def test_a_budget_in_money_is_hours_at_the_price_of_the_device(tmp_path: Path, upstream: None):
    price = {"device": "CPU", "per_hour": 0.5, "currency": "EUR", "as_of": date(2026, 11, 1)}
    sections = {"environment": {"prices": [price]}}
    run(tmp_path, spec_of(tmp_path, sections=sections, budget_hours=3.0, budget_cost=1.0))
    [request] = asked(tmp_path)
    assert request.budget is not None
    assert (request.budget.seconds, request.budget.said) == (7200.0, "1 EUR")
    assert current(tmp_path, "search").metadata["cost"] == "0.02 EUR"


@pytest.mark.parametrize(
    ("wanted", "compute", "said"),
    [
        ({"budget_cost": 1.0}, {}, "training.search.budget_cost: want a price of CPU in environment.prices; or give budget_hours"),
        ({"metric": "macro_f1"}, {}, "training.search.metric: got macro_f1, want one that single answers decide, such as exact_match"),
        ({"space": {"learning_rate": [1.0e-3], "rank": []}}, {"fixed": True}, "training.search.space: every value is fixed"),
        ({"space": {"base_model": ["other"]}}, {}, "training.search.space.base_model: other is not in the store, there are tiny; write it"),
        ({}, {"memory_gib": 0.5}, "training.search: the plan \\(.*\\) is trained trial by trial on one device, and it does not fit"),
    ],
    ids=["no price", "metric of all rows", "one point", "base never built", "no memory"],
)
def test_a_search_that_cannot_be_is_refused_by_name(
    tmp_path: Path, upstream: None, wanted: dict[str, Any], compute: dict[str, Any], said: str
):
    sections = {"training": {"learning_rate": 1.0e-3}} if compute.pop("fixed", False) else {}
    result = run(tmp_path, spec_of(tmp_path, sections=sections, **wanted), compute=compute)
    assert not result.success
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(failure(result))
    assert asked(tmp_path) == []


class Narrow(SearchCompute):
    """Has room for two."""

    def refused(self, at_once: int) -> str:
        return "" if at_once <= 2 else "the cluster has room for 2"


def test_trials_at_the_same_time_are_asked_for_where_the_place_has_room_for_them(tmp_path: Path, upstream: None):
    for parallel, compute in ((3, Narrow), (2, SearchCompute), (2, Narrow)):
        result = run(tmp_path, spec_of(tmp_path, parallel=parallel), kind=compute)
        if not result.success:
            assert asked(tmp_path) == []
            said = "the cluster has room for 2" if compute is Narrow else "tasks of one program run one after another here; choose a Ray"
            assert f"training.search.parallel: got {parallel}, but {said}" in failure(result)
            assert failure(result).rstrip().endswith("; or leave parallel out")
    [request] = asked(tmp_path)
    assert request.at_once == 2


def test_one_trial_after_another_is_written_down_as_ever(tmp_path: Path, upstream: None):
    assert "parallel" not in spec_of(tmp_path).training.model_dump_json()
    run(tmp_path, spec_of(tmp_path, parallel=1))
    [request] = asked(tmp_path)
    assert (request.at_once, "at_once" in request.model_dump_json()) == (1, False)


def test_another_base_model_that_was_once_built_is_tried_and_proposed(tmp_path: Path, upstream: None):
    store = artifact_store(tmp_path)
    chosen = current(tmp_path, "base_model")

    def write(folder: Path) -> None:
        tiny_model(folder / "model", seed=1)
        (folder / "base_model.json").write_text(json.dumps({"id": "other", "context_tokens": 1024}), encoding="utf-8")

    with store.open().draft("triage", content_of(asset="base_model", version=1, what={"test": "other"}, upstream={})) as draft:
        write(draft.folder)
        draft.finish(Built())
    store.open().use(chosen)
    assert run(tmp_path, spec_of(tmp_path, space={"base_model": ["other"]}), training_plan).success
    [request] = asked(tmp_path)
    assert [base.id for base in request.bases] == ["tiny", "other"]
    said = current(tmp_path, "search").metadata["better_base_model"]
    assert said == "other: trial 2 has 1.0; write it first: base_model: {candidates: [other]}"
    assert "base_model" not in current(tmp_path, "search").json("winner.json")["parameters"]


def test_the_graph_has_a_search_only_where_it_is_asked_for(tmp_path: Path):
    def reads(spec: UseCaseSpec, asset: str) -> set[str]:
        return {key.path[-1] for key in assets_of(spec)[asset].dependency_keys}

    with_search, without = spec_of(tmp_path), use_case(tmp_path)
    names = list(assets_of(with_search))
    assert names.index("baselines") < names.index("search") < names.index("training_plan")
    assert reads(with_search, "search") == {"base_model", "dataset", "baselines"}
    assert reads(with_search, "training_plan") - reads(without, "training_plan") == {"search"}
    assert "search" not in assets_of(without)
    assert [name for name in names if name != "search"] == list(assets_of(without))


def test_a_use_case_without_search_writes_down_nothing_of_it():
    assert "search" not in TrainingSpec().model_dump(mode="json")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"rungs": [0.25, 0.5]}, "want shares that rise to 1"),
        ({"rungs": [0.5, 0.25, 1.0]}, "want shares that rise to 1"),
        ({"space": {"learning_rate": {"low": 1e-3, "high": 1e-4}}}, "low: got 0.001, want less than high"),
        (
            {"space": {"data": {"rows_share": [0.1 * place for place in range(1, 9)], "share_of_augmentation": [0.1, 0.2, 0.3, 0.4]}}},
            "32 combi",
        ),
        ({"trials": 1}, "greater than or equal to 2"),
        ({"trials": 4, "parallel": 5}, "parallel: got 5 with 4 trials, want at most as many"),
    ],
)
def test_a_wrong_section_is_refused_with_what_is_wanted(tmp_path: Path, wanted: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        spec_of(tmp_path, **wanted)


def test_a_range_test_and_a_search_do_not_both_look_for_the_rate(tmp_path: Path):
    with pytest.raises(ValueError, match="got range_test with search"):
        spec_of(tmp_path, sections={"training": {"learning_rate": "range_test"}})
