"""The loop closes: quiet weeks, a new kind of message, drift, people's answers, a retrained version that takes over step by step."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.guide.dataset.review.hand_in import latest
from fine_tune_pipeline.guide.dataset.sources.production import REQUEST
from fine_tune_pipeline.resources.endpoint_client import EndpointClient, EndpointError, ServedAnswer, Unreachable
from fine_tune_pipeline_tests.end_to_end.guide_run import LABELS, NAME, NEW_LABELS, RAILWAY_TEXT, GuideRun, rows, what_failed
from fine_tune_pipeline_tests.waiting import wait_until

WINDOW = 50
QUIET_WINDOWS = 2
NEW_WINDOWS = 2

CANARY_ANSWERS = 20

PAUSE_SECONDS = 0.2
"""Between two questions of the customer: without it the endpoint would take a core from the retraining."""

pytestmark = pytest.mark.timeout(1800)
"""Both fixture and test run the guide; the general limit is for a test that hangs."""


@pytest.mark.usefixtures("first_seconds")
def test_a_new_kind_of_message_is_found_answered_by_people_learned_and_released_while_nobody_is_disturbed(run: GuideRun):
    _people_review_and_versions_are_released_step_by_step(run)
    prompts = [row["text"] for row in rows(9, seed=2, prefix="t")]
    before = _evaluated(run)

    _quiet_weeks_cause_nothing(run)
    request = _a_new_kind_of_message_asks_for_a_run(run)
    with _asking(run.endpoint(), prompts) as answers:
        _without_people_the_run_waits_and_no_model_comes_of_it(run, request)
        _people_answer(run)
        done = run.execute(f"{NAME}_retrain", tags=dict(request.tags))
        assert done.returncode == 0, what_failed(done)
        _the_champion_changes_when_the_canary_has_done_well(run, answers)
        seen = len(answers)
        wait_until(lambda: len(answers) > seen + len(prompts), what="answers of the new champion")

    _every_answer_is_wholly_one_versions(answers, {f"{NAME}-v1": before, f"{NAME}-v2": _evaluated(run)})
    assert {answer.model for _, answer in answers[-len(prompts) :]} == {f"{NAME}-v2"}
    _what_people_said_was_learned_and_what_was_known_was_kept(run)


def _people_review_and_versions_are_released_step_by_step(run: GuideRun) -> None:
    """What was made under the policy before stays; with the next retraining people look."""
    run.write(
        {
            "objective": {"guards": [{"metric": "accuracy", "versus": "champion", "margin": 0.2}]},
            "dataset": {"review": {"policy": "experts", "share": 0.01, "per_class": 0, "double_share": 0.0, "formats": ["jsonl"]}},
            # Smaller steps, more of them: at the first training's rate a model that knows two kinds of message may lose one.
            "training": {"epochs": 18, "learning_rate": 0.006},
            "deployment": {"canary": {"share": 0.5, "answers": CANARY_ANSWERS}},
        }
    )


def _quiet_weeks_cause_nothing(run: GuideRun) -> None:
    client = run.endpoint()
    for week in range(QUIET_WINDOWS):
        for row in rows(WINDOW, seed=30 + week, prefix="q"):
            client.answer(row["text"])
        said = _watched(run)
        assert isinstance(said, dg.SkipReason)
        assert f"drift in {WINDOW} requests" in (said.skip_message or "")


def _a_new_kind_of_message_asks_for_a_run(run: GuideRun) -> dg.RunRequest:
    """Whoever wrote it does not like the answer, and does not say which one is right."""
    client = run.endpoint()
    for row in _new_kind():
        client.feedback(client.answer(row["text"]).id, thumb="down")
    said = _watched(run)
    assert isinstance(said, dg.RunRequest)
    assert said.tags["drift_champion"] == f"{NAME}-v1"
    assert run.shown("drift_report")["for_review"] != 0
    return said


def _without_people_the_run_waits_and_no_model_comes_of_it(run: GuideRun, request: dg.RunRequest) -> None:
    made = len(run.store.history(NAME, "adapter"))
    done = run.execute(f"{NAME}_retrain", tags=dict(request.tags))
    assert done.returncode == 1
    assert int(str(run.shown("reviewed_examples")["waiting"])) >= len(_new_kind())
    assert run.command("review", NAME) == 4
    assert len(run.store.history(NAME, "adapter")) == made
    assert run.endpoint().answer(_new_kind()[0]["text"]).model == f"{NAME}-v1"


def _people_answer(run: GuideRun) -> None:
    """Every row of the hand-out gets its team: that of its colour, or the one for trains."""
    teams = {**LABELS, **NEW_LABELS}
    handout = latest(run.folder / "state" / "reviews" / NAME / "examples")
    verdicts = []
    for row in read_rows(handout.folder / "handout.jsonl"):
        [team] = {teams[word] for word in row["prompt"].split() if word in teams}
        right = {"verdict": "accept"} if row["completion"] == team else {"verdict": "fix", "completion": team}
        verdicts.append({"id": row["id"], "by": "Ann", **right})
    lines = run.folder / "verdicts.jsonl"
    lines.write_text("".join(json.dumps(verdict) + "\n" for verdict in verdicts), encoding="utf-8")
    assert run.command("review", NAME, str(lines)) == 0


def _the_champion_changes_when_the_canary_has_done_well(run: GuideRun, answers: list[tuple[str, ServedAnswer]]) -> None:
    def by_the_new_one() -> int:
        return sum(answer.model == f"{NAME}-v2" for _, answer in answers)

    wait_until(lambda: by_the_new_one() >= CANARY_ANSWERS, deadline_seconds=240, what="answers of the canary")
    assert run.store.current(NAME, "endpoint").json("endpoint.json")["live"]["name"] == f"{NAME}-v1"
    wait_until(lambda: run.command("release", NAME) == 0 and _live(run) == f"{NAME}-v2", deadline_seconds=240, what="the promotion")


def _live(run: GuideRun) -> str:
    return str(run.store.current(NAME, "endpoint").json("endpoint.json")["live"]["name"])


def _watched(run: GuideRun) -> object:
    log = TrafficLog.at(run.folder / "state" / "serving" / NAME)
    # A row may come into the log before its texts, which wait for the scrubber.
    wait_until(lambda: all(row.request.prompt_scrubbed is not None for row in log.window(10 * WINDOW)), what="the texts of all rows")
    done = run.materialize(f'key:"{NAME}/production_traffic" or key:"{NAME}/drift_report"')
    assert done.returncode == 0, what_failed(done)
    return run.drift_sensor()


def _new_kind() -> list[dict[str, str]]:
    """Messages about trains, all for one team, which the first training has not seen."""
    return rows(WINDOW * NEW_WINDOWS, seed=4, prefix="n", text=RAILWAY_TEXT, labels=NEW_LABELS)


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
    by_version = Counter(answer.model for _, answer in answers)
    assert set(by_version) == {f"{NAME}-v1", f"{NAME}-v2"}
    assert answers[0][1].model == f"{NAME}-v1"
    assert len({(answer.model, answer.sha256) for _, answer in answers}) == 2


def _what_people_said_was_learned_and_what_was_known_was_kept(run: GuideRun) -> None:
    dataset = run.store.current(NAME, "dataset")
    parts = {name: [row for row in read_rows(dataset.file(f"{name}.jsonl")) if row["source"] == REQUEST] for name in ("train", "fresh")}
    assert len(parts["train"]) > len(_new_kind()) / 2
    assert len(parts["fresh"]) > len(_new_kind()) / 10
    assert {row["metadata"]["model_version"] for row in parts["train"]} == {"1"}
    assert [row for row in read_rows(dataset.file("test.jsonl")) if row["source"] == REQUEST] == []
    report = run.store.current(NAME, "evaluation_report").json("report.json")
    fresh = {name: system["accuracy"]["estimate"] for name, system in report["retraining"]["fresh"]["systems"].items()}
    assert fresh["fine_tuned"] >= fresh["champion"] + 0.2
    old = {name: report["systems"][name]["accuracy"]["estimate"] for name in ("champion", "fine_tuned")}
    assert old["fine_tuned"] >= old["champion"] - 0.1
