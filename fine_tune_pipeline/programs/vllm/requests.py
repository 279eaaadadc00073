"""Where vLLM servers are and what they are started with, as the endpoint is told. No torch here, and no HTTP."""

from typing import Literal

from pydantic import Field

from fine_tune_pipeline.programs.contracts import Contract


class VllmUpstream(Contract):
    """See `spec.vllm.VllmSpec`. The key is in the environment variable, and nowhere else."""

    urls: tuple[str, ...]
    replicas: Literal["listed", "dns"] = "listed"
    api_key_variable: str | None = None
    mode: Literal["runtime", "static"] = "runtime"
    base: str
    model_name: str = Field(default="{version}", description="Of a version, with `base`, `version` and `folder` in braces.")
    adapters_at: str = Field(description="Absolute folder, or a URL.")
    seen_as: str = Field(description="The same as a path inside vLLM's containers.")
    max_lora_rank: int
    timeout_seconds: float = 60.0
    load_seconds: float = 120.0
    requests_at_once: int = 64
    start_seconds: float = Field(default=60.0, description="The endpoint waits so long at its start for a first replica.")

    @property
    def takes_from_folder(self) -> bool:
        """Whether the servers call an adapter by its folder, so that they have it as soon as it lies there."""
        return "{folder}" in self.model_name

    def named(self, version: str, *, path: str) -> str:
        """The name under which a version is asked for there.

        Args:
            path: of its adapter, as the servers see it.
        """
        return self.model_name.format(base=self.base, version=version, folder=path.rstrip("/").rsplit("/", 1)[-1])
