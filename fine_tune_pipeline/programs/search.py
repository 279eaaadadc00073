"""AutoML as a program: trials of the training around the plan, one after another, judged by their answers to validation rows.

Killed at any moment, it goes on where it was: a rung that is written down is not repeated, a training goes on from its checkpoint, and
what is tried next follows from the records alone.
"""

from collections.abc import Sequence
from pathlib import Path

from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.programs.rows import read_rows
from fine_tune_pipeline.programs.search_requests import BASE_MODEL, SearchRequest, SearchResult, TrialRecord
from fine_tune_pipeline.programs.searching.budget import Spending
from fine_tune_pipeline.programs.searching.choice import beyond, choose
from fine_tune_pipeline.programs.searching.proposals import Journal, importance, proposal, quiet
from fine_tune_pipeline.programs.searching.records import Records
from fine_tune_pipeline.programs.searching.rung import Judged, climbed, curve_numbers, tidy
from fine_tune_pipeline.programs.searching.schedule import Climb, Over, Propose, Rules, finalists, next_step
from fine_tune_pipeline.programs.searching.space import size
from fine_tune_pipeline.programs.training.preemption import Preemption
from fine_tune_pipeline.programs.training.tracked_run import TrackedRun, tracked_run

PARENT_TAG = "mlflow.parentRunId"
"""By it MLflow shows trials below their search."""


class PlanFailed(RuntimeError):
    """Trial 0, the plan itself, cannot be trained, so that there is nothing to hold the others against."""


class TrialReporter(Reporter):
    """Says of everything which trial and rung it is about."""

    def __init__(self, outer: Reporter, name: str, **numbers: float) -> None:
        super().__init__(None)
        self._outer = outer
        self._name = name
        self._numbers = numbers

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        self._outer.progress(done, total, f"{self._name}: {what}", **self._numbers, **numbers)

    def log(self, message: str) -> None:
        self._outer.log(f"{self._name}: {message}")


