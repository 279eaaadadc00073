"""Step 2: the base model."""

from datetime import date

import dagster as dg

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.guide.base_model.build import build_base_model, content
from fine_tune_pipeline.guide.base_model.candidates import demands, first_passing, judge, reason
from fine_tune_pipeline.guide.base_model.hosted import offered_checks, offered_specs, still_offered
from fine_tune_pipeline.guide.base_model.mlflow_model import MlflowPlace
from fine_tune_pipeline.guide.base_model.side_by_side import compare
from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, blocking, materialized


def base_model(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that chooses the pretrained model, and holds its weights for every later step."""
    key = [spec.name, "base_model"]
    checks = blocking(
        key,
        licence_allows="The licence is accepted in the use case, and allows the use that it names.",
        weights_load="The weights load from safetensors, and are those that the facts speak of.",
    ) + advisory(key, **offered_specs(spec))

    @dg.asset(
        key=key,
        deps=[[spec.name, "objective"]],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "2"},
        kinds={"huggingface"},
        check_specs=checks,
    )
    def asset(
        context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute, tracking: ExperimentTracking
    ) -> dg.MaterializeResult:
        """The pretrained model that is fine-tuned: candidates side by side, the choice and why, and its weights as safetensors."""
        inventory, today = compute.inventory(), date.today()
        wanted = demands(spec, inventory)
        candidates = still_offered(judge(spec, wanted, MlflowPlace(tracking.uri, tracking.download_folder)), today=today)
        comparison = compare(spec, candidates, wanted, inventory, today=today)
        warned = [f"{candidate.id}: {candidate.warning}" for candidate in candidates if candidate.warning]
        for said in (*warned, *comparison.warnings):
            context.log.warning(said)
        kept = store.made(
            context,
            version=2,
            what=content(spec.base_model, candidates),
            whole=True,
            build=lambda folder: build_base_model(
                context,
                compute,
                folder,
                candidates=candidates,
                wanted=wanted,
                comparison=comparison,
                added_tokens=spec.base_model.added_tokens,
            ),
            foreseen=lambda: None if first_passing(candidates) else reason(None, candidates, wanted),
            # That a provider did not answer is not in the fingerprint.
            retry_failed=True,
        )
        # Prices, hardware and the catalogue are not in the fingerprint: they are shown as they are today.
        return materialized(kept, beside=Built(metadata=comparison.metadata(), checks=offered_checks(spec, today=today)))

    return asset
