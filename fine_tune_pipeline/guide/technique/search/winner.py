"""What a search has found, as the plan takes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.technique.comparisons import work_of
from fine_tune_pipeline.guide.technique.plan import Job, Place, Plan, option_of
from fine_tune_pipeline.guide.technique.recipes import ALL, Recipe, kept
from fine_tune_pipeline.guide.technique.rules import Resolved, Rule, resolve
from fine_tune_pipeline.guide.technique.search.space import numbers_of, with_numbers
from fine_tune_pipeline.programs.contracts import Contract
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.programs.search_requests import RECIPE, TECHNIQUE, Parameters

FILE = "winner.json"


class Winner(Contract):
    """The trial that is taken, with what it stands for."""

    number: int
    trials: int
    parameters: Parameters
    technique: Technique
    why: str

    @property
    def recipe(self) -> Recipe | None:
        """Which rows it learns from; None for all."""
        found = Recipe(**{name: value for name, value in self.parameters.items() if name in RECIPE})
        return None if found == ALL else found

    @property
    def source(self) -> str:
        """Where its numbers come from, for a table."""
        return f"from search, trial {self.number} of {self.trials}"


@dataclass(frozen=True)
class Found:
    """A plan with the numbers of the winner, the job as it is now, and the rules that gave the numbers."""

    plan: Plan
    job: Job
    resolved: Resolved


def read_winner(artifact: Artifact) -> Winner:
    """Of an artifact of `search`."""
    return Winner.read(artifact.file(FILE))


def with_winner(plan: Plan, job: Job, place: Place, winner: Winner, *, train: Sequence[Example], validation: Sequence[Example]) -> Found:
    """The plan as the search has found it best: its technique, numbers and rows, with memory, time and cost predicted for them."""
    job = with_numbers(job, winner.parameters)
    if winner.recipe is not None:
        job = replace(job, work=work_of(kept(train, winner.recipe), validation, training=job.training))
    option = option_of(job, winner.technique, place)
    found = plan.model_copy(
        update={
            "technique": option.technique,
            "hyperparameters": option.hyperparameters,
            "placement": option.placement,
            "options": (*(other for other in plan.options if other.technique != option.technique), option),
            "reason": f"{option.technique.label}: {winner.source}",
            "predicted_peak_bytes": option.peak_bytes,
            "predicted_seconds": option.seconds,
            "labelled_share": job.work.labelled_share,
            "recipe": winner.recipe,
        }
    )
    resolved = resolve(job.training, option.technique, job.model, job.work, context=job.context)
    return Found(found, job, replace(resolved, rules=sourced(resolved.rules, winner)))


def sourced(rules: Sequence[Rule], winner: Winner) -> tuple[Rule, ...]:
    """The rules, those of numbers that were searched with where they come from."""
    return tuple(replace(rule, rule=winner.source) if rule.setting in winner.parameters else rule for rule in rules)


def as_written(winner: Winner) -> str:
    """The sections of a use case that would give the same numbers without a search; a data recipe cannot be written."""
    numbers = numbers_of(winner.parameters)
    sections: dict[str, Any] = {"training": numbers} if numbers else {}
    technique = winner.technique
    if technique.type != "full" and {"rank", TECHNIQUE} & winner.parameters.keys():
        kind = {name: True for name in ("use_dora", "use_rslora") if getattr(technique, name)}
        sections["technique"] = {"type": technique.type, "rank": technique.rank, "alpha": technique.alpha, **kind}
    return yaml.safe_dump(sections, sort_keys=False) if sections else ""


def shown(winner: Winner) -> dict[str, Any]:
    """For the metadata of the plan."""
    rows = {} if winner.recipe is None else {"data_recipe": str(winner.recipe)}
    return {"search": f"{winner.source}: {winner.why}", **rows}
