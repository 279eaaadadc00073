"""Step 5: the place where training will run."""

from collections.abc import Mapping
from datetime import date

import dagster as dg

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.hosted import HostedBase, hosted_base, only_hosted
from fine_tune_pipeline.guide.environment.hosted_preflight import HostedTrial, build_hosted_preflight
from fine_tune_pipeline.guide.environment.preflight import Trial, build_preflight
from fine_tune_pipeline.guide.technique.build_plan import read_plan
from fine_tune_pipeline.guide.technique.hosted_plan import read_hosted_plan
from fine_tune_pipeline.guide.technique.index import learned_from
from fine_tune_pipeline.resources.compute.base import GPU_POOL, Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import blocking, materialized


def environment(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that tries the place of training out before training is started there."""
    key, rows = [spec.name, "environment"], learned_from(spec)

    @dg.asset(
        key=key,
        deps=[[spec.name, "base_model"], [spec.name, rows], [spec.name, "training_plan"]],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "5"},
        kinds={"pytorch"},
        pool=None if only_hosted(spec) else GPU_POOL,
        check_specs=blocking(
            key, preflight_passed="The place allows the planned training, a step of it worked, no classic mistake was found."
        ),
    )
    def asset(
        context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute, tracking: ExperimentTracking
    ) -> dg.MaterializeResult:
        """The place of training, tried out: devices, versions, disk, tracking, one real training step, and the classic mistakes."""
        upstream = {name: store.current(spec.name, name) for name in (rows, "base_model", "training_plan")}
        hosted = hosted_base(spec, upstream["base_model"])
        if hosted is not None:
            return _at_provider(context, store, compute, spec=spec, hosted=hosted, upstream=upstream)
        trial = Trial(
            spec=spec,
            plan=read_plan(upstream["training_plan"]),
            dataset=upstream[rows],
            base=upstream["base_model"],
            tracking=tracking.trial(use_case=spec.name),
            artifacts=tracking.artifacts,
        )
        what = {
            # A price changes nothing of the place.
            "environment": spec.environment.model_dump(exclude={"prices"}),
            "training.over_long_limit": spec.training.over_long_limit,
            "dataset.format.style": spec.dataset.format.style,
            "inventory": compute.inventory(),
        }
        return materialized(
            store.made(
                context,
                version=4,
                what=what,
                upstream=upstream,
                build=lambda folder: build_preflight(context, compute, folder, trial),
                retry_failed=True,
            )
        )

    return asset


def _at_provider(
    context: dg.AssetExecutionContext,
    store: ArtifactStore,
    compute: Compute,
    *,
    spec: UseCaseSpec,
    hosted: HostedBase,
    upstream: Mapping[str, Artifact],
) -> dg.MaterializeResult:
    """The place of training is a provider: it is asked, and the rows are checked as it would."""
    plan = read_hosted_plan(upstream["training_plan"])
    trial = HostedTrial(spec=spec, plan=plan, base=hosted, dataset=upstream[learned_from(spec)], today=date.today())
    return materialized(
        store.made(
            context,
            version=1,
            what={"training.over_long_limit": spec.training.over_long_limit},
            upstream=upstream,
            build=lambda folder: build_hosted_preflight(context, compute, folder, trial),
            retry_failed=True,
        )
    )
