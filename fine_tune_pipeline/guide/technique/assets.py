"""Step 4: what needs no training, and the technique of what does."""

from collections.abc import Mapping
from datetime import UTC, date, datetime

import dagster as dg

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.hosted import HostedBase, hosted_base
from fine_tune_pipeline.guide.objective.own_metrics import scored_with
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.guide.technique.baselines import build_baselines
from fine_tune_pipeline.guide.technique.build_plan import build_plan, misfit
from fine_tune_pipeline.guide.technique.calibration import as_content
from fine_tune_pipeline.guide.technique.hosted_plan import build_hosted_plan, hosted_content
from fine_tune_pipeline.guide.technique.place import PLAN_VERSION, calibrated, place_of
from fine_tune_pipeline.resources.compute.base import GPU_POOL, Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.training import HOW_IT_IS_KEPT
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, blocking, materialized


def baselines(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that asks, before any training, what can be had without."""
    key = [spec.name, "baselines"]

    @dg.asset(
        key=key,
        deps=[[spec.name, "base_model"], [spec.name, "dataset"]],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "4"},
        kinds={"huggingface", "scikitlearn"},
        pool=GPU_POOL,
        check_specs=advisory(key, tuning_can_pay="No system without training already meets every criterion."),
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """What can be had without training, on validation rows: majority, a plain classifier, the base model without and with examples."""
        dataset, base = store.current(spec.name, "dataset"), store.current(spec.name, "base_model")
        task = read_task(spec)
        what = {
            "objective.goal": spec.objective.goal,
            "objective.task": {"type": task.type, "labels": task.labels, "schema": task.schema},
            "objective.success": spec.objective.success,
            "objective.guards": spec.objective.guards,
            "objective.evidence.level": spec.objective.evidence.level,
            "dataset.format": spec.dataset.format,
            "dataset.split.seed": spec.dataset.split.seed,
            "evaluation.few_shot": spec.evaluation.few_shot,
            "evaluation.validation_rows": spec.evaluation.validation_rows,
            **scored_with(spec),
        }
        return materialized(
            store.made(
                context,
                version=1,
                what=what,
                upstream={"dataset": dataset, "base_model": base},
                build_in_parts=lambda folder, state: build_baselines(
                    context, compute, folder, state, spec=spec, task=task, dataset=dataset, base=base
                ),
            )
        )

    return asset


def training_plan(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that chooses the technique for the hardware at hand, after `baselines` has said whether it can pay."""
    key, searched = [spec.name, "training_plan"], [] if spec.training.search is None else ["search"]

    @dg.asset(
        key=key,
        deps=[[spec.name, name] for name in ("base_model", "dataset", "baselines", *searched)],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "4"},
        kinds={"python"},
        check_specs=blocking(key, fits="The plan fits the hardware, by predicted memory."),
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """How training will run: each technique with predicted memory, time, energy and cost, the choice, and every setting as a number."""
        dataset, base = store.current(spec.name, "dataset"), store.current(spec.name, "base_model")
        hosted = hosted_base(spec, base)
        if hosted is not None:
            return _hosted_plan(context, store, spec=spec, hosted=hosted, upstream={"dataset": dataset, "base_model": base})
        inventory = compute.inventory()
        place = place_of(spec, inventory)
        what = {
            "technique": spec.technique,
            "training": spec.training.model_dump(mode="json", exclude={*HOW_IT_IS_KEPT, "search"}),
            "environment.memory_headroom": spec.environment.memory_headroom,
            "environment.prices": [] if place.price is None else [place.price],
            "inventory": inventory,
        }
        found = {name: store.current(spec.name, name) for name in searched}
        upstream = {"dataset": dataset, "base_model": base, **found}
        place = calibrated(place, store.open(), use_case=spec.name, what=what, upstream=upstream)
        today = datetime.now(UTC).date()
        return materialized(
            store.made(
                context,
                version=PLAN_VERSION,
                what={**what, "calibration": as_content(place.corrections)},
                upstream=upstream,
                build=lambda folder: build_plan(
                    folder, spec=spec, place=place, dataset=dataset, base=base, today=today, searched=found.get("search")
                ),
                foreseen=lambda: misfit(spec, place=place, dataset=dataset, base=base, searched=found.get("search")),
            )
        )

    return asset


def _hosted_plan(
    context: dg.AssetExecutionContext, store: ArtifactStore, *, spec: UseCaseSpec, hosted: HostedBase, upstream: Mapping[str, Artifact]
) -> dg.MaterializeResult:
    """The plan of a training at the provider: nothing of this place is in it."""
    return materialized(
        store.made(
            context,
            version=1,
            what=hosted_content(spec, hosted),
            upstream=upstream,
            build=lambda folder: build_hosted_plan(folder, spec=spec, base=hosted, dataset=upstream["dataset"], today=date.today()),
        )
    )
