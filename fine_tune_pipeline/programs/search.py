"""AutoML as a program: trials of the training around the plan, judged by their answers to validation rows; one after another here, or
several at a time on the nodes of a Ray cluster.

Killed at any moment, it goes on where it was: a rung that is written down is not repeated, a training goes on from its checkpoint, and
what is tried next follows from the records alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.programs.rows import read_rows
from fine_tune_pipeline.programs.search_requests import BASE_MODEL, RungRecord, SearchRequest, SearchResult, TrialRecord
from fine_tune_pipeline.programs.searching.budget import Spending
from fine_tune_pipeline.programs.searching.choice import beyond, choose
from fine_tune_pipeline.programs.searching.elsewhere import Elsewhere
from fine_tune_pipeline.programs.searching.nodes import Nodes
from fine_tune_pipeline.programs.searching.proposals import Journal, importance, proposal, quiet
from fine_tune_pipeline.programs.searching.ray_nodes import ray_nodes
from fine_tune_pipeline.programs.searching.records import Records
from fine_tune_pipeline.programs.searching.rung import Judged, curve_numbers, tidy
from fine_tune_pipeline.programs.searching.schedule import Climb, Over, Propose, Rules, Wait, finalists, next_step
from fine_tune_pipeline.programs.searching.space import size
from fine_tune_pipeline.programs.searching.telling import TrialReporter
from fine_tune_pipeline.programs.searching.workers import Here, Work, Workers
from fine_tune_pipeline.programs.training.preemption import Preemption
from fine_tune_pipeline.programs.training.tracked_run import TrackedRun, tracked_run

PARENT_TAG = "mlflow.parentRunId"
"""By it MLflow shows trials below their search."""


class PlanFailed(RuntimeError):
    """Trial 0, the plan itself, cannot be trained, so that there is nothing to hold the others against."""


@dataclass(frozen=True)
class Flight:
    """A trial on its way: what was asked for, its run, and the stack that closes it."""

    work: Work
    reporter: TrialReporter
    tracked: TrackedRun | None
    open: ExitStack
    numbers: dict[str, float]


class Search:
    """One run of the program on its records."""

    def __init__(
        self, request: SearchRequest, reporter: Reporter, preemption: Preemption, *, parent: TrackedRun | None, nodes: Nodes | None
    ) -> None:
        self._request = request
        self._reporter = reporter
        self._parent = parent
        self._records = Records(request)
        self._higher = request.scoring.higher_is_better
        self._journal = Journal(self._records.journal, request.space, higher_is_better=self._higher)
        self._judged = Judged.of(request)
        files = {request.plan.train, *(recipe.train for recipe in request.recipes)}
        self._rows = {path: len(read_rows(path, text_fields=("id",))) for path in files}
        # A budget holds only as far as trainings can be foreseen, which takes one that was measured.
        alone = request.at_once == 1 or request.budget is not None
        self._rules = Rules(request.trials, len(request.rungs), request.keep, self._higher, at_once=request.at_once, plan_alone=alone)
        self._more = True
        self._workers: Workers = Here(request, self._judged, preemption) if nodes is None else Elsewhere(request, nodes, reporter)
        self._flights: dict[int, Flight] = {}
        self._open = ExitStack()

    def result(self) -> SearchResult:
        """Do what is left, and choose.

        Raises:
            PlanFailed, TrialBroken: see there.
            Preempted: a signal has come.
        """
        # Runs of trials that are under way when this breaks off are closed with the reason.
        with self._open:
            return self._searched()

    def _searched(self) -> SearchResult:
        while True:
            trials = self._records.all()
            self._journal.follow(trials)
            spent = Spending(self._request, trials, rows=self._rows, running=self._flights)
            more = self._more and len(trials) < size(self._request.space)
            step = next_step(trials, self._rules, fits=spent.fits, more=more, running=self._flights)
            match step:
                case Propose():
                    self._propose(trials, spent)
                case Climb(number=number, rung=rung):
                    self._begin(trials[number], rung, best=self._best(trials))
                case Wait():
                    self._land()
                case Over():
                    return self._result(trials, spent, skipped=step.skipped)

    def _propose(self, trials: Sequence[TrialRecord], spent: Spending) -> None:
        request = self._request
        found = proposal(
            request.space, trials, wanted=request.trials, seed=request.seed, higher_is_better=self._higher, at_once=request.at_once
        )
        self._more = found is not None
        if found is None:
            return
        record = TrialRecord(number=len(trials), parameters=found)
        # One that does not fit is not even written down: a larger budget would ask again, and get the same.
        if trials and not spent.fits(record, 0):
            # What is under way may take less than was foreseen.
            self._more = bool(self._flights)
            if self._flights:
                self._land()
            return
        self._records.keep(record)

    def _begin(self, trial: TrialRecord, rung: int, *, best: float | None) -> None:
        request, folder = self._request, self._records.place(trial.number) / f"rung-{rung + 1}"
        name = f"trial {trial.number}, rung {rung + 1} of {len(request.rungs)}"
        numbers = {"trial": float(trial.number), "rung": float(rung + 1)}
        reporter = TrialReporter(self._reporter, name, **numbers, **({} if best is None else {"best": best}))
        closing = self._open.enter_context(ExitStack())
        tracked = closing.enter_context(tracked_run(self._child(trial), earlier=trial.run_id))
        if tracked is not None and trial.run_id != tracked.run_id:
            trial = trial.model_copy(update={"run_id": tracked.run_id})
            self._records.keep(trial)
        work = Work(trial, rung, folder)
        self._flights[trial.number] = Flight(work, reporter, tracked, closing, numbers)
        self._workers.start(work, reporter)

    def _land(self) -> None:
        for number, record in self._workers.ended():
            self._landed(self._flights.pop(number), record)

    def _landed(self, flight: Flight, record: RungRecord) -> None:
        trial, rung, folder = flight.work.trial, flight.work.rung, flight.work.folder
        with flight.open:
            if flight.tracked is not None:
                _track(flight.tracked, trial, record.score, folder=folder, rung=rung, share=record.share)
        best = self._best(self._records.all())
        self._records.add(trial, record)
        tidy(folder)
        if record.failed and trial.number == 0:
            raise PlanFailed(
                f"trial 0, the plan as it is, cannot be trained: {record.failed}; leave training.search out and mend that first"
            )
        said = f"failed: {record.failed}" if record.failed else f"{self._metric} {record.score:.4f}, {record.seconds:.0f} s"
        flight.reporter.log(f"{said}; {_shown(trial)}")
        if record.score is not None:
            top = record.score if best is None else (max if self._higher else min)(best, record.score)
            name = f"trial {trial.number}, rung {rung + 1} of {len(self._request.rungs)}"
            self._reporter.progress(1, 1, name, **{**flight.numbers, "score": record.score, "best": top})

    def _child(self, trial: TrialRecord) -> Tracking | None:
        tracking = self._request.tracking
        if tracking is None or self._parent is None:
            return None
        tags = {**tracking.tags, PARENT_TAG: self._parent.run_id, "trial": str(trial.number)}
        return tracking.model_copy(update={"run_name": f"{tracking.run_name}, trial {trial.number}", "tags": tags})

    @property
    def _metric(self) -> str:
        return str(self._request.scoring.settings.get("metric", "score"))

    @property
    def _together(self) -> str:
        count = self._request.at_once
        return "" if count == 1 else f", {count} at a time,"

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
            said=f"{len(trials)} trials{self._together} in {spent.seconds / 60:.1f} minutes{budget}: {taken.why}",
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


def run(request: SearchRequest, reporter: Reporter, preemption: Preemption | None = None, *, nodes: Nodes | None = None) -> SearchResult:
    """Search to the end, or to the end of the budget.

    Args:
        nodes: machines for several trainings at the same time; None: this process trains.

    Raises:
        PlanFailed, TrialBroken, Preempted: see `Search.result`.
    """
    assert (nodes is None) == (request.at_once == 1), "several at a time need machines, and one at a time none"
    quiet()
    records = Records(request)
    with tracked_run(request.tracking, earlier=records.begun.run_id) as parent:
        if parent is not None:
            records.tracked(parent.run_id)
        result = Search(request, reporter, preemption or Preemption(), parent=parent, nodes=nodes).result()
        if parent is not None:
            parent.numbers(0, {"gain_over_plan": result.choice.gain, "chosen_trial": float(result.choice.number)})
        return result


@contextmanager
def _nodes_of(request: SearchRequest) -> Iterator[Nodes | None]:
    if request.at_once == 1:
        yield None
        return
    with ray_nodes() as nodes:
        yield nodes


def main() -> None:
    """The command line."""
    preemption = Preemption()
    preemption.listen()
    request = parse(SearchRequest)
    quiet_libraries()
    with session() as reporter, _nodes_of(request) as nodes:
        # Once more: Ray listens by itself.
        preemption.listen()
        finish(request, run(request, reporter, preemption, nodes=nodes))


if __name__ == "__main__":
    main()
