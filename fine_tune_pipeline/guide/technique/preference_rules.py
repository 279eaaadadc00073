"""Rules of what only compared answers need."""

from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.preference import Preference
from fine_tune_pipeline.spec.training import TrainingSpec

_HELD = "1e-6 for all weights is TRL's default, and a higher one leaves the reference soon"
RATE_SHARES = {"dpo": (0.01, _HELD), "kto": (0.01, _HELD), "orpo": (0.1, "its paper takes 8e-6 for all weights")}
"""Of the rate at which the same model would learn the right answers alone, and why."""


@dataclass(frozen=True)
class Rule:
    """One setting, its number, and what gave it."""

    setting: str
    value: Any
    rule: str


def preference_of(training: TrainingSpec, work: Workload) -> Preference | None:
    """As the program wants it."""
    wanted = training.preference
    if wanted is None:
        return None
    weight = (work.rows - work.unwanted) / work.unwanted if wanted.type == "kto" else 1.0
    return Preference(type=wanted.type, beta=wanted.beta, undesirable_weight=weight)


def preference_rule(wanted: Preference | None) -> Rule:
    """What gave it."""
    if wanted is None:
        return Rule("preference", None, "as written, or the default: the right answers alone are learned")
    balanced = "; wanted rows by unwanted, so that both sides weigh the same" if wanted.type == "kto" else ""
    return Rule("preference", wanted, f"as written, beta 0.1 by default{balanced}")
