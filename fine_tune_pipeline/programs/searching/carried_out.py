"""What a worker of a Ray cluster does for a trial: runs its program. The cluster's own interpreter may lack this package, so that the
function goes there by value; it needs nothing but the standard library."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time

TAIL_BYTES = 4000
POLL_SECONDS = 0.1


def carried_out(command: list[str], without: list[str], parent_variable: str, grace_seconds: float) -> tuple[int, str]:
    """Run a program to its end, in a process group of its own; gives its exit code, negative for a signal, and the end of its output.

    Interrupted, it has the program write down where it is, and ends it after the grace.

    Args:
        command: the program.
        without: variables of the worker that are not for it.
        parent_variable: names this process to it, so that it ends when this one is gone, however that ends.
        grace_seconds: between SIGTERM and SIGKILL.
    """
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment[parent_variable] = str(os.getpid())
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                # Ray keeps SIGINT from its workers, and so from what they start.
                os.killpg(process.pid, signal.SIGTERM)
                end = time.monotonic() + grace_seconds
                while process.poll() is None and time.monotonic() < end:
                    time.sleep(POLL_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - TAIL_BYTES))
        return process.returncode, output.read().decode("utf-8", errors="replace")
