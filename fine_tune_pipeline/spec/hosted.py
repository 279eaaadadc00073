"""A base model that stays at its provider: it is tuned and asked there, through an API of OpenAI's shape."""

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section

OPENAI = "https://api.openai.com/v1"

Price = Annotated[float, Field(ge=0)]


class Prices(Section):
    """What the provider asks for, per million tokens. None is built in: published prices differ, and they change."""

    train: Price | None = Field(default=None, description="Of a million training tokens; every epoch counts.")
    input: Price | None = Field(default=None, description="Of a million tokens of prompts.")
    output: Price | None = Field(default=None, description="Of a million tokens of answers.")
    currency: str = Field(default="USD", pattern="^[A-Z]{3}$", description="ISO 4217.")
    as_of: date = Field(description="The day on which they were read; prices older than 180 days are warned about.")
    source: str = Field(min_length=1, description="Where they were read.")


class ApiModel(Section):
    """A proprietary model, tuned and asked at its provider through an API of OpenAI's shape. Your rows leave this machine."""

    type: Literal["api"]
    id: str = Field(min_length=1, description="The name under which tables show it.")
    model: str = Field(min_length=1, description="Its name at the provider, such as gpt-4.1-mini-2025-04-14.")
    base_url: str = Field(default=OPENAI, pattern="^https?://", description="Where the API is, version included.")
    api_key_variable: str = Field(
        default="OPENAI_API_KEY", pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="Environment variable that holds the key; never the key."
    )
    licence: str = Field(description="The provider's terms, as LicenseRef-…; to be named in accept_licences.")
    context_tokens: int = Field(default=65_536, ge=16, description="Tokens of a training row, and of prompt and answer together.")
    prices: Prices | None = None
    last_job_date: date | None = Field(default=None, description="The last day on which the provider takes new fine-tuning jobs.")
    shutdown_date: date | None = Field(default=None, description="The day on which the model, and what was tuned from it, stops answering.")
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, le=100)] = Field(
        default="auto", description="Of the provider's own rate; training.learning_rate means nothing there."
    )
    requests_at_once: int = Field(default=8, ge=1, le=64, description="Prompts that wait for an answer at the same time.")
    poll_seconds: float = Field(default=10, gt=0, le=600, description="Between two looks at a running job.")
