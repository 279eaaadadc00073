"""Section `evaluation` (step 7): with what the fine-tuned model is compared, and whom to ask."""

from pydantic import Field

from fine_tune_pipeline.spec.base import Section


class HumanSpec(Section):
    """Blind pairs for people: the base's answer beside the fine-tuned model's."""

    pairs: int = Field(default=30, ge=1)
    required: bool = Field(default=False, description="Deployment waits for the verdicts.")
    win_rate_at_least: float = Field(default=0.5, ge=0, le=1)


class EvaluationSpec(Section):
    """Systems on one held-out set."""

    few_shot: list[int] = Field(default=[4, 8], min_length=1, description="Numbers of worked examples tried; validation chooses.")
    validation_rows: int = Field(default=60, ge=10, description="At most so many validation rows choose and compare the baselines.")
    human: HumanSpec = HumanSpec()
