"""A PostgreSQL server of the test's own, reached by a socket in its folder only."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fine_tune_pipeline_tests.waiting import wait_until

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
"""Where Debian and Ubuntu put the server."""

ACCOUNT = "postgres" if os.geteuid() == 0 else None
"""The server refuses to run as root."""


@contextmanager
def postgres() -> Iterator[str]:
    """Starts a server; gives the URL of its database, and ends it with everything in it."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if ACCOUNT is not None:
        shutil.chown(folder, ACCOUNT)
    data = folder / "data"
    _run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    _run("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "start")
    try:
        wait_until(lambda: (folder / ".s.PGSQL.5432").exists(), what="PostgreSQL's socket")
        yield f"postgresql+psycopg://postgres:hunter2@/postgres?host={folder}"
    finally:
        if (data / "postmaster.pid").exists():
            stop(folder)
        shutil.rmtree(folder)


def stop(folder: Path) -> None:
    """End the server at once, as a failing machine would."""
    _run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([str(BINARIES[-1] / name), *arguments], user=ACCOUNT, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
