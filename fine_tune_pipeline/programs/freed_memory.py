"""What a program frees goes back to the system, so that its peak is what it needs and not what its heap has collected."""

import ctypes

OWN_MAPPING_BYTES = 1 << 20
"""Blocks of this size and more are mapped alone. Activations of a pass are larger; what is smaller is quicker from the heap."""

_M_MMAP_THRESHOLD = -3
"""Of `mallopt`, in the C library's malloc.h."""


def map_large_blocks_alone(*, at_least: int = OWN_MAPPING_BYTES) -> bool:
    """Have the C library map every large block by itself, and unmap it when it is freed; False where the library is not GNU's.

    By itself it raises this size to 32 MiB as soon as such a block is freed, and cuts activations from a heap with holes between them: of a
    forward pass of Gemma 3 270M on 564 tokens, 0.66 GiB became 0.98.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    return tune is not None and tune(_M_MMAP_THRESHOLD, at_least) == 1
