"""Section `evaluation` (step 7): with what the fine-tuned model is compared, and whom to ask."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section
from fine_tune_pipeline.spec.decoding import Decoding
from fine_tune_pipeline.spec.judge import JudgeSpec
from fine_tune_pipeline.spec.safety import SafetySpec

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")

Choice = Literal["prompt", "retrieve", "classifier", "fine_tune", "hybrid", "more_data", "cannot_tell"]
"""What steps 4 and 7 may recommend."""

TAKEN = ("id", "choice", "by", "note", "content", "prompt", "handout", "asked_of")
"""Columns of a verdict that are no question."""


class HumanSpec(Section):
    """Blind pairs for people: another system's answer beside the fine-tuned model's."""

    pairs: int = Field(default=30, ge=1, description="Test rows that people see; fewer where both answers are the same.")
    repeated: float = Field(default=0.2, ge=0, le=1, description="Share of the pairs that are shown again with sides swapped.")
    versus: Literal["base", "champion"] = Field(
        default="base",
        description="champion: the version that is live now, on test rows that it has answered; the base while there is none.",
    )
    questions: dict[str, str] | None = Field(
        default=None,
        description="Name -> what is asked of both answers beside the choice, answered by A, B, both or neither; by task if left out, "
        "none if {}.",
    )
    formats: list[Literal["jsonl", "html", "mlflow"]] = Field(
        default=["jsonl", "html"], description="How pairs are handed out; `mlflow`: review queues. Verdicts are read in any."
    )
    reviewers: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="Who judges every pair; in MLflow each has a queue. Anybody by default, and one look at a pair is enough."
    )
    required: bool = Field(default=False, description="Deployment waits for the verdicts.")
    win_rate_at_least: float = Field(
        default=0.5, ge=0, lt=1, description="The one-sided bound must lie above it; 0 takes any verdict, once it is complete."
    )

    @model_validator(mode="after")
    def unmistakable(self) -> Self:
        for name, said in (self.questions or {}).items():
            if not _NAME.fullmatch(name) or not said.strip():
                raise ValueError(f"questions: got {name!r}: {said!r}, want a name of a-z, 0-9 and _, and a question")
        taken = sorted(set(self.questions or {}) & set(TAKEN))
        if taken:
            raise ValueError(f"questions: {', '.join(taken)} is a column of every verdict; give the question another name")
        names = [name.strip().casefold() for name in self.reviewers]
        if len(set(names)) < len(names):
            raise ValueError("reviewers: a name stands there twice; capitals and gaps do not tell people apart")
        return self


class OverrideSpec(Section):
    """A decision against the recommendation of steps 4 and 7."""

    recommendation: Choice
    reason: Annotated[str, Field(min_length=10, description="For whoever reads the report; at least ten characters.")]


class EvaluationSpec(Section):
    """Systems on one held-out set."""

    few_shot: list[int] = Field(default=[4, 8], min_length=1, description="Numbers of worked examples tried; validation chooses.")
    passages: list[Annotated[int, Field(ge=1, le=32)]] = Field(
        default=[2, 4], min_length=1, description="Numbers of passages looked up for base_retrieval that are tried; validation chooses."
    )
    validation_rows: int = Field(default=60, ge=10, description="At most so many validation rows choose and compare the baselines.")
    decoding: Decoding = Field(
        default="greedy",
        description="How every language model writes its answers. greedy: freely. labels: the likeliest of the closed list of answers. "
        "json_schema: only tokens that keep the answer inside the schema (needs the extra `json`).",
        exclude_if=lambda wanted: wanted == "greedy",
    )
    timed_rows: int = Field(
        default=6,
        ge=0,
        description="Test rows that each language model answers once more, one at a time, to time single answers; 0: none. 6 are the "
        "fewest that give the median a 95 % interval.",
    )
    override: OverrideSpec | None = Field(
        default=None, description="What you decided instead of what the rule recommends, and why; shown beside it. The checks stay."
    )
    human: HumanSpec = HumanSpec()
    safety: SafetySpec = SafetySpec()
    judge: JudgeSpec | None = Field(
        default=None, description="A model that judges pairs beside people, calibrated by them; none by default."
    )
