"""Programs on a machine that is rented for them: a managed job of SkyPilot at AWS, GCP, Azure, Slurm and others; files go over a shelf."""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from fine_tune_pipeline.resources.compute.accelerators import accelerators
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure
from fine_tune_pipeline.resources.compute.place import Place
from fine_tune_pipeline.resources.compute.sky import Offer, Refused, Sky, SkyJob
from fine_tune_pipeline.resources.compute.staged import Staged, on_shelf

GIB = 1 << 30

NEVER_BEGUN = {"FAILED_SETUP", "FAILED_PRECHECKS", "FAILED_NO_RESOURCE"}
"""Ends of a job whose program did not start."""


class Cloud(Place):
    """A rented machine for each program, given back when it ends: SkyPilot finds the cheapest, and another when a spot machine is taken."""

    kind: Literal["cloud"] = "cloud"
    sky: str = Field(default="sky", description="SkyPilot's command: its path, when it lives in an environment of its own.")
    infra: str | None = Field(
        default=None, description="aws, gcp/us-central1, azure, slurm/<cluster>; the cheapest that is set up by default."
    )
    staging: str = Field(description="URL of a folder (s3, gs, abfs) over which files go; machine and we can both read and write it.")
    accelerator: str | None = Field(
        default=None, description="Type by SkyPilot's name, such as L4 or A100-80GB; `sky gpus list` shows all."
    )
    gpu_memory_gib: float | None = Field(default=None, gt=0, description="Of one accelerator, if its type does not say so.")
    cpus: int = Field(default=4, ge=1, description="Cores of the machine at least.")
    memory_gib: int = Field(default=16, ge=1, description="Memory of the machine at least.")
    disk_gib: int = Field(default=100, ge=10)
    spot: bool = Field(
        default=True, description="A machine that may be taken away, at about a third of the price; the job goes on at another."
    )
    image: str | None = Field(default=None, description="docker:<image> that has this package, or an image of the cloud.")
    setup: str = Field(default="", description="Shell commands before the first program on a machine, such as pip install.")
    python: str = Field(default="python", description="Interpreter on the machine, of an environment that has this package and torch.")
    price_limit_per_hour: float | None = Field(default=None, gt=0, description="US dollars; what costs more is not started.")
    start_seconds: float = Field(default=3600, gt=0, description="Longest wait for a machine and its setup.")
    poll_seconds: float = Field(default=15, gt=0, description="Between two looks at the job.")
    stop_seconds: float = Field(default=600, gt=0, description="Longest wait until a machine is given back.")
    patience_seconds: float = Field(default=900, gt=0, description="How long SkyPilot may not answer before a job counts as lost.")
    lease_seconds: float = Field(default=1800, gt=0, description="A program ends by itself so long after the run that started it is gone.")

    @model_validator(mode="after")
    def _names_what_it_counts(self) -> Self:
        if (self.accelerator is None) != (self.gpus == 0):
            raise ValueError(f"accelerator is {self.accelerator} and gpus {self.gpus}: want both, such as L4 and 1, or neither")
        return self

    def execute(self, job: Job) -> Ended:
        sky = Sky(self.sky)
        with on_shelf(job, self.staging, lease_seconds=self.lease_seconds) as shelf, self._ended(sky, job):
            if shelf.finished:
                return shelf.collected(Ended(Cause.DONE, 0))
            running = self._started(sky, job, shelf)
            with sky.followed(running.id) as output, self._ended(sky, job):
                ended = self._watched(sky, job, shelf)
            return shelf.collected(replace(ended, tail=output.tail()))

    def inventory(self) -> Inventory:
        memory = self.memory_gib * GIB
        cpu = Device(kind="cpu", name="CPU", memory_bytes=memory, bfloat16=False)
        devices = accelerators(self.accelerator, self.gpus, self.gpu_memory_gib) if self.gpus else (cpu,)
        return Inventory(place=self.kind, devices=devices, cpu_cores=self.cpus, memory_bytes=memory)

    def task(self, job: Job, command: Sequence[str]) -> dict[str, Any]:
        """What SkyPilot is asked for: of secrets only the names."""
        optional = {
            "infra": self.infra, "image_id": self.image, "max_hourly_cost": self.price_limit_per_hour,
            "accelerators": {self.accelerator: self.gpus} if self.accelerator and job.on_device else None,
        }  # fmt: skip
        resources = {
            "cpus": f"{self.cpus}+", "memory": f"{self.memory_gib}+", "disk_size": self.disk_gib, "use_spot": self.spot,
            **{name: value for name, value in optional.items() if value is not None},
        }  # fmt: skip
        setup = {"setup": self.setup} if self.setup else {}
        run = f"exec {shlex.join(command)}"
        secret = {"secrets": dict.fromkeys(job.handed_on)} if job.handed_on else {}
        return {"name": job.name, "resources": resources, "envs": dict(job.environment), **secret, **setup, "run": run}

    def _started(self, sky: Sky, job: Job, shelf: Staged) -> SkyJob:
        """The job that an earlier try of the same resumable work has left running, or a new one."""
        try:
            known = sky.jobs(job.name)
            if job.request.resumable and known and not known[-1].ended:
                return known[-1]
            self._end(sky, job)
            task = job.folder / "sky.yaml"
            there = self.task(job, shelf.command(self.command(job, python=self.python)))
            task.write_text(yaml.safe_dump(there, sort_keys=False, allow_unicode=True), encoding="utf-8")
            self.affordable(sky.offer(task, job.handed_on))
            sky.launch(job.name, task, job.handed_on)
            return sky.jobs(job.name)[-1]
        except Refused as error:
            raise PlaceFailure(f"SkyPilot does not start {job.program}: {error}. `sky check` shows which clouds are set up") from error

    def affordable(self, offer: Offer) -> None:
        """Show what an hour costs.

        Raises:
            PlaceFailure: more than the limit.
        """
        sys.stderr.write(f"{offer.table}\nprice: {offer.usd_per_hour:.2f} US dollars per hour{' (spot)' if self.spot else ''}\n")
        if self.price_limit_per_hour is not None and offer.usd_per_hour > self.price_limit_per_hour:
            raise PlaceFailure(
                f"compute.place.price_limit_per_hour: the cheapest machine costs {offer.usd_per_hour:.2f} US dollars per hour, want "
                f"at most {self.price_limit_per_hour:.2f}: raise it, or ask for less (accelerator, gpus, cpus, memory_gib, spot)"
            )

    def _watched(self, sky: Sky, job: Job, shelf: Staged) -> Ended:
        """Look at the job until it has ended or must not go on; the end of its output is not known yet."""
        started = heard = time.monotonic()
        begun: float | None = None
        while True:
            now = time.monotonic()
            try:
                known = sky.jobs(job.name)
            except Refused as error:
                if now - heard > self.patience_seconds:
                    return Ended(Cause.LOST, said=f"SkyPilot has not answered for {now - heard:.0f} s: {error}. {self._by_lease}")
                time.sleep(self.poll_seconds)
                continue
            heard = now
            if not known:
                return Ended(Cause.LOST, said="SkyPilot does not know the job any more.")
            if known[-1].ended:
                return ended_by(known[-1], shelf.status())
            begun = now if begun is None and known[-1].status == "RUNNING" else begun
            if begun is None and now - started > self.start_seconds:
                raise PlaceFailure(
                    f"no machine for {job.program} within {self.start_seconds:g} s: {known[-1].status} {known[-1].reason}. Ask for less, "
                    "or for another infra, or raise compute.place.start_seconds"
                )
            if begun is not None and now - begun > (self.timeout_seconds or float("inf")):
                return self.timed_out("")
            time.sleep(self.poll_seconds)

    @contextmanager
    def _ended(self, sky: Sky, job: Job) -> Iterator[None]:
        try:
            yield
        finally:
            self._end(sky, job)

    def _end(self, sky: Sky, job: Job) -> None:
        """Cancel what has not ended, and wait until the machine is given back."""
        began, told, said = time.monotonic(), set[int](), ""
        while time.monotonic() - began < self.stop_seconds:
            try:
                running = [one for one in sky.jobs(job.name) if not one.ended]
                if not running:
                    return
                for one in running:
                    if one.id not in told:
                        sky.cancel(one.id)
                        told.add(one.id)
                said = ", ".join(f"{one.id} is {one.status}" for one in running)
            except Refused as error:
                said = str(error)
            time.sleep(min(self.poll_seconds, 5))
        raise PlaceFailure(
            f"the managed job {job.name} cannot be ended ({said}). {self._by_lease} `sky jobs cancel -n {job.name}` asks again"
        )

    @property
    def _by_lease(self) -> str:
        return f"What still runs there ends by itself within {self.lease_seconds:g} s, and its machine is given back."


def ended_by(job: SkyJob, status: int | None) -> Ended:
    """What has become of a job that has ended; `status` is what its program said on the shelf.

    Raises:
        PlaceFailure: its program did not start.
    """
    if job.status in NEVER_BEGUN:
        raise PlaceFailure(f"SkyPilot could not start the program ({job.status}): {job.reason}")
    if job.status == "SUCCEEDED":
        return Ended(Cause.DONE, 0)
    if job.status == "CANCELLED":
        return Ended(Cause.LOST, said="Somebody cancelled the job.")
    if job.status == "FAILED" and status is not None:
        return Ended(Cause.ERROR, status)
    return Ended(Cause.LOST, said=f"SkyPilot says: {job.status} {job.reason}")
