"""What devices can do: memory, speed and power from a table of the makers' figures. Preflight and every training measure the truth."""

from dataclasses import dataclass

from fine_tune_pipeline.resources.compute.inventory import AMPERE, Device, Inventory

UTILISATION = 0.35
"""Of the peak rate: good LoRA training of an 8 B model on one H100 reaches 0.42 (NeMo AutoModel), small models less."""

CPU_CORE_RATE = 20e9
"""Operations per second and core that training really does: Gemma 3 270M with LoRA on two AVX2 cores."""

CPU_BFLOAT16_RATE = 55e9
"""The same on two AVX-512 cores with units for bfloat16: the built-in use case trains at 200 real tokens a second there."""

UNKNOWN_RATE = 50e12
"""Peak of an accelerator that is not in the table: on the slow side of what is in use."""

CPU = "CPU"
"""The name of the machine without an accelerator, as one may ask for it: 8 cores and 32 GiB."""

_CPU_CORES, _CPU_BYTES = 8, 32 << 30


class UnknownDevice(ValueError):
    """The table has no device of that name."""


@dataclass(frozen=True)
class Gpu:
    """One row of the table. `name` is what a user writes; a device that calls itself by all of `words` is one.

    `memory_mib` as nvidia-smi gives it, `peak` in dense bfloat16 operations per second (T4: float16), `bandwidth` of the memory in bytes
    per second, `watts` of the whole board, `capability` as CUDA numbers it. Source: the makers' data sheets.
    """

    name: str
    words: tuple[str, ...]
    memory_mib: int
    peak: float
    bandwidth: float
    watts: float
    capability: float

    @property
    def bfloat16(self) -> bool:
        return self.capability >= AMPERE


# The first whose words all stand in the device's own name counts.
GPUS = (
    Gpu("H200", ("H200",), 143_771, 989e12, 4.8e12, 700, 9.0),
    Gpu("H100-PCIe", ("H100", "PCIe"), 81_559, 756e12, 2.0e12, 350, 9.0),
    Gpu("H100", ("H100",), 81_559, 989e12, 3.35e12, 700, 9.0),
    Gpu("A100-80", ("A100", "80GB"), 81_920, 312e12, 2.039e12, 400, 8.0),
    Gpu("A100-40", ("A100",), 40_960, 312e12, 1.555e12, 400, 8.0),
    Gpu("A10G", ("A10G",), 23_028, 70e12, 0.6e12, 300, 8.6),
    Gpu("L40S", ("L40S",), 46_068, 362e12, 0.864e12, 350, 8.9),
    Gpu("L40", ("L40",), 46_068, 181e12, 0.864e12, 300, 8.9),
    Gpu("L4", ("L4",), 23_034, 121e12, 0.3e12, 72, 8.9),
    Gpu("4090", ("RTX 4090",), 24_564, 165e12, 1.008e12, 450, 8.9),
    Gpu("T4", ("T4",), 15_360, 65e12, 0.32e12, 70, 7.5),
)


@dataclass(frozen=True)
class Speed:
    """`rate` in operations per second that training reaches; `watts` at full load, None when not known; `basis` says where it is from."""

    kind: str
    rate: float
    watts: float | None
    basis: str


def gpu_of(device_name: str) -> Gpu | None:
    """The row of a device, by the name that it gives itself or a user gives it; None when it is not in the table."""
    named = (gpu for gpu in GPUS if gpu.name == device_name)
    return next(named, None) or next((gpu for gpu in GPUS if all(word in device_name for word in gpu.words)), None)


def speed(inventory: Inventory) -> Speed:
    """The speed of the place's first device."""
    device = inventory.devices[0]
    if device.kind == "cpu":
        rate, cores = (CPU_BFLOAT16_RATE, "AVX-512 cores with bfloat16") if device.bfloat16 else (CPU_CORE_RATE, "AVX2 cores")
        basis = f"{rate / 1e9:.0f} GFLOP/s a core, measured on two {cores}"
        return Speed("cpu", rate=rate * inventory.cpu_cores, watts=None, basis=basis)
    gpu = gpu_of(device.name)
    if gpu is not None:
        basis = f"{UTILISATION:.0%} of {gpu.peak / 1e12:.0f} TFLOP/s"
        return Speed(device.kind, rate=gpu.peak * UTILISATION, watts=gpu.watts, basis=basis)
    basis = f"{device.name} is not in the table; {UTILISATION:.0%} of {UNKNOWN_RATE / 1e12:.0f} TFLOP/s taken"
    return Speed(device.kind, rate=UNKNOWN_RATE * UTILISATION, watts=None, basis=basis)


def inventory_of_named(name: str, *, count: int = 1) -> Inventory:
    """A place that one may ask about without having it: `count` devices of that name.

    Raises:
        UnknownDevice: lists the names; or a count below 1.
    """
    if count < 1:
        raise UnknownDevice(f"device {name}: got {count} of them, want 1 or more")
    if name == CPU:
        cpu = Device(kind="cpu", name=CPU, memory_bytes=_CPU_BYTES, bfloat16=False)
        return Inventory(place=f"a machine with {_CPU_CORES} cores", devices=(cpu,), cpu_cores=_CPU_CORES, memory_bytes=_CPU_BYTES)
    gpu = next((gpu for gpu in GPUS if gpu.name == name), None)
    if gpu is None:
        known = ", ".join([*(gpu.name for gpu in GPUS), CPU])
        raise UnknownDevice(f"device: got {name!r}, want one of {known}; a device that is here needs no name: leave it out")
    device = Device(kind="cuda", name=gpu.name, memory_bytes=gpu.memory_mib << 20, bfloat16=gpu.bfloat16)
    return Inventory(
        place=f"{count} x {name}", devices=(device,) * count, cpu_cores=_CPU_CORES, memory_bytes=2 * count * device.memory_bytes
    )
