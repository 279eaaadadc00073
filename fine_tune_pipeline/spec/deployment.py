"""Section `deployment` (step 8): how the model answers, and when it is trained again."""

from typing import Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section
from fine_tune_pipeline.spec.export import ExportSpec
from fine_tune_pipeline.spec.monitoring import MonitoringSpec, RetrainSpec


class DeploymentSpec(Section):
    """The endpoint and what is watched."""

    serving: Literal["embedded"] = "embedded"
    port: int = Field(default=8100, ge=0, le=65535, description="0 lets the system choose a free one.")
    parity_prompts: int = Field(default=50, ge=1, description="Held-out prompts whose served answers must equal the evaluated ones.")
    monitoring: MonitoringSpec = MonitoringSpec()
    retrain: RetrainSpec = RetrainSpec()
    export: ExportSpec = ExportSpec()
