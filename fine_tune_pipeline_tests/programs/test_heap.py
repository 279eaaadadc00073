import os
import subprocess
import sys

from fine_tune_pipeline.programs.heap import EXACT_HEAP
from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
from fine_tune_pipeline.programs.requests import TrainRequest

HELD_BESIDE_LAYERS = """
import psutil
import torch

def held_memory_bytes():
    return psutil.Process().memory_info().rss

torch.set_num_threads(1)
left, right = torch.ones(500, 64), torch.ones(64, 2000, requires_grad=True)

def layer():
    return ((left @ right) * 2.0 + (left @ right)).relu() * 3.0

layer()
before = held_memory_bytes()
kept = [layer() for _ in range(25)]
needed = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}.values())
print((held_memory_bytes() - before) / needed)
"""
"""Prints what is held of every byte that layers keep, each of which makes and frees five more blocks of the same 4 MB."""


def held(settings: dict[str, str]) -> float:
    plain = {name: value for name, value in os.environ.items() if name not in EXACT_HEAP}
    command = [sys.executable, "-c", HELD_BESIDE_LAYERS]
    return float(subprocess.run(command, env=plain | settings, capture_output=True, text=True, check=True).stdout)


def test_training_and_its_preflight_are_started_with_it():
    assert TrainRequest.environment == PreflightRequest.environment == EXACT_HEAP


def test_a_block_fits_where_one_of_its_size_was():
    assert held(EXACT_HEAP) < 0.7 * held({})
