"""What people finish starts the asset that reads it, and what waits for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest

from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.guide.dataset.review.queue import example_queue
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.review_sensors import examples_sensor
from fine_tune_pipeline.spec.evaluation import EvaluationSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.use_case import assets_of, build
from fine_tune_pipeline_tests.guide.dataset.make import use_case
from fine_tune_pipeline_tests.mlflow_people import People


@pytest.fixture
def reviews(tmp_path: Path) -> ReviewFolder:
    folder = ReviewFolder.at(tmp_path / "reviews", use_case="fruit", kind="examples", fingerprint="abc")
    folder.hand_out([{"id": "1"}])
    return folder


def tick(tmp_path: Path, cursor: str | None = None, tracking: ExperimentTracking | None = None) -> Any:
    spec = use_case(tmp_path, review={"formats": ["jsonl", *(["mlflow"] if tracking else [])]})
    store = ArtifactStore(url=str(tmp_path / "store"), reviews=str(tmp_path / "reviews"))
    bound = {"store": store} | ({"tracking": tracking} if tracking else {})
    return examples_sensor(spec)(dg.build_sensor_context(cursor=cursor, resources=bound))


def test_a_hand_out_alone_starts_nothing(tmp_path: Path, reviews: ReviewFolder):
    assert isinstance(tick(tmp_path), dg.SkipReason)


@pytest.mark.parametrize("name", ["verdicts.jsonl", "handed_in/kim.xlsx"])
def test_any_file_handed_in_starts_a_run_once(tmp_path: Path, reviews: ReviewFolder, name: str):
    reviews.handed_in.mkdir()
    (reviews.folder / name).write_bytes(b"one")
    first = tick(tmp_path)
    assert len(first.run_requests) == 1
    assert isinstance(tick(tmp_path, first.cursor), dg.SkipReason)
    (reviews.folder / name).write_bytes(b"two")
    second = tick(tmp_path, first.cursor)
    assert len(second.run_requests) == 1
    assert second.run_requests[0].run_key != first.run_requests[0].run_key


def test_the_cursor_of_an_earlier_version_is_understood(tmp_path: Path, reviews: ReviewFolder):
    reviews.verdict_file.write_bytes(b"one")
    first = tick(tmp_path)
    from_before = first.cursor.split('"')[1]
    assert isinstance(tick(tmp_path, from_before), dg.SkipReason)


def started(spec: UseCaseSpec, kind: str) -> set[str]:
    """What a run of the sensor materializes."""
    [sensor] = [sensor for sensor in build(spec).sensors or [] if sensor.name == f"{spec.name}_{kind}_reviewed"]
    [target] = sensor.targets
    return {key.path[-1] for key in target.resolvable_to_job.selection.resolve(list(assets_of(spec).values()))}


def test_finished_reviews_go_on_only_with_what_waits_for_them(tmp_path: Path):
    waits = use_case(tmp_path, review={"policy": "experts"})
    waits = waits.model_copy(update={"evaluation": EvaluationSpec.model_validate({"human": {"required": True}})})
    assert started(waits, "pairs") == {"human_evaluation", "registered_model", "endpoint", "production_traffic", "drift_report"}
    assert {"reviewed_examples", "dataset", "adapter", "endpoint"} <= started(waits, "examples")
    asks_nobody = use_case(tmp_path, review={"policy": "auto_accept"})
    assert started(asks_nobody, "pairs") == {"human_evaluation"}
    assert started(asks_nobody, "examples") == {"reviewed_examples"}


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_what_is_finished_in_mlflow_starts_a_run_once_without_a_file(tmp_path: Path, reviews: ReviewFolder, tracking: ExperimentTracking):
    people = People(tracking, "fruit_review")
    rows = [{"id": "1", "content": "c1", "prompt": "p", "completion": "pear", "why": "w", "look": "one person", "people": 1}]
    example_queue(tracking.uri, people.name).push(rows)
    assert isinstance(tick(tmp_path, tracking=tracking), dg.SkipReason)
    people.answer(people.items()["review: everybody"]["c1"], "kim", verdict="accept")
    first = tick(tmp_path, tracking=tracking)
    assert len(first.run_requests) == 1
    # What the run then pulls is a file, and no news.
    reviews.handed_in.mkdir()
    (reviews.handed_in / "mlflow.jsonl").write_bytes(b"{}")
    assert isinstance(tick(tmp_path, first.cursor, tracking), dg.SkipReason)


def test_mlflow_that_is_down_is_said_and_files_still_count(tmp_path: Path, reviews: ReviewFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = ExperimentTracking(uri="http://127.0.0.1:9")
    skipped = tick(tmp_path, tracking=dead)
    assert isinstance(skipped, dg.SkipReason)
    assert "MLflow at http://127.0.0.1:9 does not say what people have reviewed" in str(skipped.skip_message)
    reviews.verdict_file.write_bytes(b"one")
    assert len(tick(tmp_path, tracking=dead).run_requests) == 1


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[ExperimentTracking]:
    before = mlflow.get_tracking_uri()
    tracking = ExperimentTracking(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts"))
    mlflow.set_tracking_uri(tracking.uri)
    yield tracking
    mlflow.set_tracking_uri(before)
