"""Section `training.search` (step 4): trials that look for better numbers than those of the plan, before the training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section

RECIPES = 24
"""At most: each is a file of training rows."""

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class RateRange(Section):
    """Learning rates from `low` to `high`."""

    low: float = Field(gt=0, le=0.1)
    high: float = Field(gt=0, le=0.1)
    log: bool = Field(default=True, description="Whether each factor is as likely as another of the same size; else each distance.")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low: got {self.low:g}, want less than high, which is {self.high:g}")
        return self


class DataSpace(Section):
    """Data recipes: which rows of the training set are learned from. Validation and test stay as they are."""

    share_of_augmentation: list[Share] = Field(
        default=[1.0], min_length=1, description="Of the made rows (dataset.more), so many are kept; 1: all, 0: none."
    )
    drop_suspects: list[bool] = Field(
        default=[False],
        min_length=1,
        description="true: without rows that a step has marked as worth a look and nobody has confirmed, such as labels in doubt.",
    )
    rows_share: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[1.0], min_length=1, description="Of the rows that are left then, so many, drawn by hash; 1: all."
    )

    @property
    def recipes(self) -> int:
        """Combinations of the three."""
        return len(set(self.share_of_augmentation)) * len(set(self.drop_suspects)) * len(set(self.rows_share))

    @model_validator(mode="after")
    def _few(self) -> Self:
        if self.recipes > RECIPES:
            raise ValueError(f"got {self.recipes} combinations, want {RECIPES} at most; give fewer values")
        return self


class SearchSpace(Section):
    """What is looked for. The plan's own value is always one of them, since trial 0 takes it; one value alone is fixed."""

    learning_rate: Literal["auto"] | RateRange | list[Positive] = Field(
        default="auto", description="auto: from a third to three times of what the plan would take."
    )
    rank: list[Annotated[int, Field(ge=1, le=256)]] = Field(
        default=[8, 16, 32], description="Of adapters; alpha stays, so that the rate need not change. []: the plan's."
    )
    epochs: list[Annotated[float, Field(gt=0, le=20)]] = Field(default=[], description="[]: the plan's.")
    effective_batch: list[Annotated[int, Field(ge=1, le=4096)]] = Field(default=[], description="Rows per step. []: the plan's.")
    technique: list[Literal["lora", "qlora", "dora", "rslora"]] = Field(
        default=[], description="Kinds of adapters; those that do not fit the hardware are left out, and named. []: the plan's."
    )
    base_model: list[str] = Field(
        default=[],
        description="Ids of other base models that this use case has already had as its own; one that wins is proposed, with the change of "
        "base_model.candidates. []: the chosen one alone.",
    )
    data: DataSpace = DataSpace()


class SearchSpec(Section):
    """Trials on the training set, each judged by the task's metric on validation rows. Trial 0 is the plan as it would be without."""

    trials: int = Field(default=8, ge=2, le=500, description="In all, trial 0 among them; 6 to 8 is usual.")
    rungs: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default=[0.25, 1.0],
        min_length=1,
        description="Shares of the steps, rising to 1: all trials come to the first, the best to the next, with a whole schedule each.",
    )
    keep: float = Field(default=0.25, gt=0, lt=1, description="Share of the trials of a rung that come to the next, at least one.")
    space: SearchSpace = SearchSpace()
    metric: str | None = Field(
        default=None, description="Of the task, such as exact_match, that chooses; by default that of the first success criterion."
    )
    rows: int = Field(default=128, ge=8, description="Validation rows that are answered after each rung, the same ones by all.")
    budget_hours: float | None = Field(default=None, gt=0, description="Of all trials together; one that would not fit is not begun.")
    budget_cost: float | None = Field(
        default=None, gt=0, description="The same in money, in the currency of the device's price (environment.prices)."
    )
    seed: int = Field(default=0, ge=0, le=2**31, description="Of the proposals.")
    parallel: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Trainings at the same time, on a Ray cluster alone (compute: ray), each with what compute.place gives a program; 1: "
        "one after another.",
        exclude_if=lambda count: count == 1,
    )

    @model_validator(mode="after")
    def _enough_to_do(self) -> Self:
        if self.parallel > self.trials:
            raise ValueError(f"parallel: got {self.parallel} with {self.trials} trials, want at most as many")
        return self

    @model_validator(mode="after")
    def _rises_to_the_whole(self) -> Self:
        if self.rungs[-1] != 1 or any(low >= high for low, high in zip(self.rungs, self.rungs[1:], strict=False)):
            raise ValueError(f"rungs: got {self.rungs}, want shares that rise to 1, such as [0.25, 1.0]")
        return self
