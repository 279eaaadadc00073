"""Section `environment` (step 5): what the place of training must have. Where that place is, is configuration, not use case."""

from pydantic import Field

from fine_tune_pipeline.spec.base import Section


class EnvironmentSpec(Section):
    """Demands on the machine, checked by a program that runs there."""

    disk_free_gib: float = Field(default=3.0, ge=0)
    memory_headroom: float = Field(default=0.1, ge=0, lt=1, description="Share of the memory that the measured peak must leave free.")
