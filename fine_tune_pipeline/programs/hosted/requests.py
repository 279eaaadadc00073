"""What the programs of a hosted model are asked and answer. No torch here, and no client of the provider.

A hosted model is a folder like any other model, with `hosted.json` in place of weights: so a tuned one is registered, offered to the
endpoint and predicted with like an adapter.
"""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field

from fine_tune_pipeline.programs.requests import Contract, PredictJob, PromptFormat, Read, Request, Tracking, Written

HOSTED_FILE = "hosted.json"


class HostedModel(Contract):
    """Where a model is asked. The key is in the environment variable, and nowhere else."""

    model: str
    base_url: str
    api_key_variable: str
    context_tokens: int
    requests_at_once: int = 8

    @property
    def sha256(self) -> str:
        """Stands for the hash of the weights, which nobody outside sees: of the name and of the place that knows it."""
        return hashlib.sha256(f"{self.base_url.rstrip('/')}\n{self.model}".encode()).hexdigest()


def read_hosted(folder: str | Path) -> HostedModel | None:
    """What a model folder says of its provider; None when it holds weights."""
    path = Path(folder) / HOSTED_FILE
    return HostedModel.read(path) if path.exists() else None


def write_hosted(folder: Path, hosted: HostedModel) -> Path:
    """Make the folder of a hosted model."""
    folder.mkdir(parents=True)
    hosted.write(folder / HOSTED_FILE)
    return folder


class HostedJob(Contract):
    """What a fine-tuning job is made of; everything in it decides what is learned."""

    format: PromptFormat
    epochs: int
    batch_size: Literal["auto"] | int = "auto"
    learning_rate_multiplier: Literal["auto"] | float = "auto"
    seed: int = 0


class HostedRequest(Request):
    """A request to a program that speaks to the provider, with the key that its environment holds."""

    module = ""
    hosted: HostedModel

    def variables(self) -> tuple[str, ...]:
        return (self.hosted.api_key_variable,)


class ReachRequest(HostedRequest):
    """Ask the provider whether it answers, takes the key and knows the model (step 2)."""

    module = "fine_tune_pipeline.programs.hosted.reach"


class ReachResult(Contract):
    """`problem` is empty when the model can be used. `shutdown_date` is the provider's own word, as it writes it."""

    problem: str = ""
    listed: bool = Field(default=False, description="The provider's list of models names it.")
    shutdown_date: str | None = None


class CheckRequest(HostedRequest):
    """Look at the rows as the provider would, and at the provider, before anything is paid for (step 5)."""

    module = "fine_tune_pipeline.programs.hosted.check"
    job: HostedJob
    train: Read
    validation: Read


class CheckResult(Contract):
    """`over_long` are ids of training and validation rows longer than the model reads; tokens are estimates."""

    reach: ReachResult
    rows: int
    tokens: int = Field(description="Of the training rows that fit, once.")
    longest_tokens: int
    over_long: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class HostedTrainRequest(HostedRequest):
    """Step 6 at the provider: upload, create the job or adopt the one that runs, follow it to its end.

    `state` is a folder that outlives a killed run: the job's id lies there before anything else happens.
    """

    module = "fine_tune_pipeline.programs.hosted.train"
    job: HostedJob
    use_case: str
    train: Read
    validation: Read
    state: Written
    poll_seconds: float = 10.0
    tracking: Tracking | None = None


class JobState(Contract):
    """`job.json` in the state folder."""

    job_id: str
    fingerprint: str


class Checkpoint(Contract):
    """A model that the provider kept on the way."""

    step: int
    model: str
    train_loss: float | None = None
    validation_loss: float | None = None


class HostedTrainResult(Contract):
    """What came of the job. `adopted` says that an earlier run had created it; losses are as the provider gave them, perhaps none."""

    adapter: str
    adapter_sha256: str
    job_id: str
    model: str
    adopted: bool
    rows: int
    steps: int
    trained_tokens: int | None
    seconds: float = Field(description="From the job's creation to its end, the queue included.")
    validation_losses: tuple[tuple[int, float], ...]
    checkpoints: tuple[Checkpoint, ...]
    curve: str
    mlflow_run_id: str | None = None


class HostedPredictRequest(HostedRequest):
    """Answers of hosted models; a job's adapter is the folder of a tuned one. `replies` keeps each answer, so that none is paid twice."""

    module = "fine_tune_pipeline.programs.hosted.predict"
    jobs: tuple[PredictJob, ...]
    replies: Written
