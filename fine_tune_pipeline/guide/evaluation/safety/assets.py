"""Step 7: the asset that looks at what training has done beside the task."""

import dagster as dg

from fine_tune_pipeline.guide.dataset.scrubbing.adapt import ASSET as ADAPTED_NER
from fine_tune_pipeline.guide.dataset.scrubbing.adapt import NER
from fine_tune_pipeline.guide.evaluation.safety.build import Sources, build_safety
from fine_tune_pipeline.resources.compute.base import GPU_POOL, Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import materialized


def safety(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset between `predictions` and `evaluation_report`, which judges by it."""
    adapted = () if spec.dataset.pii.adapt is None else (ADAPTED_NER,)
    sources = ("dataset", "base_model", "adapter", "predictions")
    looked_up = ("retrieval_index",) if spec.dataset.format.context == "retrieved" else ()

    @dg.asset(
        key=[spec.name, "safety"],
        deps=[[spec.name, name] for name in (*sources, *looked_up, *adapted)],
        group_name=spec.name,
        owners=spec.owners,
        tags={"guide/step": "7"},
        kinds={"transformers"},
        pool=GPU_POOL,
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """What training did beside the task: forgetting, remembered rows, personal data in answers, refusals, each with its interval."""
        upstream = {name: store.current(spec.name, name) for name in (*sources, *looked_up, *adapted)}
        ner = upstream[ADAPTED_NER].file(NER) if adapted else None
        made_from = Sources(**{name: upstream[name] for name in sources}, asked=upstream[looked_up[0] if looked_up else "dataset"], ner=ner)
        what = {
            "evaluation.safety": spec.evaluation.safety,
            "objective.task": spec.objective.task,
            "objective.evidence.level": spec.objective.evidence.level,
            "dataset.pii": spec.dataset.pii,
            "training.seed": spec.training.seed,
        }
        kept = store.made(
            context,
            version=1,
            what=what,
            upstream=upstream,
            build_in_parts=lambda folder, state: build_safety(context, compute, spec, made_from, folder, state),
        )
        return materialized(kept)

    return asset
