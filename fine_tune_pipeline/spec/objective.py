"""Section `objective` (step 1): what the model must achieve, and how one would know."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section

SYSTEMS = ("base_zero_shot", "base_few_shot", "classifier", "majority")
"""What the fine-tuned model can be compared with."""

System = Literal["base_zero_shot", "base_few_shot", "classifier", "majority"]


class Classification(Section):
    """One label out of a closed list."""

    type: Literal["classification"]
    labels: list[str] | str = Field(description="The labels, or a JSON file that lists them.")


class Extraction(Section):
    """A JSON object after a JSON Schema."""

    type: Literal["extraction"]
    schema_: str = Field(alias="schema", description="JSON Schema file of the answer, relative to the use case's folder.")


class QuestionAnswering(Section):
    """A short free answer that is right or wrong."""

    type: Literal["question_answering"]


class Generation(Section):
    """A longer free text, judged by overlap with a reference and by people."""

    type: Literal["generation"]


Task = Annotated[Classification | Extraction | QuestionAnswering | Generation, Field(discriminator="type")]


class Criterion(Section):
    """One measurable demand. Exactly one of `at_least`, `at_most`, `beats` is given; the metric fixes the direction."""

    metric: str = Field(description="A metric of the task, such as exact_match; of one field of the answer: field_match.intent.")
    at_least: float | None = None
    at_most: float | None = None
    beats: System | None = Field(default=None, description="The system that the fine-tuned model must beat.")
    by: float = Field(default=0.0, ge=0, description="Margin of `beats`, in the metric's own unit.")

    @model_validator(mode="after")
    def one_demand(self) -> "Criterion":
        given = [name for name in ("at_least", "at_most", "beats") if getattr(self, name) is not None]
        if len(given) != 1:
            seen = ", ".join(given) or "none"
            raise ValueError(f"a criterion needs exactly one of at_least, at_most, beats; got {seen}")
        if self.by and self.beats is None:
            raise ValueError("`by` is the margin of `beats`; give `beats` too, or leave `by` out")
        return self


class Limits(Section):
    """What the answers may cost."""

    p95_latency_seconds: float | None = Field(default=None, gt=0)
    memory_gib: float | None = Field(default=None, gt=0)


class Evidence(Section):
    """How sure the verdict must be."""

    level: float = Field(default=0.95, gt=0.5, lt=1, description="Confidence of each one-sided bound.")
    power: float = Field(default=0.8, gt=0.5, lt=1, description="Chance of seeing `smallest_gain` if it is there.")
    smallest_gain: float = Field(default=0.10, gt=0, lt=1, description="The gain that the test set must be able to show.")


class ObjectiveSpec(Section):
    """The business goal and the numbers that say whether it is met."""

    goal: str = Field(min_length=1, description="The business goal in a sentence or two.")
    task: Task
    success: list[Criterion] = Field(min_length=1, description="All must hold.")
    guards: list[Criterion] = Field(default=[], description="What must not be lost on the way; all must hold too.")
    limits: Limits = Limits()
    evidence: Evidence = Evidence()
