"""Step 2: the base model."""

import dagster as dg

from fine_tune_pipeline.guide.base_model.build import build_base_model, content
from fine_tune_pipeline.guide.base_model.candidates import demands, judge
from fine_tune_pipeline.guide.base_model.mlflow_model import MlflowPlace
from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import blocking, materialized


def base_model(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that chooses the pretrained model, and holds its weights for every later step."""
    key = [spec.name, "base_model"]
    checks = blocking(
        key,
        licence_allows="The licence is accepted in the use case, and allows commercial use.",
        weights_load="The weights load from safetensors, and are those that the facts speak of.",
    )

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
        wanted = demands(spec, compute.inventory())
        candidates = judge(spec, wanted, MlflowPlace(tracking.uri, tracking.download_folder))
        for candidate in candidates:
            if candidate.warning:
                context.log.warning(f"{candidate.id}: {candidate.warning}")
        return materialized(
            store.made(
                context,
                version=1,
                what=content(spec.base_model, candidates),
                whole=True,
                build=lambda folder: build_base_model(context, compute, folder, candidates=candidates, wanted=wanted),
            )
        )

    return asset
