"""What the program of a search is asked and what it answers. Nothing here imports torch."""

from typing import Any, Literal

from pydantic import Field

from fine_tune_pipeline.programs.contracts import Contract, Read, Request, Written, identity
from fine_tune_pipeline.programs.heap import EXACT_HEAP
from fine_tune_pipeline.programs.requests import AnswerScoring, CheckpointPolicy, Placement, Technique, Tracking, TrainRequest
from fine_tune_pipeline.spec.base import unset

BASE_MODEL, TECHNIQUE = "base_model", "technique"
RECIPE = ("share_of_augmentation", "drop_suspects", "rows_share")
"""Names of the parameters that choose a data recipe together; beside these there are fields of `Hyperparameters`, and `rank`."""

Value = bool | int | float | str

Parameters = dict[str, Value]
"""What one trial takes, by the name of the dimension."""


class Dimension(Contract):
    """What one parameter may be: one of `values`, or a number from `low` to `high`. `default` is that of trial 0, and within."""

    name: str
    default: Value
    values: tuple[Value, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = True


class RecipeRows(Contract):
    """A data recipe: its parameters, and the rows that it trains on (a file like `TrainRequest.train`)."""

    parameters: Parameters
    train: Read
    rows: int


class Base(Contract):
    """A base model that trials may start from."""

    id: str
    model: Read


class Budget(Contract):
    """Seconds that all trials together may take, and why so many, in words."""

    seconds: float
    said: str


class SearchRequest(Request):
    """Step 4: trials around `plan` (trial 0 is it), judged by answers to validation rows.

    Broken off at any moment, it goes on where it was. Each trial has `<output>/trials/<number>/`; `<output>/journal.log` is Optuna's.
    """

    module = "fine_tune_pipeline.programs.search"
    resumable = True
    environment = EXACT_HEAP
    plan: TrainRequest = Field(description="Without tracking; its output is where the search's own is.")
    space: tuple[Dimension, ...]
    techniques: dict[str, Technique] = Field(default={}, description="By label, if they are searched.")
    recipes: tuple[RecipeRows, ...] = Field(default=(), description="Empty: the training rows of the plan.")
    bases: tuple[Base, ...] = Field(default=(), description="Empty: the model of the plan.")
    trials: int
    rungs: tuple[float, ...]
    keep: float
    seed: int
    scoring: AnswerScoring
    rows: int = Field(description="Validation rows that are answered, at most.")
    level: float = Field(description="Of the bound that tells a tie.")
    at_once: int = Field(
        default=1, description="Trainings at the same time: each a task of the Ray cluster on which this runs.", exclude_if=lambda n: n == 1
    )
    budget: Budget | None = None
    predicted_seconds: float = Field(description="Of the plan's training, as long as none was measured.")
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    stall_seconds: float = 1800.0
    tracking: Tracking | None = None

    @property
    def placement(self) -> Placement:
        """Where all trials run."""
        return self.plan.placement

    def identity(self) -> str:
        # How fast the plan was thought to be decides nothing once a trial was measured.
        return identity(self.model_dump(mode="json", exclude={"checkpoints", "stall_seconds", "predicted_seconds"}))


class RungRecord(Contract):
    """One trial trained for one rung and judged. `scores` are those of the rows, in the order of their ids; none when it failed."""

    rung: int
    share: float
    score: float | None
    scores: tuple[float, ...] = ()
    failed: str = ""
    seconds: float = Field(description="Of training and answering.")
    answering_seconds: float = 0.0
    steps: int = 0
    rows: int = 0
    tokens: int = 0
    trainable_parameters: int = 0
    validation_loss: float | None = None
    left_out: tuple[str, ...] = Field(default=(), description="Ids of rows that have more tokens than max_length.")
    node: str | None = Field(default=None, description="Machine on which it ran, of trials that run at the same time.", exclude_if=unset)
    began: float | None = Field(
        default=None,
        description="When its program was started, by that machine's clock in seconds since 1970; as `ended`.",
        exclude_if=unset,
    )
    ended: float | None = Field(default=None, exclude_if=unset)
    lost: str = Field(default="", description="Why an earlier try of it was lost; it was handed on once more.", exclude_if=unset)


class TrialRecord(Contract):
    """A trial, and the rungs that it has come to."""

    number: int
    parameters: Parameters
    run_id: str | None = None
    rungs: tuple[RungRecord, ...] = ()

    @property
    def failed(self) -> str:
        """Why it goes no further; empty if nothing is wrong."""
        return next((rung.failed for rung in self.rungs if rung.failed), "")


class RungRequest(Request):
    """One trial to be trained for one rung and judged, by a program of its own; its answer, a `RungRecord`, is `<output>/record.json`.

    Broken off, it goes on from what lies in `output`, which is the folder of the trial and rung.
    """

    module = "fine_tune_pipeline.programs.search_rung"
    resumable = True
    environment = EXACT_HEAP
    search: SearchRequest
    trial: TrialRecord
    rung: int
    live: Written = Field(
        description="What it tells while it runs, line by line. Made by the search; once it is gone, nobody asks any more."
    )


class Choice(Contract):
    """The trial that is taken, and why. `gain` is its mean over that of trial 0 with the one-sided bound at the level, of the same rows."""

    number: int
    why: str
    gain: float
    gain_bound: float | None = Field(description="None when there is no spread to tell.")
    ties: tuple[int, ...] = Field(default=(), description="Trials of the last rung that could not be told from the best.")


class SearchResult(Contract):
    """All trials and the choice."""

    metric: str
    higher_is_better: bool
    trials: tuple[TrialRecord, ...]
    choice: Choice
    other_base: Choice | None = Field(default=None, description="Where another base model is better: its best trial.")
    importance: dict[str, float] = Field(description="Share of each parameter in the spread of the first rung's scores; fANOVA.")
    answered: int = Field(description="Validation rows.")
    seconds: float
    outcome: Literal["all trials", "budget"]
    said: str
    mlflow_run_id: str | None = None

    @property
    def chosen(self) -> TrialRecord:
        """The trial that is taken."""
        return next(trial for trial in self.trials if trial.number == self.choice.number)

    def row(self, trial: TrialRecord) -> dict[str, Any]:
        """As a table shows it."""
        rungs = {f"{self.metric} at {rung.share:.0%}": _digits(rung.score) for rung in trial.rungs if rung.score is not None}
        taken = ["taken"] if trial.number == self.choice.number else []
        lost = [f"tried again: {rung.lost}" for rung in trial.rungs if rung.lost]
        seconds = round(sum(rung.seconds for rung in trial.rungs), 1)
        shown = {name: _digits(value) for name, value in trial.parameters.items()}
        return {"trial": trial.number, **shown, **rungs, "seconds": seconds, "outcome": trial.failed or "; ".join(taken + lost)}


def _digits(value: Value | None) -> Value | None:
    return float(f"{value:.4g}") if isinstance(value, float) else value
