"""What people hand in starts the asset that reads it."""

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.review_sensors import review_sensor
from fine_tune_pipeline_tests.guide.dataset.make import use_case


@pytest.fixture
def reviews(tmp_path):
    folder = ReviewFolder.at(tmp_path / "reviews", use_case="fruit", kind="examples", fingerprint="abc")
    folder.hand_out([{"id": "1"}])
    return folder


def tick(tmp_path, cursor=None):
    sensor = review_sensor(use_case(tmp_path), kind="examples", asset="reviewed_examples")
    store = ArtifactStore(url=str(tmp_path / "store"), reviews=str(tmp_path / "reviews"))
    return sensor(dg.build_sensor_context(cursor=cursor, resources={"store": store}))


def test_a_hand_out_alone_starts_nothing(tmp_path, reviews):
    assert isinstance(tick(tmp_path), dg.SkipReason)


@pytest.mark.parametrize("name", ["verdicts.jsonl", "handed_in/kim.xlsx"])
def test_any_file_handed_in_starts_a_run_once(tmp_path, reviews, name):
    reviews.handed_in.mkdir()
    (reviews.folder / name).write_bytes(b"one")
    first = tick(tmp_path)
    assert len(first.run_requests) == 1
    assert isinstance(tick(tmp_path, first.cursor), dg.SkipReason)
    (reviews.folder / name).write_bytes(b"two")
    assert len(tick(tmp_path, first.cursor).run_requests) == 1
