"""Step 6: the training itself."""

from collections.abc import Mapping
from datetime import UTC, datetime

import dagster as dg

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.hosted import HostedBase, hosted_base, only_hosted
from fine_tune_pipeline.guide.environment.hosted_preflight import read_hosted_preflight
from fine_tune_pipeline.guide.environment.preflight import read_preflight
from fine_tune_pipeline.guide.technique.build_plan import read_plan
from fine_tune_pipeline.guide.technique.calibration import NOTES
from fine_tune_pipeline.guide.technique.hosted_plan import read_hosted_plan
from fine_tune_pipeline.guide.technique.index import learned_from
from fine_tune_pipeline.guide.training.adapter import OBSERVATION, Training, build_adapter, content, experts_learn, read_train_result
from fine_tune_pipeline.guide.training.expert_load import ASKED, MOVED
from fine_tune_pipeline.guide.training.hosted_adapter import HostedTraining, build_hosted_adapter, hosted_content
from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.resources.compute.base import GPU_POOL, Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, blocking, materialized


def adapter(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that trains, as planned and where preflight has passed."""
    key, rows = [spec.name, "adapter"], learned_from(spec)

    @dg.asset(
        key=key,
        deps=[[spec.name, "base_model"], [spec.name, rows], [spec.name, "training_plan"], [spec.name, "environment"]],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "6"},
        kinds={"pytorch", "mlflow"},
        pool=None if only_hosted(spec) else GPU_POOL,
        check_specs=[
            *blocking(key, loss_finite_and_falling="Every loss is a number, and the validation loss fell."),
            *(advisory(key, **{MOVED: ASKED}) if experts_learn(spec) else []),
        ],
    )
    def asset(
        context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute, tracking: ExperimentTracking
    ) -> dg.MaterializeResult:
        """What was learned: an adapter (or a whole model, when all weights were trained), its loss curve and its MLflow run."""
        upstream = {name: store.current(spec.name, name) for name in (rows, "base_model")}
        run_id = context.run.run_id
        tracked = tracking.tracking(use_case=spec.name, run_name=f"{spec.name} {run_id[:8]}", tags={"dagster/run_id": run_id})
        hosted = hosted_base(spec, upstream["base_model"])
        if hosted is not None:
            return _at_provider(context, store, compute, spec=spec, hosted=hosted, tracked=tracked, upstream=upstream)
        training = Training(
            spec=spec,
            plan=read_plan(store.current(spec.name, "training_plan")),
            over_long=read_preflight(store.current(spec.name, "environment")).over_long,
            tracking=tracked,
            dataset=upstream[rows],
            base=upstream["base_model"],
            inventory=compute.inventory(),
            started_at=datetime.now(UTC).isoformat(),
        )
        kept = store.made(
            context,
            # From the second on, an adapter of experts says whether they have moved.
            version=2 if experts_learn(spec) else 1,
            what=content(training.plan, spec),
            upstream=upstream,
            build_in_parts=lambda folder, work: build_adapter(context, compute, folder, work, training),
        )
        # What several devices took says nothing of the formulas: these leave out what devices tell each other.
        if not kept.reused and read_train_result(kept.artifact).processes == 1:
            store.open().note(spec.name, NOTES, kept.artifact.fingerprint, kept.artifact.json(OBSERVATION))
            off = {f"plan/{name}": kept.artifact.metadata[name] for name in ("peak_error", "time_error")}
            tracking.add_numbers(kept.artifact.metadata["mlflow_run_id"], off)
        return materialized(kept)

    return asset


def _at_provider(
    context: dg.AssetExecutionContext,
    store: ArtifactStore,
    compute: Compute,
    *,
    spec: UseCaseSpec,
    hosted: HostedBase,
    tracked: Tracking,
    upstream: Mapping[str, Artifact],
) -> dg.MaterializeResult:
    """Tuned at the provider; a run that was killed left its job running, and this one adopts it."""
    training = HostedTraining(
        spec=spec,
        plan=read_hosted_plan(store.current(spec.name, "training_plan")),
        base=hosted,
        over_long=read_hosted_preflight(store.current(spec.name, "environment")).over_long,
        tracking=tracked,
        dataset=upstream[learned_from(spec)],
    )
    return materialized(
        store.made(
            context,
            version=1,
            what=hosted_content(training.plan, hosted),
            upstream=upstream,
            build_in_parts=lambda folder, state: build_hosted_adapter(context, compute, folder, state, training),
        )
    )
