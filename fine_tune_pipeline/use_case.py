"""The map: one use case is one asset graph; eight rooms in the order of the guide, then jobs and automation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import dagster as dg
from pydantic import BaseModel

from fine_tune_pipeline.guide.base_model.assets import base_model
from fine_tune_pipeline.guide.dataset.assets import (
    clean_examples,
    dataset,
    pii_ner_adapt,
    raw_examples,
    reviewed_examples,
    scrubbed_examples,
)
from fine_tune_pipeline.guide.deployment.assets import endpoint, exported_model, registered_model, traffic_log
from fine_tune_pipeline.guide.deployment.automation import drift_sensor, monitor_schedule, retrain_schedule
from fine_tune_pipeline.guide.deployment.monitoring.assets import drift_report, production_traffic
from fine_tune_pipeline.guide.deployment.release.sensor import release_sensor
from fine_tune_pipeline.guide.environment.assets import environment
from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, human_evaluation, judge_evaluation, predictions
from fine_tune_pipeline.guide.evaluation.safety.assets import safety
from fine_tune_pipeline.guide.objective.assets import objective
from fine_tune_pipeline.guide.technique.assets import baselines, retrieval_index, training_plan
from fine_tune_pipeline.guide.technique.search.asset import search
from fine_tune_pipeline.guide.training.assets import adapter
from fine_tune_pipeline.review_sensors import examples_sensor, pairs_sensor
from fine_tune_pipeline.spec.reading import InvalidUseCase, Problem, read_all, read_use_case
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

GUIDE: Sequence[Callable[[UseCaseSpec], dg.AssetsDefinition]] = (
    objective,  # 1
    base_model,  # 2
    raw_examples,  # 3
    clean_examples,
    scrubbed_examples,
    reviewed_examples,
    dataset,
    retrieval_index,  # 4
    baselines,
    training_plan,
    environment,  # 5
    adapter,  # 6
    predictions,  # 7
    safety,
    evaluation_report,
    human_evaluation,
    registered_model,  # 8
    endpoint,
    production_traffic,
    drift_report,
)
MONITORED = ("production_traffic", "drift_report")
NOT_RETRAINED = ("objective", "base_model")


class FineTuneUseCase(dg.Component):
    """One use case of the eight-step guide, as one asset graph under its own key prefix."""

    def __init__(self, spec: UseCaseSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The strict model: dagster's own resolution would drop wrong fields of a union silently."""
        return UseCaseSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Read the YAML again by our own reader, which knows lines and looks for the files that it names."""
        return cls(read_use_case(context.path / "defs.yaml"))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return build(self.spec)


def use_cases_at(paths: Sequence[Path], *, beside: Path | None = None) -> dg.Definitions:
    """Use cases of YAML files that lie anywhere.

    Args:
        beside: a folder whose use cases are loaded too, by somebody else; their names are taken.

    Raises:
        InvalidUseCase: with every mistake of every file.
    """
    specs, problems = read_all(paths)
    if beside is not None and paths:
        # Mistakes in that folder are told by whoever loads it.
        others = {spec.name for spec in read_all([beside])[0]}
        problems += [
            Problem(str(spec.folder), 1, "attributes.name", f"got {spec.name!r}, which a use case in {beside} has already; give it another")
            for spec in specs
            if spec.name in others
        ]
    if problems:
        raise InvalidUseCase(problems)
    return dg.Definitions.merge(*map(build, specs))


def build(spec: UseCaseSpec) -> dg.Definitions:
    """Assets, checks, jobs, sensors and schedules of one use case."""
    jobs = {job.name.removeprefix(f"{spec.name}_"): job for job in _jobs(spec)}
    schedules = (monitor_schedule(spec, jobs["monitor"]), retrain_schedule(spec, jobs["retrain"]))
    return dg.Definitions(
        assets=[*assets_of(spec).values(), traffic_log(spec)],
        jobs=list(jobs.values()),
        sensors=[
            drift_sensor(spec, jobs["retrain"]),
            examples_sensor(spec),
            pairs_sensor(spec),
            release_sensor(spec),
        ],
        schedules=[schedule for schedule in schedules if schedule is not None],
    )


def assets_of(spec: UseCaseSpec) -> dict[str, dg.AssetsDefinition]:
    """Name -> asset, each after those that it reads."""
    before = [] if spec.dataset.pii.adapt is None else [pii_ner_adapt]
    guide = [*GUIDE]
    if spec.evaluation.judge is not None:
        guide.insert(guide.index(human_evaluation) + 1, judge_evaluation)
    if spec.training.search is not None:
        guide.insert(guide.index(training_plan), search)
    after = [exported_model] if spec.deployment.export.formats else []
    assets = [factory(spec) for factory in (*before, *guide, *after)]
    return {asset.key.path[-1]: asset for asset in assets}


def _jobs(spec: UseCaseSpec) -> "list[UnresolvedAssetJobDefinition]":
    """`fine_tune`: all steps; `retrain`: steps 3 to 8; `monitor`: what production looks like."""
    everything = dg.AssetSelection.key_prefixes([spec.name])
    left_out = dg.AssetSelection.assets(*([spec.name, name] for name in NOT_RETRAINED))
    monitored = dg.AssetSelection.assets(*([spec.name, name] for name in MONITORED))
    selections = {
        "fine_tune": (everything, "All eight steps; what has not changed is reused."),
        "retrain": (everything - left_out, "Steps 3 to 8, with the data as it is now."),
        "monitor": (monitored, "A snapshot of the endpoint's traffic, and whether it has drifted."),
    }
    return [
        dg.define_asset_job(f"{spec.name}_{name}", selection=selection, description=said, tags={"use_case": spec.name})
        for name, (selection, said) in selections.items()
    ]
