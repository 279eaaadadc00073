"""Halving as a function of the records: what comes next, what is promoted, what a budget leaves out."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.search_requests import Budget, RungRecord, SearchRequest, TrialRecord
from fine_tune_pipeline.programs.searching.budget import Spending
from fine_tune_pipeline.programs.searching.schedule import Climb, Over, Propose, Rules, Wait, finalists, next_step, promoted
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


def played_together(rules: Rules, score: Callable[[int, int], float | None], *, seed: int):
    """The same with `rules.at_once` places, in which trainings end in any order: what was running beside each climb, and the records."""
    draw, trials, running = random.Random(seed), list[TrialRecord](), list[int]()
    beside: list[tuple[int, int, tuple[int, ...]]] = []
    while not isinstance(step := next_step(trials, rules, fits=lambda trial, rung: True, more=True, running=running), Over):
        if isinstance(step, Propose):
            trials.append(TrialRecord(number=len(trials), parameters={"rank": len(trials)}))
        if isinstance(step, Climb):
            beside.append((step.number, step.rung, tuple(running)))
            running.append(step.number)
        if isinstance(step, Wait):
            number = running.pop(draw.randrange(len(running)))
            trial = trials[number]
            rung = len(trial.rungs)
            trials[number] = trial.model_copy(update={"rungs": (*trial.rungs, done(rung, score(number, rung)))})
    return beside, trials


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_several_at_once_end_with_the_same_records_in_whatever_order_they_end(at_once: int, alone: bool):
    scores = [0.5, None, 0.9, 0.4, 0.8, 0.1, 0.2, 0.7]
    _, wanted, _ = played(RULES, lambda number, rung: scores[number])
    rules = replace(RULES, at_once=at_once, plan_alone=alone)
    for seed in range(20):
        beside, trials = played_together(rules, lambda number, rung: scores[number], seed=seed)
        assert trials == wanted
        assert max(len(others) for _, _, others in beside) == at_once - 1 or at_once == 8
        assert all(0 not in others for number, _, others in beside if alone)


@pytest.mark.parametrize("seed", range(10))
def test_nobody_goes_on_before_all_of_a_rung_are_judged(seed: int):
    rules = replace(RULES, at_once=3, plan_alone=False)
    begun: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    beside, _ = played_together(rules, lambda number, rung: number / 10, seed=seed)
    for number, rung, others in beside:
        begun[rung].add(number)
        if rung and number:
            assert begun[0] == set(range(8))
            assert not [other for other in others if other and other not in begun[rung]]


def test_a_trial_is_proposed_when_the_results_that_it_follows_from_are_there():
    rules = replace(RULES, at_once=3, plan_alone=False)
    trials = [TrialRecord(number=number, parameters={"rank": number}) for number in range(4)]
    trials[2] = trials[2].model_copy(update={"rungs": (done(0, 0.5),)})
    # Trial 4 follows from the trials 0, 1 and 2, whatever else has ended.
    for judged, step in (((0,), Wait()), ((0, 1), Propose()), ((0, 1, 3), Propose())):
        seen = [one.model_copy(update={"rungs": (done(0, 0.5),)}) if one.number in judged else one for one in trials]
        seen[0] = seen[0].model_copy(update={"rungs": (done(0, 0.5), done(1, 0.5), done(2, 0.5))})
        running = [one.number for one in seen if not one.rungs]
        assert next_step(seen, rules, fits=lambda trial, rung: True, more=True, running=running) == step


def test_what_is_under_way_counts_as_spent(tmp_path: Path):
    rungs = tuple(
        done(place, 0.5, seconds=seconds).model_copy(update={"share": share, "answering_seconds": 2.0})
        for place, share, seconds in ((0, 0.5, 12.0), (1, 1.0, 22.0))
    )
    trials = [TrialRecord(number=0, parameters={"rank": 8}, rungs=rungs), TrialRecord(number=1, parameters={"rank": 2})]
    new = TrialRecord(number=2, parameters={"rank": 4})
    # Spent 34 s; a first rung takes 12 s, and a last one after it, 22 s, must fit too.
    for budget, alone, beside in ((67.9, False, False), (68.0, True, False), (79.9, True, False), (80.0, True, True)):
        asked = request(tmp_path, budget)
        fits = [Spending(asked, trials, rows={asked.plan.train: 24}, running=running).fits(new, 0) for running in ((), (1,))]
        assert fits == [alone, beside]


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
