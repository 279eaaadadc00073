"""Sections `deployment.monitoring` and `deployment.retrain`: what counts as drift, who is told, and when the model is trained again."""

from typing import Literal

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section


class FeedbackSpec(Section):
    """When people's feedback says that answers have become worse."""

    expected: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of good answers while all is well. None: the share of right answers on the test set, for tasks with labels or "
        "a JSON schema; other tasks are then not judged by feedback.",
    )
    tolerance: float = Field(default=0.05, ge=0, lt=1, description="A share that much below the expected one is still well.")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="False-alarm rate over 2,000 labels, however often they are looked at.")
    minimum_labels: int = Field(default=30, ge=10, description="Below this feedback raises no alarm.")
    sources: list[str] = Field(
        default=[],
        description="Whose feedback counts, by the `source` it was sent with; empty: everybody's. The unhappy speak up more, so a source "
        "that judges a random sample is fairer.",
    )


class OperationsSpec(Section):
    """Limits of one window; breaking one warns, and never retrains."""

    error_share: float | None = Field(default=0.02, ge=0, le=1, description="Of requests that failed by the server's fault.")
    p95_latency_seconds: float | None = Field(default=None, gt=0, description="None: as objective.limits says.")
    cost_per_1000: float | None = Field(
        default=None, gt=0, description="Money for 1,000 answers, in the currency of environment.prices. None: as objective.limits says."
    )


class MonitoringSpec(Section):
    """When production no longer looks like the data."""

    window: int = Field(default=200, ge=50, description="Requests that one drift verdict looks at; each request lies in one window.")
    minimum_requests: int = Field(
        default=100, ge=20, description="Answered requests to the champion in a window; below this the verdict is: not enough traffic."
    )
    alpha: float = Field(default=0.04, gt=0, lt=0.5, description="False-alarm rate of one window over all signals.")
    feedback: FeedbackSpec = FeedbackSpec()
    limits: OperationsSpec = OperationsSpec()
    webhook_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of an environment variable with a URL, which gets a JSON message once per report of drift or of a broken limit.",
    )
    cron: str | None = Field(default="0 * * * *", description="The monitor job runs at these times, once its schedule is started.")
    fresh_hours: float | None = Field(
        default=26.0, ge=1, description="A traffic snapshot or drift report that is older is shown as overdue; None: never."
    )

    @model_validator(mode="after")
    def can_be_enough(self) -> "MonitoringSpec":
        if self.minimum_requests > self.window:
            raise ValueError(
                f"minimum_requests {self.minimum_requests} is above window {self.window}, so no window would ever be enough; "
                f"give at most {self.window}"
            )
        return self


class RetrainSpec(Section):
    """When retraining may start by itself."""

    cooldown_days: float = Field(default=7.0, ge=0, description="Days after the begin of a retraining in which drift starts no other.")
    per_week: int = Field(default=2, ge=1, description="Retrainings that drift may start within any seven days.")
    drift_windows: int = Field(default=2, ge=1, description="So many of the last `of_windows` windows must call for a retraining.")
    of_windows: int = Field(default=3, ge=1, le=50, description="Judged windows of the champion that are looked at.")
    cron: str | None = Field(default=None, description="Also retrain at these times, such as `0 3 * * 1`.")
    fresh_test: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of production's rows that no training ever sees: the fresh test set, reported beside the old one.",
    )
    production_rows: int | None = Field(
        default=None,
        ge=1,
        description="At most so many corrections are taken, by a seeded draw in which the answers take turns. None: all.",
    )
    ask: list[Literal["thumbs_down", "far"]] = Field(
        default=["thumbs_down", "far"],
        description="Requests that experts are asked about, with review.policy experts: those with a thumb down, and those in windows of "
        "drift that are unlike all that the model was made for. Never used before a person has decided.",
    )

    @model_validator(mode="after")
    def can_happen(self) -> "RetrainSpec":
        if self.drift_windows > self.of_windows:
            raise ValueError(
                f"drift_windows {self.drift_windows} is above of_windows {self.of_windows}, so drift would never retrain; "
                f"give at most {self.of_windows}"
            )
        return self