class Search:
    """One run of the program on its records."""

    def __init__(self, request: SearchRequest, reporter: Reporter, preemption: Preemption, *, parent: TrackedRun | None) -> None:
        self._request = request
        self._reporter = reporter
        self._preemption = preemption
        self._parent = parent
        self._records = Records(request)
        self._higher = request.scoring.higher_is_better
        self._journal = Journal(self._records.journal, request.space, higher_is_better=self._higher)
        self._judged = Judged.of(request)
        files = {request.plan.train, *(recipe.train for recipe in request.recipes)}
        self._rows = {path: len(read_rows(path, text_fields=("id",))) for path in files}
        self._rules = Rules(request.trials, len(request.rungs), request.keep, self._higher)
        self._more = True

    def result(self) -> SearchResult:
        """Do what is left, and choose.

        Raises:
            PlanFailed: see there.
            Preempted: a signal has come.
        """
        while True:
            trials = self._records.all()
            self._journal.follow(trials)
            spent = Spending(self._request, trials, rows=self._rows)
            more = self._more and len(trials) < size(self._request.space)
            step = next_step(trials, self._rules, fits=spent.fits, more=more)
            match step:
                case Propose():
                    self._propose(trials, spent)
                case Climb(number=number, rung=rung):
                    self._climb(trials[number], rung, best=self._best(trials))
                case Over():
                    return self._result(trials, spent, skipped=step.skipped)

    def _propose(self, trials: Sequence[TrialRecord], spent: Spending) -> None:
        request = self._request
        found = proposal(request.space, trials, wanted=request.trials, seed=request.seed, higher_is_better=self._higher)
        self._more = found is not None
        if found is None:
            return
        record = TrialRecord(number=len(trials), parameters=found)
        # One that does not fit is not even written down: a larger budget would ask again, and get the same.
        if trials and not spent.fits(record, 0):
            self._more = False
            return
        self._records.keep(record)

    def _climb(self, trial: TrialRecord, rung: int, *, best: float | None) -> None:
        request, folder = self._request, self._records.place(trial.number) / f"rung-{rung + 1}"
        name = f"trial {trial.number}, rung {rung + 1} of {len(request.rungs)}"
        numbers = {"trial": float(trial.number), "rung": float(rung + 1), **({} if best is None else {"best": best})}
        reporter = TrialReporter(self._reporter, name, **numbers)
        with tracked_run(self._child(trial), earlier=trial.run_id) as tracked:
            if tracked is not None and trial.run_id != tracked.run_id:
                trial = trial.model_copy(update={"run_id": tracked.run_id})
                self._records.keep(trial)
            record = climbed(request, trial, rung, judged=self._judged, folder=folder, reporter=reporter, preemption=self._preemption)
            if tracked is not None:
                _track(tracked, trial, record.score, folder=folder, rung=rung, share=record.share)
        self._records.add(trial, record)
        tidy(folder)
        if record.failed and trial.number == 0:
            raise PlanFailed(
                f"trial 0, the plan as it is, cannot be trained: {record.failed}; leave training.search out and mend that first"
            )
        said = f"failed: {record.failed}" if record.failed else f"{self._metric} {record.score:.4f}, {record.seconds:.0f} s"
        reporter.log(f"{said}; {_shown(trial)}")
        if record.score is not None:
            top = record.score if best is None else (max if self._higher else min)(best, record.score)
            self._reporter.progress(1, 1, name, **{**numbers, "score": record.score, "best": top})

    def _child(self, trial: TrialRecord) -> Tracking | None:
        tracking = self._request.tracking
        if tracking is None or self._parent is None:
            return None
        tags = {**tracking.tags, PARENT_TAG: self._parent.run_id, "trial": str(trial.number)}
        return tracking.model_copy(update={"run_name": f"{tracking.run_name}, trial {trial.number}", "tags": tags})

    @property
    def _metric(self) -> str:
        return str(self._request.scoring.settings.get("metric", "score"))

    def _best(self, trials: Sequence[TrialRecord]) -> float | None:
        scores = [rung.score for trial in trials for rung in trial.rungs if rung.score is not None]
        return None if not scores else max(scores) if self._higher else min(scores)

    def _result(self, trials: Sequence[TrialRecord], spent: Spending, *, skipped: int) -> SearchResult:
        request, ended = self._request, list(finalists(trials, self._rules))
        own = [trial for trial in ended if trial.parameters.get(BASE_MODEL) == trials[0].parameters.get(BASE_MODEL)]
        taken = choose(own, metric=self._metric, higher_is_better=self._higher, level=request.level)
        missing = int(min(request.trials, size(request.space))) - len(trials)
        short = request.budget is not None and (skipped > 0 or missing > 0)
        budget = f"; {skipped + missing} trainings did not fit the budget of {request.budget.said}" if short and request.budget else ""
        result = SearchResult(
            metric=self._metric,
            higher_is_better=self._higher,
            trials=tuple(trials),
            choice=taken,
            other_base=beyond(
                trials[taken.number],
                [trial for trial in ended if trial not in own],
                metric=self._metric,
                higher_is_better=self._higher,
                level=request.level,
            ),
            importance=importance(request.space, trials, seed=request.seed, higher_is_better=self._higher),
            answered=len(self._judged.references),
            seconds=spent.seconds,
            outcome="budget" if short else "all trials",
            said=f"{len(trials)} trials in {spent.seconds / 60:.1f} minutes{budget}: {taken.why}",
            mlflow_run_id=None if self._parent is None else self._parent.run_id,
        )
        self._reporter.log(result.said)
        return result


def _track(tracked: TrackedRun, trial: TrialRecord, score: float | None, *, folder: Path, rung: int, share: float) -> None:
    if not tracked.reopened or not trial.rungs:
        for name, value in trial.parameters.items():
            tracked.parameter(name, value)
    for step, numbers in curve_numbers(folder, rung):
        tracked.numbers(step, numbers)
    if score is not None:
        tracked.numbers(round(100 * share), {"score": score})


def _shown(trial: TrialRecord) -> str:
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.parameters.items())


def run(request: SearchRequest, reporter: Reporter, preemption: Preemption | None = None) -> SearchResult:
    """Search to the end, or to the end of the budget.

    Raises:
        PlanFailed, Preempted: see `Search.result`.
    """
    quiet()
    records = Records(request)
    with tracked_run(request.tracking, earlier=records.begun.run_id) as parent:
        if parent is not None:
            records.tracked(parent.run_id)
        result = Search(request, reporter, preemption or Preemption(), parent=parent).result()
        if parent is not None:
            parent.numbers(0, {"gain_over_plan": result.choice.gain, "chosen_trial": float(result.choice.number)})
        return result


def main() -> None:
    """The command line."""
    preemption = Preemption()
    preemption.listen()
    request = parse(SearchRequest)
    quiet_libraries()
    with session() as reporter:
        finish(request, run(request, reporter, preemption))


if __name__ == "__main__":
    main()
