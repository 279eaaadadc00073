import subprocess
import sys

import pytest

from fine_tune_pipeline.programs.freed_memory import map_large_blocks_alone

HELD_AFTER_FREEING_HALF = """
import sys
import torch
from fine_tune_pipeline.programs.freed_memory import map_large_blocks_alone
from fine_tune_pipeline.programs.models import held_memory_bytes

def block(mebibytes):
    return torch.ones(mebibytes * 2**18)

if sys.argv[1] == "alone":
    assert map_large_blocks_alone()
block(30)
before = held_memory_bytes()
blocks = [block(2) for _ in range(100)]
del blocks[::2]
print((held_memory_bytes() - before) / 2**20)
"""
"""Prints the MiB that are held when every second of a hundred blocks of 2 MiB is freed."""


def held(how: str) -> float:
    ended = subprocess.run([sys.executable, "-c", HELD_AFTER_FREEING_HALF, how], capture_output=True, text=True, check=True)
    return float(ended.stdout)


def test_what_is_freed_between_held_blocks_goes_back_to_the_system():
    assert held("alone") == pytest.approx(100, rel=0.15)
    assert held("heap") > 150


def test_where_it_can_be_set_it_says_so():
    assert map_large_blocks_alone() == (sys.platform == "linux")
