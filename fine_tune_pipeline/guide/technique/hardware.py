"""What training costs on a device: matrix work from the architecture, speed and power from a table. Preflight measures the truth."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.requests import Technique

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.base import Inventory

UTILISATION = 0.35
"""Of the peak rate: good LoRA training of an 8 B model on one H100 reaches 0.42 (NeMo AutoModel), small models less."""

CPU_CORE_RATE = 20e9
"""Operations per second and core that training really does: Gemma 3 270M with LoRA on two AVX2 cores."""

UNKNOWN_RATE = 50e12
"""Peak of an accelerator that is not in the table: on the slow side of what is in use."""

QLORA_SLOWDOWN = {"cpu": 2.4, "cuda": 1.5}
"""Weights are unpacked for every pass: measured on two CPU cores; published figures of accelerators lie between 1.3 and 1.6."""


@dataclass(frozen=True)
class Speed:
    """`rate` in operations per second that training reaches; `watts` at full load, None when not known; `basis` says where it is from."""

    kind: str
    rate: float
    watts: float | None
    basis: str


# Dense bfloat16 peak (T4: float16) and board power from the makers' data sheets. The first name that stands in the device's own counts.
_TABLE: tuple[tuple[str, float, float], ...] = (
    ("H200", 989e12, 700),
    ("H100 PCIe", 756e12, 350),
    ("H100", 989e12, 700),
    ("A100", 312e12, 400),
    ("L40S", 362e12, 350),
    ("L40", 181e12, 300),
    ("L4", 121e12, 72),
    ("RTX 4090", 165e12, 450),
    ("T4", 65e12, 70),
)


def speed(inventory: "Inventory") -> Speed:
    """The speed of the place's first device."""
    device = inventory.devices[0]
    if device.kind == "cpu":
        basis = f"{CPU_CORE_RATE / 1e9:.0f} GFLOP/s a core, measured on two AVX2 cores"
        return Speed("cpu", rate=CPU_CORE_RATE * inventory.cpu_cores, watts=None, basis=basis)
    for name, peak, watts in _TABLE:
        if name in device.name:
            return Speed(device.kind, rate=peak * UTILISATION, watts=watts, basis=f"{UTILISATION:.0%} of {peak / 1e12:.0f} TFLOP/s")
    basis = f"{device.name} is not in the table; {UTILISATION:.0%} of {UNKNOWN_RATE / 1e12:.0f} TFLOP/s taken"
    return Speed(device.kind, rate=UNKNOWN_RATE * UTILISATION, watts=None, basis=basis)


def training_operations(model: Architecture, technique: Technique, work: Workload, *, checkpointing: bool = False) -> float:
    """Floating-point operations of one epoch.

    A matrix takes 2 operations per weight and token forward and 2 for the gradient of its input; its own gradient, 2 more, only where
    it is trained. The output head is computed on labelled tokens only, and once more where it is trained; the embedding's look-up is
    free. Attention is counted without leaving the masked half out, as plain kernels do.
    """
    trained = 2 if technique.type == "full" else 0
    body = (4 + trained + (2 if checkpointing else 0)) * model.body_parameters
    adapters = 0 if technique.type == "full" else 6 * model.lora_parameters(technique.rank)
    attention = 12 * model.layers * model.query_width * work.tokens_per_row
    head = (4 + 2 * trained) * model.vocabulary * model.hidden
    return work.tokens * (body + adapters + attention) + work.labelled_tokens * head


def training_seconds(model: Architecture, technique: Technique, work: Workload, *, epochs: float, at: Speed, checkpointing: bool) -> float:
    """Predicted seconds of the training loop."""
    slowdown = QLORA_SLOWDOWN[at.kind] if technique.type == "qlora" else 1.0
    return slowdown * epochs * training_operations(model, technique, work, checkpointing=checkpointing) / at.rate
