"""Halving as a function of the records: what comes next, what is promoted, what a budget leaves out."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.search_requests import Budget, RungRecord, SearchRequest, TrialRecord
from fine_tune_pipeline.programs.searching.budget import Spending
from fine_tune_pipeline.programs.searching.schedule import Climb, Over, Propose, Rules, finalists, next_step, promoted
from fine_tune_pipeline_tests.programs.searching.searches import search_request

RULES = Rules(trials=8, rungs=3, keep=0.25, higher_is_better=True)


def done(rung: int, score: float | None, *, seconds: float = 1.0) -> RungRecord:
    return RungRecord(rung=rung, share=1.0, score=score, failed="" if score is not None else "OutOfMemory: no", seconds=seconds)


def played(rules: Rules, score: Callable[[int, int], float | None], *, fits: Callable[[TrialRecord, int], bool] = lambda trial, rung: True):
    """The whole search with these scores: the climbs in their order, and the records."""
    trials: list[TrialRecord] = []
    climbs: list[tuple[int, int]] = []
    while not isinstance(step := next_step(trials, rules, fits=fits, more=True), Over):
        if isinstance(step, Propose):
            trials.append(TrialRecord(number=len(trials), parameters={"rank": len(trials)}))
        if isinstance(step, Climb):
            climbs.append((step.number, step.rung))
            trial = trials[step.number]
            trials[step.number] = trial.model_copy(update={"rungs": (*trial.rungs, done(step.rung, score(*climbs[-1])))})
    return climbs, trials, step


def test_the_plan_goes_through_all_rungs_first_and_the_others_through_the_first_one_before_any_goes_on():
    climbs, _, _ = played(RULES, lambda number, rung: number / 10)
    assert climbs[:3] == [(0, 0), (0, 1), (0, 2)]
    assert climbs[3:10] == [(number, 0) for number in range(1, 8)]
    assert climbs[10:] == [(7, 1), (6, 1), (7, 2)]


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_what_is_promoted_is_the_best_share_and_the_plan_by_brute_force(higher: bool, seed: int):
    draw = random.Random(seed)
    rules = Rules(trials=draw.randint(2, 12), rungs=2, keep=draw.choice([0.1, 0.25, 0.5]), higher_is_better=higher)
    scores = [draw.choice([None, *(x / 4 for x in range(5))]) if number else 0.5 for number in range(rules.trials)]
    _, trials, _ = played(rules, lambda number, rung: scores[number])
    well = [number for number, score in enumerate(scores) if score is not None]
    wanted = math.ceil(rules.keep * len(well))
    went_on = {trial.number for trial in trials if len(trial.rungs) == 2}
    ranked = sorted(well, key=lambda number: ((-1 if higher else 1) * scores[number], number))
    assert went_on == {*ranked[: max(1, wanted)], 0}
    assert {trial.number for trial in finalists(trials, rules)} == went_on
    assert all(len(trials[number].rungs) == 1 for number, score in enumerate(scores) if score is None)


def test_where_it_was_broken_off_does_not_change_what_follows():
    climbs, trials, _ = played(RULES, lambda number, rung: (number * 7 % 5) / 10)
    for cut in range(1, len(climbs)):
        seen: dict[int, int] = {}
        for number, _ in climbs[:cut]:
            seen[number] = seen.get(number, 0) + 1
        before = [trial.model_copy(update={"rungs": trial.rungs[: seen.get(trial.number, 0)]}) for trial in trials]
        # Trials are proposed one by one, so those that come later are not there yet.
        before = [trial for trial in before if trial.number <= max(seen)]
        step = next_step(before, RULES, fits=lambda trial, rung: True, more=True)
        number, rung = climbs[cut]
        assert step == (Climb(number, rung) if number <= max(seen) else Propose())


def test_a_trial_that_failed_goes_no_further_and_a_search_may_end_with_the_plan_alone():
    climbs, trials, over = played(RULES, lambda number, rung: 0.5 if number == 0 else None)
    assert [trial.failed == "" for trial in trials] == [True] + [False] * 7
    assert promoted(trials, 1, RULES) == [0]
    assert (len(climbs), over) == (10, Over(0))


def test_what_does_not_fit_is_left_out_and_counted_but_never_the_plan():
    climbs, _, over = played(RULES, lambda number, rung: number / 10, fits=lambda trial, rung: rung == 0)
    assert [climb for climb in climbs if climb[1]] == [(0, 1), (0, 2)]
    assert over == Over(2)


def request(folder: Path, budget: float | None) -> SearchRequest:
    asked = search_request(folder, model=folder, data=folder / "train.jsonl")
    assert asked.plan.format == PromptFormat()
    return asked.model_copy(update={"budget": None if budget is None else Budget(seconds=budget, said="so much")})


def test_estimates_scale_what_was_measured_by_rows_epochs_and_share(tmp_path: Path):
    asked = request(tmp_path, None)
    rows = {asked.plan.train: 24}
    fresh = Spending(asked, [], rows=rows)
    assert fresh.estimate({"rank": 8}, 0.5) == pytest.approx(5.0)
    rungs = tuple(
        done(place, 0.5, seconds=seconds).model_copy(update={"share": share, "answering_seconds": 2.0})
        for place, share, seconds in ((0, 0.5, 12.0), (1, 1.0, 22.0))
    )
    spent = Spending(asked, [TrialRecord(number=0, parameters={"rank": 8}, rungs=rungs)], rows=rows)
    assert spent.seconds == 34.0
    assert spent.estimate({"rank": 8}, 0.25) == pytest.approx(2 + 5)
    assert spent.estimate({"epochs": 4.0}, 0.5) == pytest.approx(2 + 20)


@pytest.mark.parametrize(("budget", "first", "last"), [(None, True, True), (68.0, True, True), (67.9, False, True), (55.0, False, False)])
def test_a_first_rung_needs_room_for_a_last_one_too(tmp_path: Path, budget: float | None, first: bool, last: bool):
    asked = request(tmp_path, budget)
    rungs = tuple(
        done(place, 0.5, seconds=seconds).model_copy(update={"share": share, "answering_seconds": 2.0})
        for place, share, seconds in ((0, 0.5, 12.0), (1, 1.0, 22.0))
    )
    spent = Spending(asked, [TrialRecord(number=0, parameters={"rank": 8}, rungs=rungs)], rows={asked.plan.train: 24})
    new = TrialRecord(number=1, parameters={"rank": 2})
    assert (spent.fits(new, 0), spent.fits(new, 1)) == (first, last)
