"""Accelerators by the names that clusters and clouds give them: a program cannot ask a device that is not there yet."""

from fine_tune_pipeline.resources.compute.inventory import Device
from fine_tune_pipeline.resources.compute.job import PlaceFailure

MEMORY_GIB = {
    "T4": 16, "V100": 16, "V100-32GB": 32, "P100": 16, "A10": 24, "A10G": 24, "L4": 24, "L40": 48, "L40S": 48, "RTX4090": 24,
    "RTX-PRO-6000": 96, "A100": 40, "A100-40G": 40, "A100-80G": 80, "A100-80GB": 80, "H20": 96, "H100": 80, "H200": 141, "B200": 192,
    "B300": 288, "GB200": 192,
}  # fmt: skip
"""As Ray and SkyPilot call them; by the makers' data sheets. The smaller size, where one name stands for two."""

WITHOUT_BFLOAT16 = {"T4", "V100", "V100-32GB", "P100", "P4", "K80"}
"""Made before NVIDIA's Ampere."""


def accelerators(name: str | None, count: int, memory_gib: float | None) -> tuple[Device, ...]:
    """So many of one kind.

    Raises:
        PlaceFailure: nobody says how much memory one has.
    """
    memory = memory_gib or MEMORY_GIB.get(name or "")
    if memory is None:
        raise PlaceFailure(
            f"compute.place.gpu_memory_gib: the memory of an accelerator named {name!r} is not known here, want the GiB of one; names "
            f"with known memory are {', '.join(MEMORY_GIB)}"
        )
    return (Device(kind="cuda", name=name or "GPU", memory_bytes=int(memory * (1 << 30)), bfloat16=name not in WITHOUT_BFLOAT16),) * count
