"""Part of section `evaluation`: a model that judges pairs beside people."""

from pydantic import Field

from fine_tune_pipeline.spec.more import ChatModel


class JudgeSpec(ChatModel):
    """A model behind an OpenAI-compatible API that judges pairs in both orders. It is sent scrubbed prompts and the two answers."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    items: int = Field(default=200, ge=1, description="Test rows that it judges, those that people judged first.")
    required: bool = Field(
        default=False, description="Deployment waits for its verdict as soon as enough people calibrate it; before that it decides nothing."
    )
