import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import Example, read_rows
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.objective.metrics import score_one
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.guide.technique.assets import baselines, training_plan
from fine_tune_pipeline.guide.technique.baselines import read_shots
from fine_tune_pipeline.guide.technique.build_plan import read_plan
from fine_tune_pipeline_tests.guide.technique.stand_ins import (
    RuleCompute,
    artifact_store,
    examples,
    kept_base_model,
    kept_dataset,
    kept_index,
    upstream_assets,
    use_case,
)
from fine_tune_pipeline_tests.tiny import tiny_model

TRAIN, VALIDATION = examples(copies=4), examples(copies=2, prefix="validation")
UPSTREAM = ("objective", "base_model", "dataset", "retrieval_index")


@pytest.fixture
def upstream(tmp_path: Path) -> tuple[Artifact, Artifact]:
    store = artifact_store(tmp_path)
    kept_index(store, TRAIN)
    return kept_dataset(store, TRAIN, VALIDATION), kept_base_model(store, tiny_model(tmp_path / "model"))


def run(folder: Path, asset: dg.AssetsDefinition, *upstream: str, **compute: Any) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [asset, *upstream_assets(*UPSTREAM, *upstream)],
        resources={"store": artifact_store(folder), "compute": RuleCompute(record=str(folder / "record"), **compute)},
        raise_on_error=False,
    )


def current(folder: Path, asset: str) -> Artifact:
    return artifact_store(folder).current("triage", asset)


def test_baselines_keep_answers_figures_and_the_chosen_examples(tmp_path, upstream):
    spec = use_case(tmp_path, evaluation={"few_shot": [2, 4]})
    result = run(tmp_path, baselines(spec))
    assert result.success
    artifact = current(tmp_path, "baselines")
    assert {path.name for path in artifact.folder.iterdir()} == {"predictions", "baselines.json", "shots.json", "manifest.json"}
    systems = {row["system"]: row for row in artifact.json("baselines.json")["systems"]}
    plain, asked = {"majority", "word_classifier", "classifier"}, {"base_zero_shot", "base_few_shot", "base_retrieval"}
    tried = {"base_few_shot_2", "base_few_shot_4", "base_retrieval_2", "base_retrieval_4"}
    assert set(systems) == plain | asked | tried

    task, wanted = read_task(spec), {row.id: row.completion for row in VALIDATION}
    for name, figures in systems.items():
        rows = read_rows(artifact.file(f"predictions/{name}.jsonl"))
        assert [row["id"] for row in rows] == [row.id for row in VALIDATION]
        scores = [score_one(row["text"], wanted[row["id"]], task=task, metrics=["exact_match"])["exact_match"] for row in rows]
        assert figures["exact_match"] == round(sum(scores) / len(scores), 4)
    assert systems["base_zero_shot"]["exact_match"] == 0
    assert systems["classifier"]["exact_match"] > systems["majority"]["exact_match"] > 0

    best = max((2, 4), key=lambda k: systems[f"base_few_shot_{k}"]["exact_match"])
    assert artifact.json("baselines.json")["few_shot_examples"] == best == len(read_shots(artifact.file("shots.json")))
    assert systems["base_few_shot"]["exact_match"] == systems[f"base_few_shot_{best}"]["exact_match"]
    passages = max((2, 4), key=lambda k: systems[f"base_retrieval_{k}"]["exact_match"])
    assert artifact.json("baselines.json")["passages"] == passages
    assert systems["base_retrieval"]["exact_match"] == systems[f"base_retrieval_{passages}"]["exact_match"]


def test_every_baseline_is_decoded_as_the_use_case_says_and_goes_on_after_a_break(tmp_path, upstream):
    assert run(tmp_path, baselines(use_case(tmp_path, evaluation={"few_shot": [2], "decoding": "labels"}))).success
    [asked] = RuleCompute(record=str(tmp_path / "record")).asked("predict")
    assert {tuple(job["decoding"]["labels"]) for job in asked["jobs"]} == {
        tuple(json.dumps({"intent": intent, "urgency": urgency}) for intent in ("card", "cash") for urgency in ("high", "low"))
    }
    assert {tuple(job["stop"]) for job in asked["jobs"]} == {("\n",)}
    assert ".parts-triage-baselines-" in asked["parts"], "a folder that outlives a broken run"
    assert current(tmp_path, "baselines").manifest.payload["what"]["evaluation.decoding"] == "labels"


