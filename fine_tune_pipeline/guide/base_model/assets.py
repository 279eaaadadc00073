"""Step 2: the base model."""

from datetime import date

import dagster as dg

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.guide.base_model.build import build_base_model, content
from fine_tune_pipeline.guide.base_model.candidates import demands, judge
from fine_tune_pipeline.guide.base_model.hosted import offered_checks, offered_specs, still_offered
from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, blocking, materialized


def base_model(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that chooses the pretrained model, and holds its weights for every later step."""
    key = [spec.name, "base_model"]
    checks = blocking(
        key,
        licence_allows="The licence is accepted in the use case, and allows commercial use.",
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
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """The pretrained model that is fine-tuned: candidates side by side, the choice and why, and its weights as safetensors."""
        wanted = demands(spec, compute.inventory())
        today = date.today()
        candidates = still_offered(judge(spec, wanted), today=today)
        kept = store.made(
            context,
            version=1,
            what=content(spec.base_model, candidates),
            build=lambda folder: build_base_model(context, compute, folder, candidates=candidates, wanted=wanted),
            # That a provider did not answer is not in the fingerprint.
            retry_failed=True,
        )
        return materialized(kept, beside=Built(checks=offered_checks(spec, today=today)))

    return asset
