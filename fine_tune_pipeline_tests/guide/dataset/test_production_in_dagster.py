"""Step 3 with rows of production, as Dagster runs it: nothing without people, and nothing that the test set has seen."""

import random

import pytest

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.artifacts.traffic import Feedback, TrafficLog
from fine_tune_pipeline.guide.dataset.sources.production import FEEDBACK, REQUEST
from fine_tune_pipeline_tests.guide.dataset.test_assets import House
from fine_tune_pipeline_tests.guide.deployment.release.log_rows import logged

ASKED = 40
PII = {"pii": {"entities": ["EMAIL_ADDRESS"]}}
EXPERTS = {"review": {"policy": "experts", "share": 0.01, "per_class": 0, "double_share": 0.0, "formats": ["jsonl"]}, **PII}
WORDS = (
    "platform", "signal", "carriage", "conductor", "ticket", "northern", "terminus", "express", "delay", "refund", "junction",
    "locomotive", "seat", "station",
)  # fmt: skip


@pytest.fixture
def house(tmp_path):
    """A dataset was made; then people asked about trains, and did not like what was answered."""
    made = House(tmp_path)
    draw = random.Random(1)
    log = TrafficLog.at(made.serving.state("fruit"))
    # Numbers keep them apart: like prompts would all be on one side.
    prompts = [" ".join(f"{draw.choice(WORDS)}{draw.randrange(10**5)}" for _ in range(8)) for _ in range(ASKED)]
    answers = ["apple", "plum"]
    log.append(
        [logged(n, use_case="fruit", prompt_scrubbed=text, answer_scrubbed=answers[n % 2]).request for n, text in enumerate(prompts)]
    )
    for number in range(ASKED):
        log.feedback(Feedback(f"r{number}", thumb="down"))
    return made


def parts(house):
    """Part -> request ids of its rows from production."""
    artifact = house.artifact("dataset")
    names = [name for name in ("train", "validation", "test", "fresh") if f"{name}.jsonl" in artifact.manifest.files]
    rows = {name: read_rows(artifact.file(f"{name}.jsonl")) for name in names}
    return {name: {row["metadata"]["request_id"] for row in found if row["source"] in (FEEDBACK, REQUEST)} for name, found in rows.items()}


def judge(house, *, verdict):
    """What a person says to every row that waits."""
    scrubbed = house.artifact("scrubbed_examples").fingerprint
    folder = ReviewFolder.at(house.store.review_root, use_case="fruit", kind="examples", fingerprint=scrubbed)
    rows = read_rows(folder.folder / "handout.jsonl")
    write_rows(folder.verdict_file, [{"id": row["id"], "by": "Kim", **verdict(row)} for row in rows])
    return rows


def test_disliked_requests_wait_for_people_and_then_are_trained_on_or_fresh_but_never_in_the_test(house):
    assert not house.run(**EXPERTS).success
    assert house.failed_checks() == ["reviewed"]
    assert house.artifact("dataset") is None
    assert house.artifact("raw_examples").metadata["sources"][-1]["source"] == REQUEST

    asked = judge(
        house, verdict=lambda row: {"verdict": "fix", "completion": "pear"} if "thumbs_down" in row["why"] else {"verdict": "accept"}
    )
    assert len([row for row in asked if row["source"] == REQUEST]) == ASKED
    assert house.run(**EXPERTS).success, house.failed_checks()
    found = parts(house)
    assert found["test"] == set()
    assert 0 < len(found["fresh"]) < ASKED / 2
    assert len(found["train"] | found["validation"] | found["fresh"]) == ASKED
    assert len(read_rows(house.artifact("dataset").file("test.jsonl"))) > 0
    fixed = read_rows(house.artifact("dataset").file("fresh.jsonl"))
    assert {(row["completion"], row["metadata"]["review"], row["metadata"]["model_version"]) for row in fixed} == {("pear", "fix", "1")}
    assert "second test set" in house.artifact("dataset").file("card.md").read_text(encoding="utf-8")
    assert house.run(**EXPERTS).success
    assert set(house.reused().values()) == {True}


def test_without_reviewers_they_are_not_used_and_the_dataset_is_what_it_was(house):
    assert house.run(**PII).success
    assert not any(parts(house).values())
    before = house.artifact("dataset").fingerprint
    log = TrafficLog.at(house.serving.state("fruit"))
    log.feedback(Feedback("r3", corrected="pear"))
    assert house.run(**PII).success
    assert house.artifact("dataset").fingerprint != before
    assert set.union(*parts(house).values()) == {"r3"}
