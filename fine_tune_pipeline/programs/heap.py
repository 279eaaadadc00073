"""How the C library keeps freed memory in a program that trains on a CPU.

torch asks for aligned blocks, larger than a tensor by up to a hundred bytes that GNU's C library gives back at once. By default these
scraps are kept for later in lists (thread cache, fast bins) that never join their neighbours again, so that a tensor does not fit where one
of the same size was: a third of the heap of a training became holes. Without the lists it fits; `test_heap.py` shows it.
"""

EXACT_HEAP = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"}
"""Read once, when a process starts: whoever starts it has to set it. Other C libraries do not look at it."""
