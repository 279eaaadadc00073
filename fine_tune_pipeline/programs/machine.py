"""What the machine under a program is: cores, memory, disk, devices and versions. Measured, and inside a container its limits count."""

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "datasets", "bitsandbytes", "safetensors")

_CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a Linux container (control groups, version 2) reads its own limits."""

_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Memory:
    """Bytes of the memory that training would use: the accelerator's, or the machine's."""

    total: int
    available: int


def device_exists(device: str) -> bool:
    """Whether torch can compute on `device`, such as `cpu` or `cuda:1`."""
    wanted = torch.device(device)
    if wanted.type == "cpu":
        return True
    return wanted.type == "cuda" and (wanted.index or 0) < torch.cuda.device_count()


def device_name(device: str) -> str:
    """As people know it."""
    if torch.device(device).type == "cuda" and device_exists(device):
        return torch.cuda.get_device_name(device)
    return f"{device} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def devices() -> tuple[str, ...]:
    """Every accelerator that torch sees, with its memory."""
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(f"cuda:{index} {device.name}, {device.total_memory / 2**30:.1f} GiB" for index, device in enumerate(found))


def driver() -> str | None:
    """Version of the accelerators' driver, and of the CUDA that torch was built for; None without one."""
    if not torch.cuda.is_available():
        return None
    if not _DRIVER.exists():
        return f"unknown (CUDA {torch.version.cuda})"
    words = _DRIVER.read_text(encoding="utf-8").split("\n", 1)[0].split()
    number = next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
    return f"NVIDIA {number} (CUDA {torch.version.cuda})"


def memory(device: str) -> Memory:
    """Of the device, within the limits of the container."""
    if torch.device(device).type == "cuda" and device_exists(device):
        available, total = torch.cuda.mem_get_info(device)
        return Memory(total, available)
    whole = psutil.virtual_memory()
    limit, used = (_control_group_bytes(name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None or limit > whole.total:
        return Memory(whole.total, whole.available)
    return Memory(limit, min(whole.available, limit - used))


def _control_group_bytes(name: str) -> int | None:
    """A number of this process's control group; None where there is none, or no limit (`max`)."""
    path = _CONTROL_GROUP / name
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8").strip()
    return int(text) if text.isdigit() else None


def cpu_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def disk_free_bytes(folder: str | Path) -> int:
    """Free bytes where `folder` lies."""
    return shutil.disk_usage(folder).free


def versions() -> dict[str, str]:
    """Of Python and of every library that touches the numbers; a library that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
