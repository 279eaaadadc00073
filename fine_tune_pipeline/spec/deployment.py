"""Section `deployment` (step 8): how the model answers, and when it is trained again."""

from typing import Literal, Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section, unset
from fine_tune_pipeline.spec.export import ExportSpec
from fine_tune_pipeline.spec.vllm import VllmSpec


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

    serving: Literal["embedded", "vllm"] = Field(
        default="embedded", description="What computes answers. embedded: the endpoint itself. vllm: servers of your own, see `vllm`."
    )
    vllm: VllmSpec | None = Field(default=None, description="Where the vLLM servers are; for `serving: vllm` alone.", exclude_if=unset)
    port: int = Field(default=8100, ge=0, le=65535, description="0 lets the system choose a free one.")
    parity_prompts: int = Field(default=50, ge=1, description="Held-out prompts whose served answers must equal the evaluated ones.")
    monitoring: MonitoringSpec = MonitoringSpec()
    retrain: RetrainSpec = RetrainSpec()
    export: ExportSpec = ExportSpec()

    @model_validator(mode="after")
    def _vllm_is_where_it_is_used(self) -> Self:
        if (self.serving == "vllm") != (self.vllm is not None):
            seen = "no section vllm" if self.vllm is None else "a section vllm, which is used with serving: vllm only"
            raise ValueError(
                f"serving: got {self.serving} and {seen}; want serving: vllm with vllm: {{urls: […], adapters_at: …}}, or neither"
            )
        return self