def test_all_calls_of_the_base_model_are_one_program_with_an_instruction(tmp_path, upstream):
    run(tmp_path, baselines(use_case(tmp_path, evaluation={"few_shot": [2, 4]})))
    [asked] = RuleCompute(record=str(tmp_path / "record")).asked("predict")
    assert [(job["name"], len(job["shots"])) for job in asked["jobs"]] == [
        ("base_zero_shot", 0),
        ("base_few_shot_2", 2),
        ("base_few_shot_4", 4),
        ("base_retrieval_2", 0),
        ("base_retrieval_4", 0),
    ]
    assert all("Answer with JSON only" in job["format"]["instruction"] for job in asked["jobs"])


def test_a_number_of_examples_that_the_model_cannot_read_is_left_out(tmp_path, upstream):
    run(tmp_path, baselines(use_case(tmp_path, evaluation={"few_shot": [2, 24]})))
    artifact = current(tmp_path, "baselines")
    assert "base_few_shot_24" not in {row["system"] for row in artifact.json("baselines.json")["systems"]}


def test_validation_rows_are_limited_and_drawn_by_seed(tmp_path, upstream):
    run(tmp_path, baselines(use_case(tmp_path, evaluation={"validation_rows": 10})))
    rows = read_rows(current(tmp_path, "baselines").file("predictions/majority.jsonl"))
    assert len(rows) == 10
    assert len({row["id"] for row in rows} - {row.id for row in VALIDATION[:10]}) > 0


def test_the_advice_is_a_warning_that_does_not_stop_the_run(tmp_path, upstream):
    easy = {
        "goal": "Turn a bank customer's message into intent and urgency for routing",
        "task": {"type": "extraction", "schema": "answer.schema.json"},
        "success": [{"metric": "field_match.intent", "at_least": 0.4}],
    }
    result = run(tmp_path, baselines(use_case(tmp_path, objective=easy)))
    [check] = result.get_asset_check_evaluations()
    assert result.success
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "Fine-tuning is not needed" in (check.description or "")


def test_criteria_that_validation_rows_cannot_decide_are_named_and_left_to_step_7(tmp_path, upstream):
    sliced = {"metric": "exact_match", "at_least": 0.1, "slice": {"where": {"channel": "mail"}}}
    objective = {
        "goal": "Turn a bank customer's message into intent and urgency for routing",
        "task": {"type": "extraction", "schema": "answer.schema.json"},
        "success": [{"metric": "field_match.intent", "at_least": 0.4}, sliced],
    }
    result = run(tmp_path, baselines(use_case(tmp_path, objective=objective)))
    [check] = result.get_asset_check_evaluations()
    assert check.passed
    assert "Judged in step 7 only: exact_match at least 0.1 where channel mail." in (check.description or "")


def test_a_task_without_classes_has_no_classifier(tmp_path):
    store = artifact_store(tmp_path)
    rows = [Example(id=str(number), prompt=f"say {number}", completion=f"number {number}") for number in range(20)]
    kept_dataset(store, rows, rows[:10])
    kept_index(store, rows)
    kept_base_model(store, tiny_model(tmp_path / "model"))
    open_task = {
        "goal": "Answer the customer's question about opening hours from our notes",
        "task": {"type": "question_answering"},
        "success": [{"metric": "token_f1", "at_least": 0.9}],
    }
    assert run(tmp_path, baselines(use_case(tmp_path, objective=open_task))).success
    systems = {row["system"] for row in current(tmp_path, "baselines").json("baselines.json")["systems"]}
    assert {"majority", "base_zero_shot", "base_retrieval"} <= systems
    assert not systems & {"classifier", "word_classifier"}


def test_the_plan_is_kept_with_every_setting_as_a_number(tmp_path, upstream):
    result = run(tmp_path, training_plan(use_case(tmp_path)), "baselines")
    assert result.success
    artifact = current(tmp_path, "training_plan")
    plan = read_plan(artifact)
    assert (plan.technique.type, plan.hyperparameters.epochs, plan.hyperparameters.effective_batch) == ("lora", 3, 4)
    assert plan.placement.threads == 2
    document = json.loads(artifact.file("plan.json").read_text())
    assert {"technique", "hyperparameters", "placement", "options", "reason"} <= set(document)
    assert {row["setting"] for row in artifact.metadata["hyperparameters"]} >= {"epochs", "learning_rate", "max_length", "rank", "alpha"}


def test_another_place_is_another_plan_and_the_same_place_the_same(tmp_path, upstream):
    spec = use_case(tmp_path)
    prints = []
    for cores in (2, 4, 2):
        run(tmp_path, training_plan(spec), "baselines", cores=cores)
        prints.append(current(tmp_path, "training_plan").fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_a_plan_that_does_not_fit_stops_the_run(tmp_path, upstream):
    result = run(tmp_path, training_plan(use_case(tmp_path)), "baselines", memory_gib=0.5)
    [check] = result.get_asset_check_evaluations()
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
