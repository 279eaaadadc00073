"""What a place has: steps 2, 4 and 5 plan with it. No Dagster here, so that a plan costs no start of it."""

from pydantic import BaseModel, ConfigDict, Field

from fine_tune_pipeline.programs.requests import Parallel

AMPERE = 8.0
"""Compute capability from which NVIDIA's devices have bfloat16 units."""


class Device(BaseModel):
    """One accelerator, or the CPU."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    memory_bytes: int
    bfloat16: bool = Field(description="Has units of its own for products in bfloat16; without, they are slower than float32.")


class Inventory(BaseModel):
    """Devices and memory of a place, and how many processes a training there runs in."""

    model_config = ConfigDict(frozen=True)

    place: str
    devices: tuple[Device, ...]
    cpu_cores: int
    memory_bytes: int
    processes: int = Field(
        default=1, ge=1, description="Of a training; more than one share its steps.", exclude_if=lambda count: count == 1
    )
    parallel: Parallel = Field(default="ddp", description="How they share the model.", exclude_if=lambda how: how == "ddp")

    @property
    def parts(self) -> int:
        """Into which a model is cut that is trained here."""
        return self.processes if self.parallel == "fsdp2" else 1

    @property
    def trained_on(self) -> int:
        """Devices that a training uses: all processes on a CPU share this one."""
        return 1 if self.devices[0].kind == "cpu" else self.processes

    @property
    def bytes_of_one(self) -> int:
        """Memory that one process of a training has."""
        return self.devices[0].memory_bytes * self.trained_on // self.processes
