"""Parts of sections `evaluation` and `training`: what training may have done beside the task, and codes that show what it remembers."""

from typing import Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section

GENERAL_TEXTS = 200
"""That are shipped."""


class SafetySpec(Section):
    """What is measured of the tuned model beside its task (`docs/safety.md`)."""

    general_texts: int = Field(
        default=GENERAL_TEXTS, ge=30, le=GENERAL_TEXTS, description="Shipped texts on which the loss of base and tuned model is compared."
    )
    continued_rows: int = Field(default=32, ge=0, description="Training rows whose answer is begun and continued by both models; 0: none.")
    refusals: bool = Field(default=True, description="Ask both models 50 shipped requests to refuse and 50 harmless look-alikes.")


class CanarySpec(Section):
    """Random codes that are put into the training rows, and nowhere else, to see whether the model remembers single rows."""

    count: int = Field(default=4, ge=1, le=25, description="Codes for each number of repeats.")
    repeats: list[int] = Field(
        default=[1, 4, 16],
        min_length=1,
        description="How often each code is put in; the gate looks at the smallest, the others show where it starts.",
    )

    @model_validator(mode="after")
    def rising(self) -> Self:
        if any(times < 1 for times in self.repeats) or sorted(set(self.repeats)) != self.repeats:
            raise ValueError(f"repeats: got {self.repeats}, want whole numbers from 1 on, each once, rising, such as [1, 4, 16]")
        return self
