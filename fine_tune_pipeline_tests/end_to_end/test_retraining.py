"""The loop closes: production drifts, the sensor asks for a run, people's corrections are trained on, a new version takes over."""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.guide.dataset.sources.collect import FEEDBACK
from fine_tune_pipeline.resources.endpoint_client import EndpointClient, EndpointError, ServedAnswer, Unreachable
from fine_tune_pipeline_tests.end_to_end.guide_run import NAME, NEW_LABELS, RAILWAY_TEXT, GuideRun, rows, what_failed
from fine_tune_pipeline_tests.waiting import wait_until

REQUESTS = 50
"""The whole window of the drift report."""

PAUSE_SECONDS = 0.2
"""Between two questions of the customer: without it the endpoint would take a core from the retraining."""

pytestmark = pytest.mark.timeout(900)
"""Both fixture and test run the guide; the general limit is for a test that hangs."""


@pytest.mark.usefixtures("first_seconds")
def test_drift_leads_to_a_version_trained_on_the_corrections_and_no_answer_is_of_two(run: GuideRun):
    prompts = [row["text"] for row in rows(9, seed=2, prefix="t")]
    before = _evaluated(run)

    _quiet_traffic_is_skipped_with_the_number(run)
    request = _shifted_traffic_asks_for_a_run(run)
    with _asking(run.endpoint(), prompts) as answers:
        done = run.execute(f"{NAME}_retrain", tags=dict(request.tags))
        seen = len(answers)
        wait_until(lambda: len(answers) >= seen + len(prompts), what="answers after the run")

    assert done.returncode == 0, what_failed(done)
    assert run.shown("raw_examples")["corrections"] == REQUESTS
    assert run.shown("endpoint")["action"] == "adopted"
    _every_answer_is_wholly_one_versions(answers, {f"{NAME}-v1": before, f"{NAME}-v2": _evaluated(run)})
    _the_corrections_were_learned_from(run)


def _quiet_traffic_is_skipped_with_the_number(run: GuideRun) -> None:
    client = run.endpoint()
    for row in rows(REQUESTS, seed=3, prefix="q"):
        client.answer(row["text"])
    said = _watched(run)
    assert isinstance(said, dg.SkipReason)
    assert (said.skip_message or "").startswith(f"no drift in {REQUESTS} requests")


def _shifted_traffic_asks_for_a_run(run: GuideRun) -> dg.RunRequest:
    client = run.endpoint()
    for row in _new_kind(seed=4):
        client.feedback(client.answer(row["text"]).id, corrected=row["team"], source="expert")
    said = _watched(run)
    assert isinstance(said, dg.RunRequest)
    assert said.tags["drift_champion"] == f"{NAME}-v1"
    return said


def _watched(run: GuideRun) -> object:
    done = run.materialize(f'key:"{NAME}/production_traffic" or key:"{NAME}/drift_report"')
    assert done.returncode == 0, what_failed(done)
    return run.drift_sensor()


def _new_kind(*, seed: int) -> list[dict[str, str]]:
    """Messages about trains, whose colours the first training has not seen."""
    return rows(REQUESTS, seed=seed, prefix="n", text=RAILWAY_TEXT, labels=NEW_LABELS)


def _evaluated(run: GuideRun) -> dict[str, str]:
    """Answers of the tuned model on the test set, by prompt."""
    texts = {row["id"]: row["prompt"] for row in read_rows(run.store.current(NAME, "dataset").file("test.jsonl"))}
    answers = read_rows(run.store.current(NAME, "predictions").file("fine_tuned.jsonl"))
    return {texts[row["id"]]: row["text"] for row in answers}


@contextmanager
def _asking(client: EndpointClient, prompts: list[str]) -> Iterator[list[tuple[str, ServedAnswer]]]:
    """A customer who asks the same questions over and over; what was answered, in order."""
    answers: list[tuple[str, ServedAnswer]] = []
    failed: list[EndpointError | Unreachable] = []
    over = threading.Event()

    def ask() -> None:
        for prompt in itertools.cycle(prompts):
            if over.wait(PAUSE_SECONDS):
                return
            try:
                answers.append((prompt, client.answer(prompt)))
            except (EndpointError, Unreachable) as error:
                failed.append(error)
                return

    customer = threading.Thread(target=ask)
    customer.start()
    try:
        yield answers
    finally:
        over.set()
        customer.join()
    if failed:
        raise failed[0]


def _every_answer_is_wholly_one_versions(answers: list[tuple[str, ServedAnswer]], evaluated: dict[str, dict[str, str]]) -> None:
    assert [(prompt, answer) for prompt, answer in answers if answer.text != evaluated[answer.model][prompt]] == []
    by_version = [answer.model for _, answer in answers]
    old = Counter(by_version)[f"{NAME}-v1"]
    assert 0 < old < len(by_version)
    assert by_version == [f"{NAME}-v1"] * old + [f"{NAME}-v2"] * (len(by_version) - old)
    assert len({(answer.model, answer.sha256) for _, answer in answers}) == 2


def _the_corrections_were_learned_from(run: GuideRun) -> None:
    dataset = run.store.current(NAME, "dataset")
    learned = [row for part in ("train", "validation") for row in read_rows(dataset.file(f"{part}.jsonl")) if row["source"] == FEEDBACK]
    assert Counter((row["prompt"], row["completion"]) for row in learned) == Counter(
        (row["text"], row["team"]) for row in _new_kind(seed=4)
    )
    assert len([row for row in read_rows(dataset.file("train.jsonl")) if row["source"] == FEEDBACK]) > REQUESTS / 2
