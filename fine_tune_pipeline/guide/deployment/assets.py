"""Step 8: the registered model, its exports, the endpoint, and the log of what it is asked; `monitoring` looks at that."""

import dagster as dg

from fine_tune_pipeline.guide.dataset.scrubbing.adapt import ASSET as ADAPTED_NER
from fine_tune_pipeline.guide.deployment.export import CHECK as MERGED_AS_TRAINED
from fine_tune_pipeline.guide.deployment.export import build_export, content, provenance, upstream
from fine_tune_pipeline.guide.deployment.register import Sources as RegisterSources
from fine_tune_pipeline.guide.deployment.register import build_registered_model
from fine_tune_pipeline.guide.deployment.registry import ModelRegistry
from fine_tune_pipeline.guide.deployment.rollout import Place, Sources, build_endpoint
from fine_tune_pipeline.guide.deployment.served_index import looked_up
from fine_tune_pipeline.guide.technique.placement import answering_on
from fine_tune_pipeline.resources.compute.base import GPU_POOL, Compute
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, blocking, materialized

STEP = {"guide/step": "8"}


def registered_model(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that gives an evaluated adapter its version number, between step 7 and the endpoint."""
    upstream = ("adapter", "base_model", "dataset", "evaluation_report", "human_evaluation", *looked_up(spec))
    judged = ("judge_evaluation",) if spec.evaluation.judge is not None and spec.evaluation.judge.required else ()

    @dg.asset(
        key=[spec.name, "registered_model"],
        deps=[[spec.name, name] for name in (*upstream, *judged)],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"mlflow"},
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, tracking: ExperimentTracking) -> dg.MaterializeResult:
        """The version in the MLflow registry that passed its evaluation: number, aliases, and the hashes of adapter and base weights."""
        made_from = {name: store.current(spec.name, name) for name in upstream}
        for name in judged:
            store.current(spec.name, name)
        registry = ModelRegistry(uri=tracking.uri, use_case=spec.name)
        sources = RegisterSources(**made_from)
        return materialized(
            store.made(
                context,
                version=1,
                what={},
                upstream=made_from,
                build=lambda folder: build_registered_model(spec.name, sources, registry=registry, folder=folder),
            )
        )

    return asset


def exported_model(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that brings what was trained into forms that others can use; there only if the use case names some."""
    key = [spec.name, "exported_model"]

    @dg.asset(
        key=key,
        deps=[[spec.name, name] for name in ("adapter", "base_model", "dataset", "evaluation_report")],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"huggingface"},
        check_specs=blocking(key, **{MERGED_AS_TRAINED: "The merged model answers as the adapter beside the base model does."}),
        pool=GPU_POOL,
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """The fine-tuned model as files: adapter, merged model, GGUF, as asked for, with a model card and the hashes of all files."""
        sources = provenance(spec, store.open())
        kept = store.made(
            context,
            version=1,
            what=content(spec),
            upstream=upstream(sources),
            build=lambda folder: build_export(
                context, compute, folder, spec=spec, sources=sources, placement=answering_on(compute.inventory())
            ),
        )
        return materialized(kept)

    return asset


def endpoint(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that brings the registered version live, if it answers as evaluated; else the old one stays."""
    key = [spec.name, "endpoint"]
    adapted = () if spec.dataset.pii.adapt is None else (ADAPTED_NER,)
    upstream = ("registered_model", "adapter", "base_model", "dataset", "predictions", *adapted, *looked_up(spec))
    checks = [
        *blocking(
            key,
            loads="The version loads beside the others, and its files are those that were registered.",
            parity="The endpoint answers held-out prompts as the evaluated model did, and not as the base model does.",
            shadow="On recent prompts of the traffic log the version is no worse than the champion; nobody gets these answers.",
            canary="The version is with everybody, or with some users for a while; none was worse off.",
            healthy="The endpoint is up, and its champion is the version that it should be.",
        ),
        *advisory(
            key,
            latency="95 % of the answers come within objective.limits.p95_latency_seconds, one at a time.",
            watch="Once promoted, the version is no worse than the one before; else that one is champion again.",
            **({"approval": "A person has agreed to the version, or none is asked."} if spec.deployment.approval else {}),
        ),
    ]

    @dg.asset(
        key=key,
        deps=[[spec.name, name] for name in upstream],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"fastapi", "mlflow"},
        check_specs=checks,
        pool=GPU_POOL,
    )
    def asset(
        context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute, tracking: ExperimentTracking, serving: Serving
    ) -> dg.MaterializeResult:
        """The running endpoint: its address, the version that answers, and how its answers compare with the evaluated ones."""
        made_from = {name: store.current(spec.name, name) for name in upstream}
        before = store.open().peek(spec.name, "endpoint")
        place = Place(
            endpoint=serving.endpoint(spec.name),
            candidate=serving.candidate(spec.name),
            host=serving.host,
            inventory=compute.inventory(),
            log=serving.traffic_log(spec),
        )
        registry = ModelRegistry(uri=tracking.uri, use_case=spec.name)
        return materialized(
            store.made(
                context,
                version=1,
                what={"deployment": spec.deployment},
                upstream=made_from,
                observed=True,
                build=lambda folder: build_endpoint(
                    spec, Sources(**made_from), place=place, registry=registry, before=before, store=store.open(), folder=folder
                ),
            )
        )

    return asset


def traffic_log(spec: UseCaseSpec) -> dg.AssetSpec:
    """What the endpoint writes by itself; outside the use case's prefix, since nobody can materialize it."""
    return dg.AssetSpec(
        key=["traffic_log", spec.name],
        group_name=spec.name,
        owners=spec.owners,
        kinds={"sqlite"},
        description="Requests to the endpoint and its answers, freed of personal data, and what people said. The endpoint writes it.",
    )
