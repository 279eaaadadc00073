"""Programs on a Ray cluster, each as a job of Ray's Jobs API. The cluster's nodes have this package, and a folder they share with us."""

import base64
import os
import secrets
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fine_tune_pipeline.programs.searching.ray_nodes import TASKS_VARIABLE, RayTasks
from fine_tune_pipeline.resources.compute.accelerators import accelerators
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job, PlaceFailure
from fine_tune_pipeline.resources.compute.place import Place
from fine_tune_pipeline.resources.compute.ray_jobs import JOB, Forgotten, Unreachable, connected, jobs_named, nodes
from fine_tune_pipeline.resources.compute.ray_life import Patience, end, ended_by, forget, looks
from fine_tune_pipeline.resources.compute.ray_log import followed
from fine_tune_pipeline.resources.compute.staged import on_shelf

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

GIB = 1 << 30
HANDED_ON = "FINE_TUNE_PIPELINE_HANDED_ON"

NODE_ID = "ray.io/node-id"
"""Label of each node."""

ACCELERATOR_TYPE = "accelerator_type:"
"""Ray's name of a resource that a node has when its accelerators are of that type."""


class Ray(Place):
    """A Ray cluster: a program is a job that runs on one node with the resources asked for."""

    kind: Literal["ray"] = "ray"
    address: str | None = Field(default=None, description="Of the dashboard, such as http://head:8265; Ray's own RAY_ADDRESS by default.")
    headers: dict[str, str] = Field(default={}, description="Of each request; $NAME is taken from the environment: Bearer $RAY_TOKEN.")
    verify: bool = Field(default=True, description="Whether the certificate of an https address must be valid.")
    certificates: str | None = Field(default=None, description="File or folder of trusted certificates, in place of the system's.")
    python: str = Field(default="python", description="Interpreter on the nodes, of an environment that has this package and torch.")
    cpus: float = Field(default=1, gt=0, description="Cores that one program is given, and threads; it runs where they are free.")
    memory_gib: float | None = Field(default=None, gt=0, description="That a node must have free; Ray does not enforce it.")
    resources: dict[str, float] = Field(default={}, description="Others of the cluster's resources, such as accelerator_type:A100: 0.01.")
    gpu_memory_gib: float | None = Field(default=None, gt=0, description="Of one accelerator, if its type does not say so.")
    runtime_env: dict[str, Any] = Field(default={}, description="As Ray takes it: pip, working_dir, image_uri, env_vars and so on.")
    secrets: Literal["file", "environment"] = Field(
        default="file", description="How hand_on gets there: a file in the shared folder, gone once read, or env_vars, which Ray keeps."
    )
    staging: str | None = Field(
        default=None, description="URL of a folder (s3, gs, abfs) over which files go, where nodes share none with us."
    )
    start_seconds: float = Field(default=600, gt=0, description="Longest wait for the resources and the environment.")
    grace_seconds: int = Field(default=10, ge=1, description="Wait after SIGINT before SIGKILL.")
    patience_seconds: float = Field(default=300, gt=0, description="How long the cluster may be out of reach before a job counts as lost.")
    lease_seconds: float = Field(default=900, gt=0, description="A program ends by itself so long after the run that started it is gone.")

    def execute(self, job: Job) -> Ended:
        client, command = self._client(), self.command(job, python=self.python)
        if self.staging is None:
            return self._run(client, job, command)
        with on_shelf(job, self.staging, lease_seconds=self.lease_seconds) as shelf:
            if shelf.finished:
                self._cleared(client, job)
                return shelf.collected(Ended(Cause.DONE, 0))
            return shelf.collected(self._run(client, job, shelf.command(command)))

    def _run(self, client: "JobSubmissionClient", job: Job, command: Sequence[str]) -> Ended:
        submission = self._submitted(client, job, command)
        with followed(client, submission) as output, self._ended(client, submission):
            ended = self._watched(client, submission, job)
        forget(client, submission)
        return replace(ended, tail=output.tail())

    def inventory(self) -> Inventory:
        found = list(self._nodes(self._client()).values())
        fitting = [node for node in found if fits(node, self._wanted(on_device=True))] or found
        best = max(fitting, key=lambda node: (node.get("GPU", 0), node.get("memory", 0)))
        memory = int((self.memory_gib or 0) * GIB) or int(best.get("memory", 0))
        cpu = Device(kind="cpu", name="CPU", memory_bytes=memory, bfloat16=False)
        count = int(best.get("GPU", 0))
        devices = accelerators(_accelerator(best), count, self.gpu_memory_gib) if count else (cpu,)
        return Inventory(place=self.kind, devices=devices, cpu_cores=max(1, int(self.cpus)), memory_bytes=memory)

    def refused(self, at_once: int) -> str:
        if self.staging is not None:
            return "compute.place.staging: nodes that share no folder cannot share a search; mount one on all of them and leave staging out"
        wanted, found = self._wanted(on_device=True), self._nodes(self._client()).values()
        room = sum(places(node, wanted) for node in found)
        if at_once <= room:
            return ""
        there = "; ".join(f"a node of {shown(node)}" for node in found)
        return (
            f"the Ray cluster has room for {room} tasks of {shown(wanted)} at the same time: it has {there}. Lower it, ask for less "
            "(compute.place: cpus, gpus, memory_gib, resources), or add nodes"
        )

    @property
    def lease(self) -> float | None:
        return self.lease_seconds if self.staging is None else None

    @property
    def _shows_secrets(self) -> bool:
        return self.secrets == "environment" or self.staging is not None

    @property
    def _patience(self) -> Patience:
        return Patience(self.python, self.grace_seconds, self.lease_seconds)

    def _client(self) -> "JobSubmissionClient":
        headers = {name: _expanded(name, value) for name, value in self.headers.items()}
        return connected(self.address, headers, verify=self.certificates or self.verify)

    def _nodes(self, client: "JobSubmissionClient") -> dict[str, dict[str, float]]:
        try:
            found = nodes(client)
        except Unreachable as error:
            raise PlaceFailure(f"compute.place.address: the Ray cluster does not say what nodes it has: {error}") from error
        if not found:
            raise PlaceFailure("compute.place.address: the Ray cluster has no node that is alive")
        return found

    def _wanted(self, *, on_device: bool) -> dict[str, float]:
        """Resources of one program, by Ray's names."""
        devices = {"GPU": float(self.gpus)} if on_device and self.gpus else {}
        memory = {"memory": self.memory_gib * GIB} if self.memory_gib else {}
        return {"CPU": self.cpus, **devices, **memory, **self.resources}

    def _submitted(self, client: "JobSubmissionClient", job: Job, command: Sequence[str]) -> str:
        """A new job, or the one that an earlier try of the same resumable work has left running; others of that name are ended."""
        running = self._cleared(client, job)
        return running if running is not None else self._submit(client, job, command)

    def _cleared(self, client: "JobSubmissionClient", job: Job) -> str | None:
        """End and remove jobs that earlier tries have left, but for the one that goes on."""
        try:
            known = jobs_named(client, job.name)
        except Unreachable as error:
            raise PlaceFailure(f"compute.place.address: the Ray cluster does not say what runs there: {error}") from error
        adopted = [one for one in known if job.request.resumable and not one.status.is_terminal()][-1:]
        for one in known:
            if one not in adopted:
                end(client, str(one.submission_id), self._patience)
                forget(client, str(one.submission_id))
        return str(adopted[0].submission_id) if adopted else None

    def _submit(self, client: "JobSubmissionClient", job: Job, command: Sequence[str]) -> str:
        # Never the id of a deleted job: Ray would append to its log.
        submission, given = f"{job.name}-{secrets.token_hex(4)}", self._given(client, job)
        try:
            return client.submit_job(
                entrypoint=self._entrypoint(job, command), submission_id=submission, metadata={JOB: job.name},
                runtime_env=self._environment(job), **given,
            )  # fmt: skip
        except Unreachable as error:
            # It may have been started all the same.
            end(client, submission, self._patience)
            raise PlaceFailure(f"compute.place.address: the Ray cluster did not take the job: {error}") from error
        except (RuntimeError, ValueError, TypeError) as error:
            raise PlaceFailure(f"compute.place.runtime_env, resources: Ray does not take the job: {error}") from error

    def _given(self, client: "JobSubmissionClient", job: Job) -> dict[str, Any]:
        """What Ray sets aside for the job. One whose tasks do the work gets nothing but a node that could take one of them."""
        wanted = self._wanted(on_device=job.on_device)
        if job.at_once > 1:
            found = self._nodes(client)
            node = next((name for name, resources in found.items() if fits(resources, wanted)), next(iter(found)))
            return {"entrypoint_label_selector": {NODE_ID: node}}
        return {
            "entrypoint_num_cpus": self.cpus,
            "entrypoint_num_gpus": wanted.get("GPU"),
            "entrypoint_memory": int(wanted.get("memory", 0)) or None,
            "entrypoint_resources": self.resources or None,
        }

    def _entrypoint(self, job: Job, command: Sequence[str]) -> str:
        program = f"exec {shlex.join(command)}"
        if not job.handed_on:
            return program
        if self._shows_secrets:
            return f'eval "$(echo "${HANDED_ON}" | base64 -d)"; unset {HANDED_ON}; {program}'
        file = job.folder / "handed_on"
        _write_secretly(file, _exports(job))
        return f". {shlex.quote(str(file))}; rm -f {shlex.quote(str(file))}; {program}"

    def _environment(self, job: Job) -> dict[str, Any]:
        # Ray takes a $ in a value for the name of another variable.
        secret = {HANDED_ON: base64.b64encode(_exports(job).encode("utf-8")).decode("ascii")} if self._shows_secrets else {}
        stop = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(self.grace_seconds)}
        own = self.runtime_env.get("env_vars") or {}
        return {**self.runtime_env, "env_vars": {**stop, **job.environment, **self._tasks(job), **secret, **own}}

    def _tasks(self, job: Job) -> dict[str, str]:
        """What each task of the program may have, as it reads it."""
        if job.at_once == 1:
            return {}
        tasks = RayTasks(resources=self._wanted(on_device=job.on_device), grace_seconds=self.grace_seconds)
        return {TASKS_VARIABLE: tasks.model_dump_json()}

    def _watched(self, client: "JobSubmissionClient", submission: str, job: Job) -> Ended:
        """Look at the job until it has ended or must not go on; the end of its output is not known yet."""
        submitted = heard = time.monotonic()
        begun: float | None = None
        for now in looks():
            try:
                info, heard = client.get_job_info(submission), now
            except Unreachable as error:
                if now - heard > self.patience_seconds:
                    return Ended(Cause.LOST, said=f"Out of reach for {now - heard:.0f} s: {error}. {self._patience.by_lease}")
                continue
            except Forgotten:
                return Ended(Cause.LOST, said="The cluster does not know the job any more, as after a start anew.")
            if info.status.is_terminal():
                return ended_by(info)
            begun = now if begun is None and info.status == "RUNNING" else begun
            if begun is None and now - submitted > self.start_seconds:
                raise self._never_begun(client, job, info)
            if begun is not None and now - begun > (self.timeout_seconds or float("inf")):
                return self.timed_out("")
        raise AssertionError("looks never end")

    def _never_begun(self, client: "JobSubmissionClient", job: Job, info: "JobDetails") -> PlaceFailure:
        there = "; ".join(f"a node of {shown(node)}" for node in self._nodes(client).values())
        wanted = shown(self._wanted(on_device=job.on_device))
        return PlaceFailure(
            f"the Ray cluster has not started {job.program} within {self.start_seconds:g} s: it wants {wanted} on one node, and the "
            f"cluster has {there}. Ask for less (compute.place: cpus, gpus, memory_gib, resources), add nodes, or, where all are busy, "
            f"raise start_seconds. Ray says: {info.message}"
        )

    @contextmanager
    def _ended(self, client: "JobSubmissionClient", submission: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            end(client, submission, self._patience)
            forget(client, submission)
            raise
        end(client, submission, self._patience)


def fits(node: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    """Whether a node, with nothing else on it, has what is wanted."""
    return all(node.get(name, 0) >= amount for name, amount in wanted.items())


def places(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many times a node, with nothing else on it, has what is wanted."""
    # Shares such as 0.1 are no exact numbers.
    return min(int(node.get(name, 0) / amount + 1e-6) for name, amount in wanted.items() if amount)


def shown(resources: Mapping[str, float]) -> str:
    """Resources as people read them: `4 CPU, 1 GPU, 16 GiB memory`."""
    first = ("CPU", "GPU", "memory")
    others = sorted(name for name in resources if name not in first and not name.startswith(("node:", "object_store_memory")))
    amounts = [(name, resources[name]) for name in (*first, *others) if name in resources]
    return ", ".join(f"{amount / GIB:.3g} GiB memory" if name == "memory" else f"{amount:g} {name}" for name, amount in amounts)


def _accelerator(node: Mapping[str, float]) -> str | None:
    types = [name.removeprefix(ACCELERATOR_TYPE) for name in node if name.startswith(ACCELERATOR_TYPE)]
    # A node with A100 and A100-80G is of the narrower kind.
    return max(types, key=len, default=None)


def _expanded(header: str, value: str) -> str:
    expanded = os.path.expandvars(value)
    if "$" in expanded:
        raise PlaceFailure(f"compute.place.headers.{header}: got {value!r}, and the environment has no such variable")
    return expanded


def _exports(job: Job) -> str:
    """What is handed on, as a shell reads it."""
    return "".join(f"export {name}={shlex.quote(os.environ[name])}\n" for name in job.handed_on)


def _write_secretly(file: Path, text: str) -> None:
    """For us alone to read."""
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
        opened.write(text)
