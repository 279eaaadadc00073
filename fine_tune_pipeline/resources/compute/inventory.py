"""What a place has: steps 2, 4 and 5 plan with it. No Dagster here, so that a plan costs no start of it."""

from pydantic import BaseModel, ConfigDict, Field

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
    """Devices and memory of a place."""

    model_config = ConfigDict(frozen=True)

    place: str
    devices: tuple[Device, ...]
    cpu_cores: int
    memory_bytes: int
