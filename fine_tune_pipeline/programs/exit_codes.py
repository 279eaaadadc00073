"""Exit codes by which a program says why it has ended, to places that see nothing else of it."""

PREEMPTED = 75
"""Told to stop, and can go on: EX_TEMPFAIL of sysexits.h."""

STALLED = 76
"""Made no progress any more."""

MATE_LOST = 77
"""Another process of the same training has died."""
