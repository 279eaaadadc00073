"""What all places have: how a program is started there, how long it may run, and what it is told."""

import os
from abc import ABC, abstractmethod

import dagster as dg
from pydantic import Field

from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.compute.job import Cause, Ended, Job

HANDED_ON = (
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "FINE_TUNE_PIPELINE_PII_KEY", "OPENAI_API_KEY",
    "HF_TOKEN", "HF_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL",
    "AZURE_STORAGE_CONNECTION_STRING", "GOOGLE_APPLICATION_CREDENTIALS",
)  # fmt: skip
"""Variables of our environment that programs may need; those that are set are handed on."""


class Place(dg.Config, ABC):
    """Somewhere programs run. Siblings have the same outline, so that a diff of two shows the difference of the places."""

    launcher: str = Field(default="plain", pattern="^(plain|accelerate)$", description="accelerate: one process for each device.")
    processes: int | None = Field(default=None, ge=1, description="Of the accelerate launcher; as many as there are devices by default.")
    parallel: str = Field(
        default="ddp",
        pattern="^(ddp|fsdp2)$",
        description="Of several processes. ddp: each holds the whole model; fsdp2: a part of it, where one device has no room for all.",
    )
    gpus: int = Field(default=0, ge=0, description="Accelerators that one program is given.")
    timeout_seconds: float | None = Field(default=None, gt=0, description="Longest time of one program; none by default.")
    hand_on: list[str] = Field(default=list(HANDED_ON), description="Names of environment variables that programs are given, if set.")

    @abstractmethod
    def execute(self, job: Job) -> Ended:
        """Run the job to its end. When this returns, raises or is interrupted, nothing of it is running or left at the place.

        Raises:
            PlaceFailure: the place cannot run it; it says what to do.
        """

    @abstractmethod
    def inventory(self) -> Inventory:
        """Devices and memory of the place, cheaply and without torch."""

    def refused(self, at_once: int) -> str:
        """Why so many tasks of one program cannot run here at the same time, and what to do; empty if they can."""
        return (
            f"compute is {type(self).__name__.lower()}, where tasks of one program run one after another; choose a Ray cluster "
            "(FINE_TUNE_PIPELINE_COMPUTE=ray, docs/compute_ray.md)"
        )

    @property
    def lease(self) -> float | None:
        """Seconds after which a program ends by itself when the run that started it is gone; None where it sees that otherwise."""
        return None

    def command(self, job: Job, *, python: str) -> list[str]:
        """What is started: the program itself, or one process of it for each device."""
        program = ["-m", job.request.module, "--request", str(job.request_file)]
        if self.launcher == "plain" or not job.request.parallel:
            return [python, *program]
        how = [] if self.parallel == "ddp" else ["--parallel", self.parallel]
        return [python, "-m", "fine_tune_pipeline.programs.launch", *self._launcher(), *program, *how]

    def shared(self, found: Inventory) -> Inventory:
        """The same with the processes of a training, as `command` starts them."""
        processes = 1 if self.launcher == "plain" else self._processes(found)
        return found if processes == 1 else found.model_copy(update={"processes": processes, "parallel": self.parallel})

    def _processes(self, found: Inventory) -> int:
        return self.processes or max(1, len(self._accelerators(found)))

    def _accelerators(self, found: Inventory) -> list[Device]:
        return [device for device in found.devices if device.kind != "cpu"][: self.gpus]

    def _launcher(self) -> list[str]:
        found = self.inventory()
        processes = self._processes(found)
        if not self._accelerators(found):
            # On CPUs accelerate would start MPI; torch's own launcher sets the same variables.
            return ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        several = ["--multi_gpu"] if processes > 1 else []
        shape = [f"--num_processes={processes}", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
        return ["accelerate.commands.launch", *several, *shape, "--main_process_port=0"]

    def timed_out(self, tail: str) -> Ended:
        """The end of a program that ran into its time limit."""
        return Ended(Cause.TIMEOUT, tail=tail, said=f"compute.place.timeout_seconds is {self.timeout_seconds:g}.")

    def handed_on(self) -> tuple[str, ...]:
        """Names of the variables that are set here and handed on."""
        return tuple(name for name in self.hand_on if name in os.environ)
