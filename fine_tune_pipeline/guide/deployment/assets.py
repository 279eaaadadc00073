"""Step 8: the registered model, the endpoint, what it is asked, and whether that has drifted."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.guide.dataset.scrubbing.adapt import ASSET as ADAPTED_NER
from fine_tune_pipeline.guide.deployment.drift import Embed, Embedded, Watched, build_drift_report
from fine_tune_pipeline.guide.deployment.export import CHECK as MERGED_AS_TRAINED
from fine_tune_pipeline.guide.deployment.export import build_export, content, provenance, upstream
from fine_tune_pipeline.guide.deployment.forgetting import expired
from fine_tune_pipeline.guide.deployment.production import FILE as REQUESTS
from fine_tune_pipeline.guide.deployment.production import build_production_traffic
from fine_tune_pipeline.guide.deployment.register import Sources as RegisterSources
from fine_tune_pipeline.guide.deployment.register import build_registered_model
from fine_tune_pipeline.guide.deployment.registry import ModelRegistry
from fine_tune_pipeline.guide.deployment.rollout import Live, Place, Sources, build_endpoint, read_endpoint
from fine_tune_pipeline.guide.deployment.served_index import looked_up
from fine_tune_pipeline.guide.technique.placement import answering_on
from fine_tune_pipeline.programs.requests import EmbedRequest, EmbedResult
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
            parity="The endpoint answers held-out prompts as the evaluated model did, and not as the base model does.",
            healthy="The endpoint is up, and its champion is the version that it should be.",
        ),
        *advisory(key, latency="95 % of the answers come within objective.limits.p95_latency_seconds, one at a time."),
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
            mlflow=tracking.uri,
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
                    spec, Sources(**made_from), place=place, registry=registry, before=before, folder=folder
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


def production_traffic(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that takes a snapshot of the traffic log, for people and for the drift report."""

    @dg.asset(
        key=[spec.name, "production_traffic"],
        deps=[["traffic_log", spec.name], [spec.name, "endpoint"]],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"sqlite"},
    )
    def asset(
        context: dg.AssetExecutionContext, store: ArtifactStore, tracking: ExperimentTracking, serving: Serving
    ) -> dg.MaterializeResult:
        """The last requests to the endpoint: how many, how many valid answers, how fast, what people said, what the log lost."""
        old = expired(serving.traffic_log(spec), spec.deployment.traffic, use_case=spec.name, mlflow=tracking.uri)
        if old.requests:
            context.log.info(f"{len(old.requests)} requests deleted, older than {spec.deployment.traffic.retention_days:g} days")
        return materialized(
            store.made(
                context,
                version=1,
                what={"deployment.monitoring.window": spec.deployment.monitoring.window},
                observed=True,
                build=lambda folder: build_production_traffic(
                    serving.traffic_log(spec),
                    last=spec.deployment.monitoring.window,
                    state=serving.endpoint(spec.name).status().state,
                    folder=folder,
                ),
            )
        )

    return asset


def drift_report(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that says whether production still looks like what the champion was made for; the drift sensor reads it."""
    key = [spec.name, "drift_report"]

    @dg.asset(
        key=key,
        deps=[[spec.name, "production_traffic"], [spec.name, "endpoint"], [spec.name, "dataset"], [spec.name, "predictions"]],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"scipy"},
        check_specs=advisory(key, no_drift="Enough traffic, and no sign that it differs from what the model was made for."),
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """Drift, no drift, or not enough traffic: tests with p, effect and numbers, and the requests that speak loudest."""
        opened = store.open()
        production = store.current(spec.name, "production_traffic")
        watched = Watched(
            live=_live(store, spec),
            rows=read_rows(production.file(REQUESTS)),
            monitoring=spec.deployment.monitoring,
            seed=spec.dataset.split.seed,
        )
        before = opened.peek(spec.name, "drift_report")

        def build(folder: Path) -> Built:
            embed = _embedder(context, compute, folder / "program")
            return build_drift_report(opened, spec.name, watched, embed=embed, before=before, folder=folder)

        what = {"deployment.monitoring": spec.deployment.monitoring}
        upstream = {"production_traffic": production}
        return materialized(store.made(context, version=1, what=what, upstream=upstream, observed=True, build=build))

    return asset


def _live(store: ArtifactStore, spec: UseCaseSpec) -> Live | None:
    """Who is champion; a rollout that failed names the one before."""
    found = store.open().peek(spec.name, "endpoint")
    return None if found is None else read_endpoint(found).live


def _embedder(context: dg.AssetExecutionContext, compute: Compute, folder: Path) -> Embed:
    """Runs the encoder's program; nothing of it stays in the artifact."""
    import shutil

    import numpy as np

    def embed(texts: Sequence[str]) -> Embedded:
        folder.mkdir()
        write_rows(folder / "texts.jsonl", ({"id": str(place), "text": text} for place, text in enumerate(texts)))
        threads = answering_on(compute.inventory()).threads
        request = EmbedRequest(output=str(folder), texts=str(folder / "texts.jsonl"), threads=threads)
        result = compute.run(context, request, EmbedResult)
        vectors = np.load(result.vectors, allow_pickle=False)
        shutil.rmtree(folder)
        return Embedded(vectors=vectors, encoder_sha256=result.encoder_sha256)

    return embed
