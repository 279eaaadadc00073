"""Whether this machine's CPU multiplies bfloat16 in hardware: then it is faster than float32, else many times slower. No torch here."""

from pathlib import Path

CPU_FACTS = Path("/proc/cpuinfo")

FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""Linux's names of the instructions, on x86 and on Arm."""


def bfloat16_units(cpu_facts: str) -> bool:
    """Whether a CPU has them, by what Linux says of it; no for an empty text, as on other systems."""
    return not FLAGS.isdisjoint(cpu_facts.split())


def here() -> bool:
    """Whether this machine's CPU has them."""
    return bfloat16_units(CPU_FACTS.read_text(encoding="utf-8") if CPU_FACTS.exists() else "")
