"""Where endpoints of this project run and keep their state."""

import sys
from pathlib import Path

import dagster as dg
from pydantic import Field

from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.resources.attended import endpoint_at
from fine_tune_pipeline.resources.endpoint import Endpoint
from fine_tune_pipeline.spec.use_case import UseCaseSpec


class Serving(dg.ConfigurableResource):
    """Endpoints of this machine: one supervised process per use case, which outlives the run that started it; or attended elsewhere."""

    folder: str = Field(description="Root of the endpoints' state: <folder>/<use case>/ holds version table, keys, log and traffic.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 inside a container.")
    python: str = Field(default=sys.executable, description="Interpreter of the environment that has torch.")
    url: str = Field(
        default="",
        description="Where endpoints answer that are attended in containers of their own, such as http://{name}-endpoint:8100; {name} is "
        "the use case with hyphens. Empty: they are processes of this machine.",
    )
    ready_seconds: float = Field(default=300.0, gt=0, description="Longest wait for a first answer after a start.")

    def endpoint(self, use_case: str) -> Endpoint:
        """The endpoint of a use case, running or not."""
        if self.url:
            return endpoint_at(self.state(use_case), use_case=use_case, url=self.url, ready_seconds=self.ready_seconds)
        return Endpoint(use_case=use_case, folder=self.state(use_case), python=self.python, ready_seconds=self.ready_seconds)

    def candidate(self, use_case: str) -> Endpoint:
        """A second place, for a version that can't be loaded beside the running ones because it has another base model."""
        return Endpoint(use_case=use_case, folder=self.state(use_case) / "candidate", python=self.python, ready_seconds=self.ready_seconds)

    def state(self, use_case: str) -> Path:
        """Folder of a use case's endpoint."""
        return Path(self.folder).absolute() / use_case

    def traffic_log(self, spec: UseCaseSpec) -> TrafficLog:
        """What the endpoint of a use case was asked and answered; empty when it never ran.

        Raises:
            NoDatabaseUrl: the use case names a variable that holds no URL of a database.
        """
        return TrafficLog.of(spec.deployment.traffic, use_case=spec.name, folder=self.state(spec.name))
