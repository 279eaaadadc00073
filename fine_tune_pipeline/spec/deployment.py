"""Section `deployment` (step 8): how the model answers, and when it is trained again."""

from typing import Literal, Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section, unset
from fine_tune_pipeline.spec.export import ExportSpec
from fine_tune_pipeline.spec.monitoring import MonitoringSpec, RetrainSpec
from fine_tune_pipeline.spec.release import CanarySpec, WatchSpec
from fine_tune_pipeline.spec.traffic import GuardSpec, TrafficSpec
from fine_tune_pipeline.spec.vllm import VllmSpec


class DeploymentSpec(Section):
    """The endpoint and what is watched."""

    serving: Literal["embedded", "vllm"] = Field(
        default="embedded", description="What computes answers. embedded: the endpoint itself. vllm: servers of your own, see `vllm`."
    )
    vllm: VllmSpec | None = Field(default=None, description="Where the vLLM servers are; for `serving: vllm` alone.", exclude_if=unset)
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

    @model_validator(mode="after")
    def _vllm_is_where_it_is_used(self) -> Self:
        if (self.serving == "vllm") != (self.vllm is not None):
            seen = "no section vllm" if self.vllm is None else "a section vllm, which is used with serving: vllm only"
            raise ValueError(
                f"serving: got {self.serving} and {seen}; want serving: vllm with vllm: {{urls: […], adapters_at: …}}, or neither"
            )
        return self
