"""Programs in containers of a Docker engine: one for each, without rights, gone when it has ended."""

import os
import signal
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.resources.compute.devices import VISIBLE, held_devices, nvidia_devices, usable_devices
from fine_tune_pipeline.resources.compute.docker_engine import (
    JOB_LABEL,
    USE_LABEL,
    EngineLost,
    Stopped,
    explained,
    followed,
    gone_afterwards,
    present,
    reap,
    stopped_afterwards,
    waited,
)  # fmt: skip
from fine_tune_pipeline.resources.compute.docker_mounts import Mounted, configured, handed_over, of_job, user_of
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure
from fine_tune_pipeline.resources.compute.local import cpu_device
from fine_tune_pipeline.resources.compute.output import Output
from fine_tune_pipeline.resources.compute.place import Place

if TYPE_CHECKING:
    from docker import DockerClient

SCRATCH = "/tmp"

PROCESSES = 4096
"""Most processes and threads of one program: a guard against endless forking that no training comes near."""

LOG_BYTES = "256m"
"""Most that the engine keeps of a program's output; all of it goes through our stderr anyway."""

ONE_STREAM = ("/bin/sh", "-c", 'exec "$0" "$@" 2>&1')
"""The engine keeps what comes on two streams in no certain order."""

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes of a command that could not be started."""

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Docker(Place):
    """A Docker engine: each program in a container of its own, without root and without rights, on a read-only file system."""

    kind: Literal["docker"] = "docker"
    image: str = Field(default="fine_tune_pipeline:local", description="Has fine_tune_pipeline and torch; docker/Dockerfile makes it.")
    pull: Literal["never", "missing", "always"] = Field(default="missing", description="When the engine fetches the image.")
    host: str | None = Field(default=None, description="Of the engine: unix:///… or tcp://…; DOCKER_HOST or its usual socket by default.")
    python: str = Field(default="python3", description="Interpreter in the image.")
    user: str | None = Field(default=None, pattern=r"^\d+(:\d+)?$", description="uid:gid of programs; ours, or 10001:10001 if we are root.")
    memory_gib: float | None = Field(default=None, gt=0, description="Most memory of one program; beyond it, it is killed.")
    cpus: float | None = Field(default=None, gt=0, description="Most CPU cores of one program.")
    shm_gib: float = Field(default=1.0, gt=0, description="Shared memory, for processes that load data or train side by side.")
    scratch_gib: float = Field(default=4.0, gt=0, description="Most of /tmp, which lies in memory.")
    runtime: str | None = Field(default=None, description="Of the engine, such as nvidia; its usual one by default.")
    network: str = Field(default="bridge", description="bridge, host, none, or a network of the engine.")
    volumes: dict[str, str] = Field(
        default={},
        description="Volumes or folders of the engine's machine and where they are mounted, such as {state: /var/lib/state}, or /data:ro.",
    )
    grace_seconds: float = Field(default=10, gt=0, description="Wait after SIGINT before SIGKILL.")
    lease_seconds: float = Field(default=30, gt=0, description="A program whose run was killed ends by itself after them.")
    reconnect_seconds: float = Field(default=60, ge=0, description="How long an engine may be away before a program counts as lost.")

    @property
    def lease(self) -> float | None:
        return self.lease_seconds

    def execute(self, job: Job) -> Ended:
        user, volumes = user_of(self.user), configured(self.volumes)
        mounts = [*volumes, *of_job(job, volumes)]
        self._reaches(getattr(job.request, "tracking", None), mounts)
        handed_over(job, user)
        with explained(), closing(self._client()) as client:
            present(client, self.image, pull=self.pull)
            reap(client, job.name)
        wanted = self.gpus if job.on_device else 0
        with held_devices(nvidia_devices() if wanted else (), count=wanted) as held:
            chosen = held.variables.get(VISIBLE)
            gpus = {"device_ids": chosen.split(",")} if chosen else {"count": wanted} if wanted else {}
            return self._run(job, self._settings(job, user, mounts, gpus))

    def inventory(self) -> Inventory:
        with explained(), closing(self._client()) as client:
            facts = client.info()
        memory = min([facts["MemTotal"], *([_bytes(self.memory_gib)] if self.memory_gib else [])])
        cores = min([facts["NCPU"], *([max(1, int(self.cpus))] if self.cpus else [])])
        devices = usable_devices(nvidia_devices())[: self.gpus] if self.gpus else ()
        if len(devices) < self.gpus:
            raise PlaceFailure(f"compute.place.gpus: got {self.gpus}, want at most the {len(devices)} that nvidia-smi shows here")
        return Inventory(place=self.kind, devices=devices or (cpu_device(memory),), cpu_cores=cores, memory_bytes=memory)

    def _client(self) -> "DockerClient":
        try:
            import docker
        except ImportError as error:
            raise PlaceFailure("The place docker needs its client: pip install 'fine_tune_pipeline[docker]'") from error
        return docker.DockerClient(base_url=self.host) if self.host else docker.from_env()

    def _run(self, job: Job, settings: dict[str, Any]) -> Ended:
        name, output = settings["name"], Output()
        otherwise = f"Its program ends by itself within {self.lease_seconds:g} s, and the next start removes it."
        with gone_afterwards(self._client, name, otherwise=otherwise):
            with explained(), closing(self._client()) as client:
                client.containers.create(**settings).start()
            try:
                with (
                    followed(self._client, name, output),
                    stopped_afterwards(self._client, name, grace_seconds=self.grace_seconds, otherwise=otherwise),
                ):
                    stopped = waited(self._client, name, seconds=self.timeout_seconds, reconnect_seconds=self.reconnect_seconds)
            except EngineLost as error:
                return Ended(Cause.LOST, tail=output.tail(), said=str(error))
        return self.timed_out(output.tail()) if stopped is None else self._ended(stopped, output.tail())

    def _ended(self, stopped: Stopped, tail: str) -> Ended:
        status = status_of(stopped.status)
        if status == 0:
            return Ended(Cause.DONE, 0, tail)
        if stopped.out_of_memory:
            given = f"{self.memory_gib:g}" if self.memory_gib else "not set, so the engine's machine was full"
            return Ended(Cause.OUT_OF_MEMORY, status, tail, f"compute.place.memory_gib is {given}.")
        if stopped.lost or status in (-signal.SIGINT, -signal.SIGTERM):
            return Ended(Cause.LOST, status, tail, "Its container was stopped from outside, as when the engine is started again.")
        if status in (NOT_FOUND, NOT_EXECUTABLE):
            raise PlaceFailure(f"compute.place.python: image {self.image} has no {self.python} that can be started:\n{tail}")
        if "No module named 'fine_tune_pipeline" in tail:
            raise PlaceFailure(
                f"compute.place.image: {self.image} has no fine_tune_pipeline; docker/Dockerfile makes one that has:\n{tail}"
            )
        return Ended.by(status, tail)

    def _settings(self, job: Job, user: str, mounts: Sequence[Mounted], gpus: dict[str, Any]) -> dict[str, Any]:
        from docker.types import DeviceRequest, LogConfig

        memory = _bytes(self.memory_gib) if self.memory_gib else None
        return {
            "image": self.image,
            "name": f"fine_tune_pipeline-{job.name}",
            "command": [*ONE_STREAM, *self.command(job, python=self.python)],
            "entrypoint": [],
            "environment": {**_HOME, **job.environment, **{name: os.environ[name] for name in job.handed_on}},
            "labels": {JOB_LABEL: job.name, USE_LABEL: job.program},
            "user": user,
            "read_only": True,
            # Kernels that torch compiles lie there, and are loaded from there.
            "tmpfs": {SCRATCH: f"rw,exec,nosuid,nodev,mode=1777,size={_bytes(self.scratch_gib)}"},
            "mounts": [mount.settings for mount in mounts],
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "pids_limit": PROCESSES,
            "init": True,
            "stop_signal": "SIGINT",
            "network_mode": self.network,
            "shm_size": _bytes(self.shm_gib),
            "mem_limit": memory,
            # The same: no swap, in which a training would only crawl.
            "memswap_limit": memory,
            "nano_cpus": int(self.cpus * 1e9) if self.cpus else None,
            "runtime": self.runtime,
            "device_requests": [DeviceRequest(**gpus, capabilities=[["gpu"]])] if gpus else None,
            # A driver that can be read, whatever the engine's default is.
            "log_config": LogConfig(type="json-file", config={"max-size": LOG_BYTES}),
        }

    def _reaches(self, tracking: Tracking | None, mounts: Sequence[Mounted]) -> None:
        if tracking is None:
            return
        where = urlsplit(tracking.uri)
        if where.scheme in ("http", "https"):
            if where.hostname in THIS_MACHINE and self.network != "host":
                raise PlaceFailure(
                    f"tracking.uri {tracking.uri}: in a container, {where.hostname} is the container itself: give MLFLOW_TRACKING_URI the "
                    "name or address of this machine, or set compute.place.network: host"
                )
        elif where.scheme in ("", "file", "sqlite"):
            path = Path(tracking.uri.removeprefix("sqlite:///") if where.scheme == "sqlite" else where.path)
            if not any(path.is_relative_to(mount.target) for mount in mounts if not mount.read_only):
                raise PlaceFailure(
                    f"tracking.uri {tracking.uri}: a file that the container does not see: start an MLflow server and set "
                    "MLFLOW_TRACKING_URI=http://…, or name a volume around it in compute.place.volumes"
                )


_HOME = {"HOME": SCRATCH, "USER": "program", "LOGNAME": "program"}
"""The user has no entry in the image's list of accounts, where libraries would look for its name and home."""


def status_of(exit_code: int) -> int:
    """As of a process: a shell's 128 and the number of a signal becomes the negative number."""
    number = exit_code - 128
    return -number if number in {int(one) for one in signal.Signals} else exit_code


def _bytes(gib: float) -> int:
    return int(gib * 2**30)
