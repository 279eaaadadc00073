"""Section `deployment`, its release part: what a new version has to pass before everybody gets it, and what may take it back."""

from typing import Literal

from pydantic import Field

from fine_tune_pipeline.spec.base import Section


class CanarySpec(Section):
    """Some users get the new version first; the two are compared by the traffic log before it is promoted."""

    share: float = Field(default=0.1, gt=0, le=0.5, description="Of the users, or of the requests that name none, who get the new version.")
    answers: int = Field(default=50, ge=20, description="So many requests to the new version end the canary.")
    minutes: float = Field(default=60.0, gt=0, description="After so long it ends too, however few they were.")
    too_few: Literal["promote", "wait", "roll_back"] = Field(
        default="promote",
        description="What follows when the time is over before there were enough answers, and none of what was seen is worse.",
    )


class WatchSpec(Section):
    """After a promotion the version is held against the one before, and rolled back by itself when it is worse."""

    answers: int = Field(default=200, ge=20, description="So many requests end the watch.")
    minutes: float = Field(default=1440.0, gt=0, description="After so long it ends too.")
