"""A mapped tensor leaves the memory and comes back unchanged; nothing else is touched."""

import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fine_tune_pipeline.programs.mapped_memory import is_mapped, let_go
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline_tests.tiny import tiny_model

NUMBERS = 2**20
PAGE = mmap.PAGESIZE // 4
"""Of float32 numbers."""


@pytest.fixture
def mapped() -> Iterator[Tensor]:
    """Numbers in a private mapping, as weights are, all of them read. On a disk: what lies in memory anyway cannot leave it."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        np.arange(NUMBERS, dtype=np.float32).tofile(file.name)
        tensor = torch.from_file(file.name, shared=False, size=NUMBERS)
        assert tensor.sum() > 0
        yield tensor


def resident_bytes(tensor: Tensor) -> int:
    """Of the mapping that holds the tensor, by the kernel's account."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines())
    for line in lines:
        ends = line.split(maxsplit=1)[0]
        if "-" in ends and int(ends.split("-")[0], 16) <= tensor.data_ptr() < int(ends.split("-")[1], 16):
            return int(next(entry for entry in lines if entry.startswith("Rss:")).split()[1]) * 1024
    raise AssertionError("no mapping holds the tensor")


def test_a_mapped_tensor_leaves_memory_and_reads_the_same(mapped: Tensor):
    assert is_mapped(mapped)
    before = resident_bytes(mapped)
    assert let_go(mapped)
    assert before >= 4 * NUMBERS
    assert resident_bytes(mapped) < before / 4
    assert torch.equal(mapped, torch.arange(NUMBERS, dtype=torch.float32))


def test_what_was_written_to_is_not_lost(mapped: Tensor):
    mapped[5] = -1.0
    mapped[7 * PAGE] = -2.0
    assert let_go(mapped)
    assert (mapped[5].item(), mapped[7 * PAGE].item(), mapped[6].item()) == (-1.0, -2.0, 6.0)


def test_a_part_without_a_page_of_its_own_stays(mapped: Tensor):
    assert let_go(mapped[PAGE // 2 : PAGE // 2 + 3 * PAGE])
    assert not let_go(mapped[1 : PAGE - 1])
    assert torch.equal(mapped, torch.arange(NUMBERS, dtype=torch.float32))


def test_memory_of_its_own_is_left_alone():
    tensor = torch.ones(NUMBERS)
    assert not is_mapped(tensor)
    assert not let_go(tensor)
    assert not is_mapped(torch.empty(4, device="meta"))


def test_weights_of_a_loaded_model_are_mapped(tmp_path: Path):
    """What the endpoint counts on: transformers maps float32 weights as they lie."""
    tiny_model(tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert is_mapped(model.get_output_embeddings().weight)
