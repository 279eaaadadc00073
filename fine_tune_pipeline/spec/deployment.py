"""Section `deployment` (step 8): how the model answers, and when it is trained again."""

from typing import Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section
from fine_tune_pipeline.spec.export import ExportSpec
from fine_tune_pipeline.spec.monitoring import MonitoringSpec, RetrainSpec
from fine_tune_pipeline.spec.release import CanarySpec, WatchSpec
from fine_tune_pipeline.spec.traffic import GuardSpec, TrafficSpec


class DeploymentSpec(Section):
    """The endpoint and what is watched."""

    serving: Literal["embedded"] = "embedded"
    port: int = Field(default=8100, ge=0, le=65535, description="0 lets the system choose a free one.")
    parity_prompts: int = Field(default=50, ge=1, description="Held-out prompts whose served answers must equal the evaluated ones.")
    shadow: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="Recent prompts of the traffic log that a new version answers beside the champion before anybody gets it; 0: none.",
    )
    approval: bool = Field(default=False, description="Once its checks have passed, a version waits for `fine-tune-pipeline approve`.")
    canary: CanarySpec | None = Field(default=None, description="None: a version that passed its checks is promoted at once.")
    watch: WatchSpec | None = Field(default=WatchSpec(), description="None: a promoted version is never rolled back by itself.")
    registry_poll_seconds: float = Field(
        default=5.0, ge=1, le=3600, description="How often the endpoint asks the model registry who is champion."
    )
    monitoring: MonitoringSpec = MonitoringSpec()
    retrain: RetrainSpec = RetrainSpec()
    export: ExportSpec = ExportSpec()
    traffic: TrafficSpec = TrafficSpec()
    guard: GuardSpec = GuardSpec()
