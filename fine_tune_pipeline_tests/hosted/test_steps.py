"""Steps 2 to 7 of a use case whose base model is tuned and asked at its provider."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.forecast import forecasts
from fine_tune_pipeline.guide.base_model.assets import base_model
from fine_tune_pipeline.guide.base_model.candidates import demands, judge
from fine_tune_pipeline.guide.base_model.hosted import hosted_refusals, still_offered, worries_of
from fine_tune_pipeline.guide.base_model.price import Cost
from fine_tune_pipeline.guide.environment.assets import environment
from fine_tune_pipeline.guide.training.adapter import read_train_result
from fine_tune_pipeline.guide.training.assets import adapter
from fine_tune_pipeline.programs.hosted.check import run as check_rows
from fine_tune_pipeline.programs.hosted.requests import CheckRequest, HostedJob, ReachRequest, ReachResult
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.rehearsal import Step
from fine_tune_pipeline.resources.compute.job import Ended, Job
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline.spec.hosted import ApiModel
from fine_tune_pipeline_tests.guide.technique.stand_ins import answer, artifact_store, examples, kept_dataset
from fine_tune_pipeline_tests.hosted.stand_in import KEY, MODEL, VARIABLE, Fault, Provider, provider_stand_in
from fine_tune_pipeline_tests.hosted.world import ASSETS, HostedCompute, given_data, hosted_use_case, materialize, tuned_is_right

CREATED = "POST /v1/fine_tuning/jobs$"
ASKED = "POST /v1/chat/completions$"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv(VARIABLE, KEY)
    with provider_stand_in(answer=tuned_is_right) as found:
        yield found


@pytest.fixture(autouse=True)
def data(tmp_path: Path) -> None:
    given_data(tmp_path)


def current(folder: Path, asset: str) -> Artifact:
    return artifact_store(folder).open().current("triage", asset, passed=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "mlflow.db"


def check(result: dg.ExecuteInProcessResult, name: str) -> Any:
    [found] = [each for each in result.get_asset_check_evaluations() if each.check_name == name]
    return found


def entry(provider: Provider, folder: Path, **changes: Any) -> ApiModel:
    found = hosted_use_case(folder, provider, **changes).base_model.candidates[0]
    assert isinstance(found, ApiModel)
    return found


def test_a_use_case_goes_from_the_candidate_to_predictions(provider, tmp_path, runs):
    assert materialize(tmp_path, hosted_use_case(tmp_path, provider), runs=runs).success
    predicted = current(tmp_path, "predictions")
    rows = read_rows(predicted.file("fine_tuned.jsonl"))
    wanted = {row["id"]: row["completion"] for row in read_rows(current(tmp_path, "dataset").file("test.jsonl"))}
    assert {row["id"]: row["text"] for row in rows} == wanted
    assert {row["logprob"] for row in rows} == {-0.25}
    assert {row["text"] for row in read_rows(predicted.file("base_zero_shot.jsonl"))} == {'{"intent": "I cannot say"}'}
    trained = read_train_result(current(tmp_path, "adapter"))
    assert (trained.rows, trained.steps, trained.tokens, trained.first_loss) == (32, 4, 12345, 2.0)
    assert current(tmp_path, "adapter").metadata["cost"] == pytest.approx(12345 * 25 / 1e6)
    scores = {row["system"]: row["exact_match"] for row in current(tmp_path, "baselines").json("baselines.json")["systems"]}
    assert scores["base_zero_shot"] == 0 < scores["base_few_shot"] < 1


def test_a_second_run_reuses_all_and_asks_for_nothing(provider, tmp_path, runs):
    spec = hosted_use_case(tmp_path, provider)
    materialize(tmp_path, spec, runs=runs)
    before = len(provider.asked)
    assert materialize(tmp_path, spec, runs=runs).success
    assert len(provider.asked) == before


def test_new_prices_and_dates_train_nothing_again(provider, tmp_path, runs):
    materialize(tmp_path, hosted_use_case(tmp_path, provider), runs=runs)
    later = date.today() + timedelta(days=400)
    assert materialize(
        tmp_path, hosted_use_case(tmp_path, provider, prices=None, shutdown_date=later, poll_seconds=0.002), runs=runs
    ).success
    assert len(provider.requests(CREATED)) == 1


def test_the_key_is_nowhere_but_in_the_environment(provider, tmp_path, runs):
    materialize(tmp_path, hosted_use_case(tmp_path, provider), runs=runs)
    files = [runs, *(path for path in tmp_path.rglob("*") if path.is_file())]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_the_curve_and_the_tuned_model_are_tracked(provider, tmp_path, runs):
    from mlflow import MlflowClient

    materialize(tmp_path, hosted_use_case(tmp_path, provider), runs=runs)
    trained = read_train_result(current(tmp_path, "adapter"))
    client = MlflowClient(tracking_uri=f"sqlite:///{runs}")
    assert trained.mlflow_run_id is not None
    losses = client.get_metric_history(trained.mlflow_run_id, "loss")
    assert [(point.step, point.value) for point in sorted(losses, key=lambda point: point.step)] == [(1, 2.0), (2, 1.5), (3, 1.0), (4, 0.6)]
    run = client.get_run(trained.mlflow_run_id)
    assert run.data.params["hosted.model"] == MODEL
    assert run.info.status == "FINISHED"


def test_the_plan_says_what_each_number_of_epochs_costs(provider, tmp_path, runs):
    materialize(tmp_path, hosted_use_case(tmp_path, provider), runs=runs)
    plan = current(tmp_path, "training_plan").json("plan.json")
    assert plan["job"]["epochs"] == 3
    assert plan["cost"] == pytest.approx(plan["tokens_per_epoch"] * 3 * 25 / 1e6)
    options = current(tmp_path, "training_plan").metadata["options"]
    assert [(option["epochs"], option["chosen"]) for option in options] == [(1, False), (2, False), (3, True), (4, False)]
    assert "memory" not in json.dumps(plan)


def test_without_prices_no_cost_is_invented(provider, tmp_path, runs):
    result = materialize(tmp_path, hosted_use_case(tmp_path, provider, prices=None), runs=runs)
    assert current(tmp_path, "training_plan").metadata["predicted_cost"] is None
    assert "cost is not known" in check(result, "fits").description


def test_what_a_run_would_cost_at_the_provider_is_told_before_it_starts(provider, tmp_path, runs):
    spec = hosted_use_case(tmp_path, provider)
    inventory = HostedCompute(record=str(tmp_path / "record")).inventory()
    steps = [Step("adapter", "build", "not made yet")]
    before = forecasts(spec, steps, artifact_store(tmp_path).open(), inventory)["adapter"]
    materialize(tmp_path, spec, only=ASSETS[:4], runs=runs)
    after = forecasts(spec, steps, artifact_store(tmp_path).open(), inventory)["adapter"]
    cost = current(tmp_path, "training_plan").json("plan.json")["cost"]
    assert before.cost == after.cost == Cost(cost, "USD")
    unpriced = hosted_use_case(tmp_path, provider, prices=None)
    found = forecasts(unpriced, steps, artifact_store(tmp_path).open(), inventory)["adapter"]
    assert (found.cost, found.basis) == (None, "not known before the first run; the provider's price is not written")


def test_a_place_that_does_not_inherit_our_environment_is_told_which_secret_to_hand_on(provider, tmp_path, monkeypatch):
    handed: list[tuple[str, ...]] = []
    execute = Local.execute

    def watched(place: Local, job: Job) -> Ended:
        handed.append(job.handed_on)
        return execute(place, job)

    monkeypatch.setattr(Local, "execute", watched)
    request = ReachRequest(output=str(tmp_path), hosted=provider.hosted())
    place = PlacedCompute(place=Local(hand_on=[]))

    @dg.asset
    def reached(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"listed": place.run(context, request, ReachResult).listed})

    assert dg.materialize([reached]).success
    assert handed == [(VARIABLE,)]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault("GET /v1/models", 401, times=99), "set STAND_IN_KEY to a key that is valid"),
        (Fault("GET /v1/models", 403, times=99), "may not do this"),
        (Fault("GET /v1/models", 429, {"code": "insufficient_quota"}, times=99), "add credit"),
        (Fault("GET /v1/models", 500, times=99), "all tries were used"),
    ],
)
def test_a_provider_that_cannot_be_used_stops_step_2_until_it_can(provider, tmp_path, runs, fault, says):
    provider.faults = [fault]
    spec = hosted_use_case(tmp_path, provider)
    assert says in check(materialize(tmp_path, spec, only=(base_model,), runs=runs), "weights_load").description
    provider.faults = []
    assert check(materialize(tmp_path, spec, only=(base_model,), runs=runs), "weights_load").passed


def test_a_model_that_the_provider_does_not_list_is_refused(provider, tmp_path, runs):
    result = materialize(tmp_path, hosted_use_case(tmp_path, provider, model="gpt-gone"), runs=runs)
    assert "does not list the model gpt-gone" in check(result, "weights_load").description
    assert provider.jobs == []


def test_waiting_for_a_provider_holds_no_accelerator(provider, tmp_path):
    spec = hosted_use_case(tmp_path, provider)
    assert {factory(spec).op.pool for factory in (environment, adapter)} == {None}
    either = spec.base_model.model_copy(update={"candidates": [*spec.base_model.candidates, "gemma-3-270m"]})
    assert {factory(spec.model_copy(update={"base_model": either})).op.pool for factory in (environment, adapter)} == {"gpu"}


def test_terms_that_nobody_accepted_are_refused(provider, tmp_path, runs):
    spec = hosted_use_case(tmp_path, provider, licence="LicenseRef-Other")
    result = materialize(tmp_path, spec, only=(base_model,), runs=runs)
    assert "accept_licences" in check(result, "licence_allows").description
    assert provider.asked == []


def test_what_has_been_shut_down_is_refused_and_what_will_be_is_warned_of(provider, tmp_path, runs):

    spec = hosted_use_case(tmp_path, provider, shutdown_date=date(2027, 1, 14), last_job_date=date(2027, 1, 6))
    candidates = judge(spec, demands(spec, HostedCompute(record=str(tmp_path / "record")).inventory()))
    [past] = still_offered(candidates, today=date(2027, 1, 14))
    assert past.refusals[0][0] == "shutdown"
    assert "move what was tuned to open weights" in past.verdict
    [before] = still_offered(candidates, today=date(2027, 1, 13))
    assert before.refusals == ()
    model = entry(provider, tmp_path, shutdown_date=date(2027, 1, 14), last_job_date=date(2027, 1, 6))
    assert worries_of(model, today=date(2026, 11, 27)) == [
        "mini takes no new jobs after 2027-01-06 (40 days)",
        "mini is shut down on 2027-01-14 (48 days)",
    ]
    assert worries_of(model, today=date(2026, 10, 1)) == []
    assert worries_of(entry(provider, tmp_path), today=date(2027, 5, 1)) == ["its prices are 181 days old; look them up again"]


def test_the_warning_is_new_every_day_though_the_artifact_is_reused(provider, tmp_path, runs):
    first = materialize(tmp_path, hosted_use_case(tmp_path, provider), only=(base_model,), runs=runs)
    soon = date.today() + timedelta(days=30)
    second = materialize(tmp_path, hosted_use_case(tmp_path, provider, shutdown_date=soon), only=(base_model,), runs=runs)
    assert "(30 days)" in check(second, "still_offered").description
    assert check(second, "still_offered").severity == dg.AssetCheckSeverity.WARN
    prints = [result.asset_materializations_for_node("triage__base_model")[0].metadata["fingerprint"].value for result in (first, second)]
    assert prints[0] == prints[1]


def test_no_new_job_is_created_after_the_last_day_for_jobs(provider, tmp_path, runs):
    result = materialize(tmp_path, hosted_use_case(tmp_path, provider, last_job_date=date(2026, 1, 6)), runs=runs)
    assert "takes no new jobs since 2026-01-06" in check(result, "preflight_passed").description
    assert provider.requests(CREATED) == []


@pytest.mark.parametrize(("day", "stops"), [("2026-01-14", True), ("2026-01-14T00:00:00Z", True), ("2999-01-01", False), ("soon", False)])
def test_a_shutdown_that_the_provider_tells_of_is_believed(provider, tmp_path, runs, day, stops):
    provider.models[0]["shutdown_date"] = day
    result = materialize(tmp_path, hosted_use_case(tmp_path, provider), only=ASSETS[:5], runs=runs)
    assert ("the provider says that gpt-test-mini was shut down" in check(result, "preflight_passed").description) == stops
    assert day in check(result, "weights_load").description


@pytest.mark.parametrize(
    ("sections", "rule"),
    [
        ({"training": {"learning_rate": 1e-4}}, "learning_rate_multiplier"),
        ({"training": {"epochs": 1.5}}, "whole passes"),
        ({"training": {"loss_on": "all"}}, "learns from the answers only"),
        ({"technique": {"type": "lora"}}, "needs weights, which mini keeps"),
    ],
)
def test_settings_that_mean_nothing_there_are_refused_instead_of_ignored(provider, tmp_path, runs, sections, rule):
    spec = hosted_use_case(tmp_path, provider, sections=sections)
    [(_, said)] = hosted_refusals(entry(provider, tmp_path), spec)
    assert rule in said


def test_rows_that_the_provider_would_refuse_are_named_before_anything_is_uploaded(provider, tmp_path, runs):

    few = examples(copies=1)
    few[3] = few[3].__class__(**{**few[3].row(), "prompt": " "})
    kept_dataset(artifact_store(tmp_path), few, examples(copies=1, prefix="validation"))

    dataset = current(tmp_path, "dataset")
    files = {part: str(dataset.file(f"{part}.jsonl")) for part in ("train", "validation")}
    hosted = provider.hosted().model_copy(update={"context_tokens": 20})
    job = HostedJob(format=PromptFormat(), epochs=1)
    found = check_rows(CheckRequest(output=str(tmp_path), hosted=hosted, job=job, **files), Reporter(None))
    assert found.problems[0] == "train row train-3: the prompt is empty"
    assert "training rows, want at least 10" in found.problems[1]
    assert "train-0" in found.over_long
    assert provider.requests("POST") == []


def test_rows_that_are_too_long_are_left_out_of_the_upload(provider, tmp_path, runs):
    sections = {"training": {"over_long_limit": 1.0}}
    tokens = {"context_tokens": 30_000}
    materialize(tmp_path, hosted_use_case(tmp_path, provider, sections=sections, **tokens), only=ASSETS[:1], runs=runs)

    rows = examples(copies=4)
    rows[0] = rows[0].__class__(id="long", prompt="my card is lost " + "x" * 120_000, completion=answer("card", "high"))
    kept_dataset(artifact_store(tmp_path), rows, examples(copies=2, prefix="validation"))
    assert materialize(tmp_path, hosted_use_case(tmp_path, provider, sections=sections, **tokens), runs=runs).success
    assert current(tmp_path, "adapter").metadata["ids_left_out"] == ["long"]
    assert len(provider.requests("POST /v1/files")[0]["content"].splitlines()) == 31


def test_a_failed_job_leaves_no_adapter_and_says_why(provider, tmp_path, runs):
    provider.states = ("validating_files", "failed")
    provider.failure = {"code": "invalid_training_file", "param": "training_file", "message": "too many examples were moderated"}
    result = materialize(tmp_path, hosted_use_case(tmp_path, provider), runs=runs)
    assert not result.success
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert "too many examples were moderated" in str(failed.event_specific_data)
    assert not (tmp_path / "store" / "triage" / "adapter" / "current.json").exists()


def test_predictions_that_broke_off_ask_only_for_what_is_missing(provider, tmp_path, runs):
    spec = hosted_use_case(tmp_path, provider)
    materialize(tmp_path, spec, only=ASSETS[:6], runs=runs)
    before = len(provider.requests(ASKED))
    provider.faults = [Fault(ASKED, 400, {"message": "told to fail"}, times=1)]
    assert not materialize(tmp_path, spec, only=ASSETS[6:], runs=runs).success
    assert materialize(tmp_path, spec, only=ASSETS[6:], runs=runs).success
    rows = len(read_rows(current(tmp_path, "predictions").file("fine_tuned.jsonl")))
    assert len(provider.requests(ASKED)) - before == 4 * rows + 1


@pytest.mark.parametrize("refused", [True, False])
def test_a_provider_without_probabilities_still_answers(provider, tmp_path, runs, refused):
    provider.logprobs = False
    provider.refuses = "logprobs" if refused else ""
    assert materialize(tmp_path, hosted_use_case(tmp_path, provider), runs=runs).success
    assert {row["logprob"] for row in read_rows(current(tmp_path, "predictions").file("fine_tuned.jsonl"))} == {None}
