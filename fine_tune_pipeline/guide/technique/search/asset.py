"""Step 4 with `training.search`: trials before the plan is made."""

import dagster as dg

from fine_tune_pipeline.guide.base_model.hosted import hosted_base
from fine_tune_pipeline.guide.technique.index import learned_from
from fine_tune_pipeline.guide.technique.place import learned, place_of
from fine_tune_pipeline.guide.technique.search.build import bases_of, build_search, content, searching_of
from fine_tune_pipeline.resources.compute.base import GPU_POOL, Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import materialized


class NotSearchable(ValueError):
    """The base model is trained where no trial can be."""


def search(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that looks for better numbers, between `baselines` and `training_plan`; only with `training.search`."""
    key, rows = [spec.name, "search"], learned_from(spec)

    @dg.asset(
        key=key,
        deps=[[spec.name, "base_model"], [spec.name, rows], [spec.name, "baselines"]],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "4"},
        kinds={"pytorch", "mlflow"},
        pool=GPU_POOL,
    )
    def asset(
        context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute, tracking: ExperimentTracking
    ) -> dg.MaterializeResult:
        """Trials of the training around the plan, judged on validation rows: what was tried, what matters, and the numbers taken."""
        upstream = {name: store.current(spec.name, name) for name in (rows, "base_model")}
        if hosted_base(spec, upstream["base_model"]) is not None:
            raise NotSearchable("training.search: the base model is tuned at its provider, which decides these numbers; leave search out")
        run_id = context.run.run_id
        searching = searching_of(
            spec,
            place=learned(place_of(spec, compute.inventory()), store.open(), base=upstream["base_model"]),
            dataset=upstream[rows],
            base=upstream["base_model"],
            bases=bases_of(spec, store.open(), upstream["base_model"]),
            tracking=tracking.tracking(use_case=spec.name, run_name=f"{spec.name} search {run_id[:8]}", tags={"dagster/run_id": run_id}),
        )
        return materialized(
            store.made(
                context,
                version=1,
                what=content(searching),
                upstream=upstream,
                build_in_parts=lambda folder, work: build_search(context, compute, folder, work, searching),
            )
        )

    return asset
