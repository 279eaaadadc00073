"""The one `Compute` of the product: a place by configuration, of the deployment or of a single run, and the way every program goes."""

import os
from pathlib import Path

import dagster as dg
from pydantic import Field

from fine_tune_pipeline.programs.requests import Request
from fine_tune_pipeline.resources.compute.base import Compute, ResultT
from fine_tune_pipeline.resources.compute.cloud import Cloud
from fine_tune_pipeline.resources.compute.docker import Docker
from fine_tune_pipeline.resources.compute.exchange import RESULT, answered, exchange, leased
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.resources.compute.job import RESUMABLE, Cause, Ended, Job, PlaceFailure, failure
from fine_tune_pipeline.resources.compute.kubernetes import Kubernetes
from fine_tune_pipeline.resources.compute.live import LiveFileReader
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.compute.ray import Ray
from fine_tune_pipeline.resources.program_environment import PROGRAM_ENVIRONMENT

AnyPlace = Local | Docker | Kubernetes | Ray | Cloud
"""Every place that programs can run at, told apart by its `kind`."""

KINDS: dict[str, type[AnyPlace]] = {place.model_fields["kind"].default: place for place in (Local, Docker, Kubernetes, Ray, Cloud)}


TRIES = 3
"""More of a program that can go on where it was, within one run: after those somebody should look."""

WAIT_SECONDS = 5.0
"""Before the next try: a machine that takes another's place needs some."""


class PlacedCompute(Compute):
    """Runs a program at a place, and reports back."""

    place: AnyPlace = Field(default=Local(), discriminator="kind", description="Where: local, docker, kubernetes, ray, cloud.")

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        answer = Path(request.output) / RESULT
        if answered(request):
            context.log.info(f"{request.module}: an earlier try has finished it; its answer is read")
            return result.read(answer)
        with exchange(request) as folder:
            handed_on = (*self.place.handed_on(), *(name for name in request.variables() if name in os.environ))
            ended = self._executed(context, Job(request=request, folder=folder, handed_on=handed_on)).explained
            if ended.cause == Cause.DONE and not answer.exists():
                ended = Ended(Cause.LOST, 0, ended.tail, f"It left no {answer} behind.")
            if ended.cause != Cause.DONE:
                failed = failure(Job(request=request, folder=folder), ended)
                if request.resumable and ended.cause in RESUMABLE:
                    context.log.warning(f"{failed.description} It is tried again, {TRIES} times at most.")
                    raise dg.RetryRequested(max_retries=TRIES, seconds_to_wait=WAIT_SECONDS) from failed
                raise failed
        return result.read(answer)

    def inventory(self) -> Inventory:
        return self.place.shared(self.place.inventory())

    def refused(self, at_once: int) -> str:
        return self.place.refused(at_once)

    def _executed(self, context: dg.AssetExecutionContext, job: Job) -> Ended:
        reader = LiveFileReader(context, job.folder / "messages.jsonl")
        injector = dg.PipesEnvContextInjector()
        try:
            with (
                dg.open_pipes_session(context.op_execution_context, context_injector=injector, message_reader=reader) as session,
                leased(job.folder, self.place.lease) as lease,
            ):
                wanted = {**PROGRAM_ENVIRONMENT, **job.request.environment}
                settings = {name: os.environ.get(name, value) for name, value in wanted.items()}
                told = {**settings, **session.get_bootstrap_env_vars(), **lease, "PYTHONUNBUFFERED": "1"}
                return self.place.execute(Job(request=job.request, folder=job.folder, environment=told, handed_on=job.handed_on))
        except PlaceFailure as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
