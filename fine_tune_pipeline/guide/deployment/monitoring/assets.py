"""Step 8, after the endpoint is live: the traffic in closed windows, and whether it has drifted."""

import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from fine_tune_pipeline.artifacts.examples import write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.guide.base_model.price import price_of
from fine_tune_pipeline.guide.deployment.forgetting import expired
from fine_tune_pipeline.guide.deployment.live import Live, read_endpoint
from fine_tune_pipeline.guide.deployment.monitoring.build import Watched, build_drift_report
from fine_tune_pipeline.guide.deployment.monitoring.labels import read_labels
from fine_tune_pipeline.guide.deployment.monitoring.message import message
from fine_tune_pipeline.guide.deployment.monitoring.operations import OperationLimits, Prices
from fine_tune_pipeline.guide.deployment.monitoring.reference import Embed, Embedded
from fine_tune_pipeline.guide.deployment.monitoring.report import VERSION, read_drift
from fine_tune_pipeline.guide.deployment.monitoring.traffic import build_production_traffic
from fine_tune_pipeline.guide.deployment.monitoring.webhook import notify
from fine_tune_pipeline.guide.deployment.monitoring.windows import read_traffic, read_window
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.guide.technique.placement import answering_on
from fine_tune_pipeline.programs.requests import EmbedRequest, EmbedResult
from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore, Kept
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.hosted import ApiModel
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, materialized

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.inventory import Inventory

STEP = {"guide/step": "8"}


def production_traffic(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that cuts the traffic log into closed windows, for people and for the drift report."""
    monitoring = spec.deployment.monitoring

    @dg.asset(
        key=[spec.name, "production_traffic"],
        deps=[["traffic_log", spec.name], [spec.name, "endpoint"]],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"parquet"},
        freshness_policy=fresh_within(monitoring.fresh_hours),
    )
    def asset(
        context: dg.AssetExecutionContext, store: ArtifactStore, tracking: ExperimentTracking, serving: Serving
    ) -> dg.MaterializeResult:
        """The endpoint's requests in closed windows, and of the last ones: how many, how fast, what people said, what the log lost."""
        old = expired(serving.traffic_log(spec), spec.deployment.traffic, use_case=spec.name, mlflow=tracking.uri)
        if old.requests:
            context.log.info(f"{len(old.requests)} requests deleted, older than {spec.deployment.traffic.retention_days:g} days")
        before = store.open().peek(spec.name, "production_traffic")
        return materialized(
            store.made(
                context,
                version=2,
                what={"deployment.monitoring.window": monitoring.window},
                observed=True,
                build=lambda folder: build_production_traffic(
                    serving.traffic_log(spec),
                    monitoring=monitoring,
                    task=read_task(spec),
                    state=serving.endpoint(spec.name).status().state,
                    before=before,
                    folder=folder,
                ),
            )
        )

    return asset


def drift_report(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that says whether production still looks like what the champion was made for; the drift sensor reads it."""
    key = [spec.name, "drift_report"]
    checks = advisory(
        key,
        no_drift="Enough traffic, and no sign that it differs from what the model was made for.",
        within_limits="Latency, errors and cost of the last window are within deployment.monitoring.limits.",
    )

    @dg.asset(
        key=key,
        deps=[[spec.name, "production_traffic"], [spec.name, "endpoint"], [spec.name, "dataset"], [spec.name, "predictions"]],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"scipy"},
        check_specs=checks,
        freshness_policy=fresh_within(spec.deployment.monitoring.fresh_hours),
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """Drift, no drift, or not enough traffic: tests with p, effect and numbers, and the requests that speak loudest."""
        opened = store.open()
        production = store.current(spec.name, "production_traffic")
        traffic = read_traffic(production)
        watched = Watched(
            live=_live(store, spec),
            windows=[(window, read_window(production, window)) for window in traffic.windows],
            waiting=traffic.waiting,
            labels=read_labels(production),
            task=read_task(spec),
            monitoring=spec.deployment.monitoring,
            limits=limits_of(spec),
            prices=prices_of(spec, compute.inventory()),
            seed=spec.dataset.split.seed,
        )
        before = opened.peek(spec.name, "drift_report")

        def build(folder: Path) -> Built:
            embed = _embedder(context, compute, folder / "program")
            return build_drift_report(opened, spec.name, watched, embed=embed, before=before, folder=folder)

        what = {"deployment.monitoring": spec.deployment.monitoring}
        upstream = {"production_traffic": production}
        kept = store.made(context, version=VERSION, what=what, upstream=upstream, observed=True, build=build)
        return materialized(kept, beside=_told(context, spec, kept))

    return asset


def fresh_within(hours: float | None) -> dg.FreshnessPolicy | None:
    """Overdue after so many hours; a warning after nine tenths of them."""
    if hours is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours), warn_window=timedelta(hours=0.9 * hours))


def limits_of(spec: UseCaseSpec) -> OperationLimits:
    """The monitor's own limits, and those of the objective where it has none."""
    own, objective = spec.deployment.monitoring.limits, spec.objective.limits
    return OperationLimits(
        error_share=own.error_share,
        p95_latency_seconds=objective.p95_latency_seconds if own.p95_latency_seconds is None else own.p95_latency_seconds,
        cost_per_1000=objective.cost_per_1000 if own.cost_per_1000 is None else own.cost_per_1000,
    )


def prices_of(spec: UseCaseSpec, inventory: "Inventory") -> Prices | None:
    """What the use case says that answering costs: a provider's tokens where every candidate is a provider's, else this place's hours."""
    hosted = [one.prices for one in spec.base_model.candidates if isinstance(one, ApiModel)]
    if hosted and len(hosted) == len(spec.base_model.candidates):
        [first, *others] = hosted
        if first is None or others or first.input is None or first.output is None:
            return None
        return Prices(currency=first.currency, per_input_token=first.input / 1e6, per_output_token=first.output / 1e6)
    price = price_of(inventory.devices[0], spec.environment.prices)
    return None if price is None else Prices(currency=price.currency, per_hour=price.per_hour)


def _told(context: dg.AssetExecutionContext, spec: UseCaseSpec, kept: Kept) -> Built | None:
    """Tell the webhook of drift and of broken limits, once a report; a failure is a warning."""
    report = read_drift(kept.artifact)
    body = message(report, use_case=spec.name, fingerprint=kept.artifact.fingerprint)
    if body is None:
        return None
    said = notify(spec.deployment.monitoring.webhook_env, body)
    if said is None:
        return None
    (context.log.info if said.startswith("sent") else context.log.warning)(f"webhook: {said}")
    return Built(metadata={"webhook": said})


def _live(store: ArtifactStore, spec: UseCaseSpec) -> Live | None:
    """Who is champion; a rollout that failed names the one before."""
    found = store.open().peek(spec.name, "endpoint")
    return None if found is None else read_endpoint(found).live


def _embedder(context: dg.AssetExecutionContext, compute: Compute, folder: Path) -> Embed:
    """Runs the encoder's program; nothing of it stays in the artifact."""
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
