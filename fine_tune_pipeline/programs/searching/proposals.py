"""What to try next: Optuna's multivariate TPE, asked for one trial at a time.

A proposal follows from the trials before it and the seed alone, whatever was broken off in between. Optuna's journal is a record
that its own tools read (`optuna-dashboard journal.log`); it is compared with our records and written anew where it was torn.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from fine_tune_pipeline.programs.search_requests import Dimension, Parameters, TrialRecord, Value
from fine_tune_pipeline.programs.searching.schedule import known
from fine_tune_pipeline.programs.searching.space import defaults, points, size

NAME = "search"

FEWEST_RANDOM, MOST_RANDOM = 3, 10
"""Trials before the model of good and bad ones is asked: half of all, as far as that lies between the two."""

TRIES = 20
"""Seeds that are asked for a point that was not tried yet, before any such is taken."""

DIGITS = 3
"""Of a rate: more say nothing, and cannot be read."""


def proposal(
    space: Sequence[Dimension], trials: Sequence[TrialRecord], *, wanted: int, seed: int, higher_is_better: bool, at_once: int = 1
) -> Parameters | None:
    """The next point; None when all have been tried.

    Args:
        trials: those before, by number.
        wanted: trials in all.
        at_once: trainings at the same time; as many trials but one, the last ones, count as running even if their results are there. TPE
            takes these for bad ones (`constant_liar`), so that it looks elsewhere.
    """
    if not trials:
        return defaults(space)
    tried = [trial.parameters for trial in trials]
    judged = known(trials, at_once)
    before = [trial for record in judged if (trial := _frozen(space, record)).state.is_finished()]
    running = [_frozen(space, record.model_copy(update={"rungs": ()})) for record in trials[len(judged) :]]
    if len(tried) >= size(space):
        return None
    for turn in range(TRIES):
        study = optuna.create_study(direction=_direction(higher_is_better), sampler=_sampler(wanted, (seed, len(trials), turn)))
        study.add_trials([*before, *running])
        asked = study.ask(_distributions(space)).params
        found = {one.name: _own(one, asked[one.name]) for one in space}
        if found not in tried:
            return found
    return next((point for point in points(space, seed=seed) if point not in tried), None)


class Journal:
    """Optuna's own record of a search."""

    def __init__(self, path: Path, space: Sequence[Dimension], *, higher_is_better: bool) -> None:
        self._path = path
        self._space = space
        self._direction = _direction(higher_is_better)

    def follow(self, trials: Sequence[TrialRecord]) -> optuna.Study:
        """The study with these trials; what the file lacks is added, and a file that says something else is written anew."""
        study = self._agreeing(trials)
        if study is None:
            self._path.unlink(missing_ok=True)
            study = self._open(self._path)
        known = study.get_trials(deepcopy=False)
        for record in trials[len(known) :]:
            study.enqueue_trial(record.parameters)
            study.ask(_distributions(self._space))
        for record, trial in zip(trials, study.get_trials(deepcopy=False), strict=True):
            if record.rungs and not trial.state.is_finished():
                wanted = _frozen(self._space, record)
                study.tell(trial.number, wanted.value, state=wanted.state)
        return study

    def _agreeing(self, trials: Sequence[TrialRecord]) -> optuna.Study | None:
        # A file whose last line was torn can be read, and not be written to any more.
        if not self._path.exists() or not self._path.read_bytes().endswith(b"\n"):
            return None
        try:
            study = self._open(self._path)
            found = study.get_trials(deepcopy=False)
        except (ValueError, KeyError):
            return None
        same = len(found) <= len(trials) and all(_agrees(trial, record) for trial, record in zip(found, trials, strict=False))
        return study if same else None

    def _open(self, path: Path) -> optuna.Study:
        storage = JournalStorage(JournalFileBackend(str(path)))
        return optuna.create_study(study_name=NAME, storage=storage, direction=self._direction, load_if_exists=True)


def importance(space: Sequence[Dimension], trials: Sequence[TrialRecord], *, seed: int, higher_is_better: bool) -> dict[str, float]:
    """Share of each parameter in the spread of the first rung's scores, the largest first; empty where nothing is to be told.

    All trials have that rung, with as many steps as their epochs say.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction=_direction(higher_is_better))
    study.add_trials([trial for record in trials if (trial := _frozen(space, record)).state == TrialState.COMPLETE])
    values = {trial.value for trial in study.get_trials(deepcopy=False)}
    if len(values) < 2 or not space:
        return {}
    with warnings.catch_warnings():
        # It divides by the variance of each tree, which may be nothing with few trials.
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: float(value) for name, value in found.items() if value == value}


def quiet() -> None:
    """Optuna says every trial itself; ours are said once."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _agrees(trial: FrozenTrial, record: TrialRecord) -> bool:
    if not trial.state.is_finished() and trial.state != TrialState.RUNNING:
        return False
    value = record.rungs[0].score if record.rungs else None
    return trial.params == record.parameters and (not trial.state.is_finished() or trial.value == value)


def _sampler(wanted: int, seeds: tuple[int, int, int]) -> optuna.samplers.TPESampler:
    seed, number, turn = seeds
    random = min(MOST_RANDOM, max(FEWEST_RANDOM, wanted // 2))
    return optuna.samplers.TPESampler(n_startup_trials=random, seed=(seed * 100_003 + number * 101 + turn) % 2**32)


def _frozen(space: Sequence[Dimension], record: TrialRecord) -> FrozenTrial:
    """As Optuna keeps it: judged by the first rung, which all trials have."""
    score = record.rungs[0].score if record.rungs else None
    state = TrialState.RUNNING if not record.rungs else TrialState.FAIL if score is None else TrialState.COMPLETE
    return optuna.trial.create_trial(state=state, params=record.parameters, distributions=_distributions(space), value=score)


def _distributions(space: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    return {one.name: _distribution(one) for one in space}


def _distribution(one: Dimension) -> BaseDistribution:
    if one.values:
        return CategoricalDistribution(one.values)
    assert one.low is not None
    assert one.high is not None
    return FloatDistribution(one.low, one.high, log=one.log)


def _own(one: Dimension, value: Value) -> Value:
    """A number of a range to a few digits, within the range."""
    if one.values:
        return value
    assert one.low is not None
    assert one.high is not None
    return min(max(float(f"{value:.{DIGITS}g}"), one.low), one.high)


def _direction(higher_is_better: bool) -> str:
    return "maximize" if higher_is_better else "minimize"
