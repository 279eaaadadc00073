"""What holds for all tests."""

import os
from collections.abc import Sequence

import pytest
import torch

# Tiny matrices: a second thread only waits (one test took 51 s with two, 0.8 s with one). Programs that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """With several workers: a file's tests share one, since they share fixtures; those of the whole guide share one use case.

    First, since pytest-xdist reads the mark in the same hook.
    """
    for item in items:
        end_to_end = item.path.parent.name == "end_to_end"
        item.add_marker(pytest.mark.xdist_group(str(item.path.parent if end_to_end else item.path)))
