"""Sections `deployment.traffic` and `deployment.guard`: what the endpoint keeps of its traffic, and what personal data it lets through."""

from typing import Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section


class TrafficSpec(Section):
    """Where the endpoint's log lies, how long its rows live, and who gets a copy."""

    url_variable: str | None = Field(
        default=None,
        min_length=1,
        description="Name of the environment variable that holds the URL of a PostgreSQL database, for several replicas; never the URL. "
        "Default: a SQLite file beside the endpoint.",
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        description="The monitor job deletes requests, with the feedback on them, that are older. Default: they are kept.",
    )
    mlflow_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of the requests that are copied to MLflow as traces, scrubbed as in the log."
    )


class GuardSpec(Section):
    """Whether personal data may pass between client and model; off by default, since a model may need names."""

    pii_in: Literal["off", "refuse", "mask"] = Field(
        default="off",
        description="Of what is asked: nothing, an error with the kinds that were found, or the model sees tags such as `<PERSON>`.",
    )
    pii_out: Literal["off", "mask"] = Field(
        default="off",
        description="Of answers in free words: nothing, or the client sees tags. Answers out of a closed list pass as they are.",
    )

    @property
    def on(self) -> bool:
        """Whether any text is looked at."""
        return (self.pii_in, self.pii_out) != ("off", "off")
