"""Proposals follow from the records and the seed; Optuna's journal says the same as the records, whatever was torn."""

from pathlib import Path
from statistics import fmean

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from fine_tune_pipeline.programs.search_requests import Dimension, RungRecord, TrialRecord
from fine_tune_pipeline.programs.searching.proposals import Journal, importance, proposal, quiet

RATE = Dimension(name="learning_rate", default=1e-3, low=1e-4, high=1e-2)
RANK = Dimension(name="rank", default=8, values=(2, 8, 32))
DROP = Dimension(name="drop_suspects", default=False, values=(False, True))
SPACE = (RATE, RANK, DROP)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


def judged(trial: TrialRecord, score: float | None) -> TrialRecord:
    rung = RungRecord(rung=0, share=0.25, score=score, failed="" if score is not None else "Diverged: no", seconds=1.0)
    return trial.model_copy(update={"rungs": (rung,)})


def trials_of(count: int, *, space: tuple[Dimension, ...] = SPACE, seed: int = 0) -> list[TrialRecord]:
    """Scores that are best at a rate of 3e-3."""
    found: list[TrialRecord] = []
    while len(found) < count:
        parameters = proposal(space, found, wanted=count, seed=seed, higher_is_better=True)
        assert parameters is not None
        score = 1 - abs(float(parameters.get("learning_rate", 0)) - 3e-3) * 100
        found.append(judged(TrialRecord(number=len(found), parameters=parameters), None if len(found) == 3 else score))
    return found


def read(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=JournalStorage(JournalFileBackend(str(path))))


def test_the_first_is_the_plan_and_the_others_are_new_within_the_space_and_follow_from_the_seed():
    found = [trial.parameters for trial in trials_of(12)]
    assert found[0] == {"learning_rate": 1e-3, "rank": 8, "drop_suspects": False}
    assert all(1e-4 <= float(one["learning_rate"]) <= 1e-2 and one["rank"] in (2, 8, 32) for one in found)
    assert all(float(f"{float(one['learning_rate']):.3g}") == one["learning_rate"] for one in found[1:])
    assert all(one not in found[:place] for place, one in enumerate(found))
    assert found == [trial.parameters for trial in trials_of(12)]
    assert found[1:] != [trial.parameters for trial in trials_of(12, seed=1)][1:]


@pytest.mark.parametrize("at_once", [2, 4])
def test_a_proposal_beside_running_trials_does_not_know_their_scores(at_once: int):
    before = trials_of(12)
    told = proposal(SPACE, before, wanted=12, seed=0, higher_is_better=True, at_once=at_once)
    for place in range(12 - at_once + 1, 12):
        other = [judged(one, 0.999) if one.number == place else one for one in before]
        gone = [one.model_copy(update={"rungs": ()}) if one.number == place else one for one in before]
        assert proposal(SPACE, other, wanted=12, seed=0, higher_is_better=True, at_once=at_once) == told
        assert proposal(SPACE, gone, wanted=12, seed=0, higher_is_better=True, at_once=at_once) == told
    assert told not in [one.parameters for one in before]
    first = [judged(before[0], 2.0), *before[1:]]
    assert proposal(SPACE, first, wanted=12, seed=0, higher_is_better=True, at_once=at_once) != told


def test_good_scores_draw_the_proposals_nearer():
    scores = [trial.rungs[0].score for seed in range(3) for trial in trials_of(25, seed=seed)[1:] if trial.rungs[0].score is not None]
    each = len(scores) // 3
    first = [score for seed in range(3) for score in scores[seed * each : seed * each + 9]]
    later = [score for seed in range(3) for score in scores[seed * each + 9 : (seed + 1) * each]]
    assert fmean(later) > fmean(first) + 0.05


def test_a_space_of_few_points_is_tried_whole_and_then_ends():
    space = (RANK, DROP)
    found = trials_of(6, space=space)
    assert len({(one.parameters["rank"], one.parameters["drop_suspects"]) for one in found}) == 6
    assert proposal(space, found, wanted=20, seed=0, higher_is_better=True) is None


def test_the_journal_follows_the_records_trial_by_trial(tmp_path: Path):
    journal, records = Journal(tmp_path / "journal.log", SPACE, higher_is_better=True), trials_of(5)
    for count, record in enumerate(records):
        journal.follow([*records[:count], record.model_copy(update={"rungs": ()})])
        assert read(tmp_path / "journal.log").trials[-1].state == TrialState.RUNNING
        journal.follow(records[: count + 1])
    study = read(tmp_path / "journal.log")
    assert [trial.params for trial in study.trials] == [record.parameters for record in records]
    assert [trial.value for trial in study.trials] == [record.rungs[0].score for record in records]
    assert study.trials[3].state == TrialState.FAIL
    assert study.best_trial.number == max((0, 1, 2, 4), key=lambda place: records[place].rungs[0].score or 0)


@pytest.mark.parametrize("damage", ["torn", "no end", "garbage", "more trials", "other score", "gone"])
def test_a_journal_that_says_something_else_is_written_anew(tmp_path: Path, damage: str):
    path, records = tmp_path / "journal.log", trials_of(5)
    journal = Journal(path, SPACE, higher_is_better=True)
    journal.follow(records)
    raw = path.read_bytes()
    if damage == "torn":
        path.write_bytes(raw[:-9])
    elif damage == "no end":
        path.write_bytes(raw[:-1])
    elif damage == "garbage":
        path.write_bytes(raw[:200] + b"\x00garbage\n" + raw[200:])
    elif damage == "more trials":
        records = records[:3]
    elif damage == "other score":
        records = [*records[:4], judged(records[4], 0.123)]
    else:
        path.unlink()
    journal.follow(records)
    study = read(path)
    assert [trial.params for trial in study.trials] == [record.parameters for record in records]
    assert [trial.value for trial in study.trials] == [record.rungs[0].score for record in records]


def test_importance_finds_what_decides_the_score_and_says_nothing_of_equal_ones():
    found = importance(SPACE, trials_of(16), seed=0, higher_is_better=True)
    assert next(iter(found)) == "learning_rate"
    assert sum(found.values()) == pytest.approx(1)
    equal = [judged(trial, 0.5) for trial in trials_of(6)]
    assert importance(SPACE, equal, seed=0, higher_is_better=True) == {}
