"""SkyPilot by its command line, which may live in an environment of its own: it wants other versions of libraries than we do."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.resources.compute.job import PlaceFailure
from fine_tune_pipeline.resources.compute.output import Output

COMMAND_SECONDS = 600
"""The first command starts SkyPilot's own server; a launch waits for its controller."""

LAST_SECONDS = 10.0
"""For the last lines of a job that has ended."""

COST = "COST ($)"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
NO_JOBS = "No in-progress managed jobs"
"""What SkyPilot says, as an error, where there has been none."""

ENDED = {"SUCCEEDED", "CANCELLED", "FAILED", "FAILED_SETUP", "FAILED_PRECHECKS", "FAILED_NO_RESOURCE", "FAILED_CONTROLLER"}


class Refused(Exception):
    """SkyPilot did not do what it was told; what it said."""


@dataclass(frozen=True)
class SkyJob:
    """A managed job as the queue shows it."""

    id: int
    status: str
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class Offer:
    """The machine that SkyPilot would take, and what an hour of it costs."""

    table: str
    usd_per_hour: float


@dataclass(frozen=True)
class Sky:
    """The command `sky`, or the path to it."""

    path: str

    def offer(self, task: Path, secrets: Sequence[str]) -> Offer:
        """What a task would run on; nothing is started."""
        said = self._run("launch", "--dryrun", "--yes", *_handed(secrets), str(task))
        return Offer(said, price(said))

    def launch(self, name: str, task: Path, secrets: Sequence[str]) -> None:
        """Hand a managed job over; values of secrets are taken from our environment."""
        self._run("jobs", "launch", "--yes", "--detach-run", "--name", name, *_handed(secrets), str(task))

    def jobs(self, name: str) -> list[SkyJob]:
        """All managed jobs of that name, the oldest first."""
        try:
            said = self._run("jobs", "queue", "--all", "--output", "json")
        except Refused as error:
            if NO_JOBS in str(error):
                return []
            raise
        return sorted((_job(record) for record in _records(said) if record["job_name"] == name), key=lambda job: job.id)

    def cancel(self, job: int) -> None:
        self._run("jobs", "cancel", "--yes", str(job))

    @contextmanager
    def followed(self, job: int) -> Iterator[Output]:
        """The job's output as it comes, until this is closed."""
        output, closed = Output(), threading.Event()
        reader = _Reader([self.path, "jobs", "logs", "--follow", "--tail", "0", str(job)], output, closed)
        thread = threading.Thread(target=reader.read, name="job-output", daemon=True)
        thread.start()
        try:
            yield output
        finally:
            closed.set()
            thread.join(LAST_SECONDS)
            reader.end()
            thread.join()

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self.path, *arguments], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS,
                env=environment(),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise PlaceFailure(
                f"compute.place.sky: {self.path} is not there. Install SkyPilot in an environment of its own (pip install "
                "'skypilot[aws]==0.14.1', or gcp, azure, slurm) and give the path of its `sky`"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Refused(f"`sky {' '.join(arguments)}` did not end within {COMMAND_SECONDS} s") from error
        if done.returncode != 0:
            raise Refused(f"`sky {' '.join(arguments[:2])}` says: {plain(done.stdout + done.stderr).strip()[-3000:]}")
        return plain(done.stdout)


class _Reader:
    """Runs the command that shows the output again when it breaks off, until it is told that the job has ended."""

    def __init__(self, command: list[str], output: Output, closed: threading.Event) -> None:
        self._command = command
        self._output = output
        self._closed = closed
        self._process: subprocess.Popen[bytes] | None = None

    def read(self) -> None:
        passed = 0
        while True:
            passed = max(passed, self._once(passed))
            if self._closed.wait(1.0):
                return

    def _once(self, passed: int) -> int:
        """Pass on what comes after so many bytes, which an earlier try has passed on; gives how many came."""
        place = 0
        with subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as process:
            self._process = process
            assert process.stdout is not None
            while chunk := process.stdout.read1(65536):  # type: ignore[attr-defined]
                self._output.take(chunk[max(0, passed - place) :])
                place += len(chunk)
        return place

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()


def _handed(secrets: Sequence[str]) -> list[str]:
    return [part for secret in secrets for part in ("--secret", secret)]


def environment() -> Mapping[str, str]:
    """Ours, and no word to SkyPilot's makers."""
    return {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1", **os.environ}


def plain(text: str) -> str:
    """Without colours."""
    return COLOURS.sub("", text)


def price(said: str) -> float:
    """US dollars per hour of the row that the optimizer has chosen.

    Raises:
        Refused: there is no such row.
    """
    header: list[str] = []
    for line in said.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if COST in cells:
            header = cells
        elif header and cells[-1] == "✔":
            return float(cells[header.index(COST)])
    raise Refused(f"the offer names no price: {said.strip()[-2000:]}")


def _records(said: str) -> list[dict[str, Any]]:
    """SkyPilot may say a line or two before the document."""
    start = re.search(r"^\[", said, re.MULTILINE)
    if start is None:
        raise Refused(f"`sky jobs queue` says: {said.strip()[-2000:]}")
    found: list[dict[str, Any]] = json.loads(said[start.start() :])
    return found


def _job(record: Mapping[str, Any]) -> SkyJob:
    return SkyJob(record["job_id"], record["status"], " ".join(filter(None, (record.get("failure_reason"), record.get("details")))))
