"""A launcher of several processes (`torch.distributed.run`, `accelerate.commands.launch`), ended by the exit code of the process that has
ended first: the launchers themselves say 1 of a training that was preempted, stalled or wrong.

    python -m fine_tune_pipeline.programs.launch torch.distributed.run --standalone --nproc_per_node=2 -m PROGRAM --request request.json
"""

import runpy
import signal
import sys
from collections.abc import Iterable

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from fine_tune_pipeline.programs.exit_codes import MATE_LOST, PREEMPTED


def main() -> None:
    """The command line: the launcher's module, and what it is told."""
    del sys.argv[0]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except ChildFailedError as error:
        failure = first_of(error.failures.values())
        sys.stderr.write(f"process {failure.local_rank} has ended first, {_how(failure.exitcode)}; why is in the output before\n")
        # Of a signal as a shell says it.
        raise SystemExit(failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode) from None
    except SignalException as error:
        sys.stderr.write(f"told to stop by signal {error.sigval.name}, and so all processes were\n")
        raise SystemExit(PREEMPTED) from None


_FOLLOWERS = (MATE_LOST, -signal.SIGTERM)
"""How processes end because another one has: by themselves, or told so by the launcher once it has seen that one."""


def first_of(failures: Iterable[ProcessFailure]) -> ProcessFailure:
    """The one that the others followed. Their times are whole seconds, so the way they ended has to tell more."""
    return min(failures, key=lambda each: (each.exitcode in _FOLLOWERS, each.timestamp, each.exitcode == PREEMPTED, each.local_rank))


def _how(status: int) -> str:
    return f"with exit code {status}" if status >= 0 else f"killed by signal {-status}"


if __name__ == "__main__":
    main()
