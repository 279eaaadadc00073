"""Memory that is a file's content: what is not needed now can go, since the file still has it. Linux; elsewhere nothing is let go."""

import ctypes
import mmap
from pathlib import Path

from torch import Tensor

MAPS = Path("/proc/self/maps")

MADV_PAGEOUT = 21
"""Give the pages up, losing nothing: what was written to since goes to swap or stays (Linux 5.4 and later)."""


def is_mapped(tensor: Tensor) -> bool:
    """Whether the tensor's memory is a file's content, mapped as it lies."""
    if tensor.device.type != "cpu" or not MAPS.exists():
        return False
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    for line in MAPS.read_text(encoding="utf-8").splitlines():
        ends, _, _, _, inode, *path = line.split(maxsplit=5)
        first, last = (int(address, 16) for address in ends.split("-"))
        if first <= begin < end <= last:
            return inode != "0" and bool(path)
    return False


def let_go(tensor: Tensor) -> bool:
    """Take a mapped tensor out of this process's memory; a page comes back when it is read. Whether that could be done."""
    if not is_mapped(tensor):
        return False
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (tensor.data_ptr() + tensor.nbytes - begin) // mmap.PAGESIZE * mmap.PAGESIZE
    if length <= 0:
        return False
    done: int = ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), ctypes.c_int(MADV_PAGEOUT))
    return done == 0
