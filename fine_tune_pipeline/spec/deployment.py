"""Section `deployment` (step 8): how the model answers, and when it is trained again."""

from typing import Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section
from fine_tune_pipeline.spec.export import ExportSpec
from fine_tune_pipeline.spec.traffic import GuardSpec, TrafficSpec


class MonitoringSpec(Section):
    """When production no longer looks like the data."""

    window: int = Field(default=200, ge=50, description="Requests that one drift verdict looks at.")
    minimum_requests: int = Field(default=100, ge=20, description="Below this the verdict is: not enough traffic.")
    alpha: float = Field(default=0.01, gt=0, lt=0.5, description="False-alarm rate of one window over all signals.")


class RetrainSpec(Section):
    """When retraining may start by itself."""

    cooldown_days: float = Field(default=7.0, ge=0)
    cron: str | None = Field(default=None, description="Also retrain at these times, such as `0 3 * * 1`.")


class DeploymentSpec(Section):
    """The endpoint and what is watched."""

    serving: Literal["embedded"] = "embedded"
    port: int = Field(default=8100, ge=0, le=65535, description="0 lets the system choose a free one.")
    parity_prompts: int = Field(default=50, ge=1, description="Held-out prompts whose served answers must equal the evaluated ones.")
    monitoring: MonitoringSpec = MonitoringSpec()
    retrain: RetrainSpec = RetrainSpec()
    export: ExportSpec = ExportSpec()
    traffic: TrafficSpec = TrafficSpec()
    guard: GuardSpec = GuardSpec()
