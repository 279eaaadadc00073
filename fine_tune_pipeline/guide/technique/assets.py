"""Step 4: what needs no training, and the technique of what does."""

from collections.abc import Mapping
from datetime import UTC, date, datetime

import dagster as dg

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.hosted import HostedBase, hosted_base
from fine_tune_pipeline.guide.dataset.cleaning.embedding import encoder_version
from fine_tune_pipeline.guide.objective.own_metrics import scored_with
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.guide.technique.baselines import build_baselines
from fine_tune_pipeline.guide.technique.build_plan import build_plan, misfit
from fine_tune_pipeline.guide.technique.calibration import as_content
from fine_tune_pipeline.guide.technique.decoding import decoding_content
from fine_tune_pipeline.guide.technique.hosted_plan import build_hosted_plan, hosted_content
from fine_tune_pipeline.guide.technique.index import ASSET, build_index, learned_from
from fine_tune_pipeline.guide.technique.place import PLAN_VERSION, calibrated, place_of
from fine_tune_pipeline.resources.compute.base import GPU_POOL, Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.training import HOW_IT_IS_KEPT
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, blocking, materialized


def retrieval_index(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that finds passages for a prompt, before `baselines` asks whether that is all it takes."""
    retrieved = spec.dataset.format.context == "retrieved"
    read = ["dataset", *(["base_model"] if retrieved else [])]

    @dg.asset(
        key=[spec.name, ASSET],
        deps=[[spec.name, name] for name in read],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "4"},
        kinds={"numpy"},
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """What can be looked up for a prompt: parts of the documents or, where there are none, training rows; by words and by meaning."""
        upstream, task = {name: store.current(spec.name, name) for name in read}, read_task(spec)
        what = {
            "objective.task": task.described(),
            "dataset.split.seed": spec.dataset.split.seed,
            "evaluation.validation_rows": spec.evaluation.validation_rows,
            "encoder": encoder_version(),
            **({"dataset.format": spec.dataset.format, "objective.goal": spec.objective.goal} if retrieved else {}),
        }
        return materialized(
            store.made(
                context,
                version=1,
                what=what,
                upstream=upstream,
                build=lambda folder: build_index(
                    context, compute, folder, spec=spec, task=task, dataset=upstream["dataset"], base=upstream.get("base_model")
                ),
            )
        )

    return asset


def baselines(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that asks, before any training, what can be had without."""
    key = [spec.name, "baselines"]

    @dg.asset(
        key=key,
        deps=[[spec.name, "base_model"], [spec.name, "dataset"], [spec.name, ASSET]],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "4"},
        kinds={"huggingface", "scikitlearn"},
        pool=GPU_POOL,
        check_specs=advisory(key, tuning_can_pay="No system without training already meets every criterion."),
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """What can be had without training, on validation rows: majority, plain classifiers, the base model, examples, retrieval."""
        dataset, base = store.current(spec.name, "dataset"), store.current(spec.name, "base_model")
        index = store.current(spec.name, ASSET)
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
            "evaluation.passages": spec.evaluation.passages,
            "evaluation.validation_rows": spec.evaluation.validation_rows,
            **scored_with(spec),
            **decoding_content(spec),
            **({} if spec.evaluation.override is None else {"evaluation.override": spec.evaluation.override}),
        }
        return materialized(
            store.made(
                context,
                version=2,
                what=what,
                upstream={"dataset": dataset, "base_model": base, ASSET: index},
                build_in_parts=lambda folder, state: build_baselines(
                    context, compute, folder, state, spec=spec, task=task, dataset=dataset, base=base, index=index
                ),
            )
        )

    return asset


def training_plan(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that chooses the technique for the hardware at hand, after `baselines` has said whether it can pay."""
    key, rows, searched = [spec.name, "training_plan"], learned_from(spec), [] if spec.training.search is None else ["search"]

    @dg.asset(
        key=key,
        deps=[[spec.name, name] for name in ("base_model", rows, "baselines", *searched)],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "4"},
        kinds={"python"},
        check_specs=blocking(key, fits="The plan fits the hardware, by predicted memory."),
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """How training will run: each technique with predicted memory, time, energy and cost, the choice, and every setting as a number."""
        dataset, base = store.current(spec.name, rows), store.current(spec.name, "base_model")
        hosted = hosted_base(spec, base)
        if hosted is not None:
            return _hosted_plan(context, store, spec=spec, hosted=hosted, upstream={rows: dataset, "base_model": base})
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
        upstream = {rows: dataset, "base_model": base, **found}
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
            build=lambda folder: build_hosted_plan(
                folder, spec=spec, base=hosted, dataset=upstream[learned_from(spec)], today=date.today()
            ),
        )
    )
