"""What the endpoint counts, as Prometheus reads it. Names begin with `ftp_`; `version` is a version's number or `base`."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fine_tune_pipeline.programs.serving.contract import Health

SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one endpoint; its own registry, so that two endpoints of one process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        by = ("version", "arm")
        self._requests = Counter("ftp_requests", "Requests by outcome (HTTP status).", (*by, "status"), registry=self._registry)
        self._seconds = Histogram("ftp_request_seconds", "From arrival to the whole answer.", by, buckets=SECONDS, registry=self._registry)
        self._first = Histogram(
            "ftp_time_to_first_piece_seconds",
            "From arrival to the first piece of a streamed answer.",
            by,
            buckets=SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter("ftp_tokens", "Tokens of answered requests.", (*by, "kind"), registry=self._registry)
        self._rows = Histogram("ftp_batch_rows", "Requests answered together.", buckets=ROWS, registry=self._registry)
        self._batch_seconds = Counter("ftp_batch_seconds", "Time that the model was at work.", registry=self._registry)
        self._responses = Counter(
            "ftp_http_responses", "Responses by route and status, refusals included.", ("route", "status"), registry=self._registry
        )

    def watch(self, health: Callable[[], Health]) -> None:
        """Tell of an endpoint's state whenever somebody reads."""
        self._registry.register(_State(health))

    def batch(self, rows: int, seconds: float) -> None:
        """A batch was answered."""
        self._rows.observe(rows)
        self._batch_seconds.inc(seconds)

    def ended(self, *, version: str, arm: str, status: int, seconds: float, prompt_tokens: int, new_tokens: int) -> None:
        """A request that was somebody's has ended; only answered ones have a time."""
        self._requests.labels(version, arm, status).inc()
        if status == 200:
            self._seconds.labels(version, arm).observe(seconds)
            self._tokens.labels(version, arm, "prompt").inc(prompt_tokens)
            self._tokens.labels(version, arm, "answer").inc(new_tokens)

    def first_piece(self, *, version: str, arm: str, seconds: float) -> None:
        """The first piece of a stream is there."""
        self._first.labels(version, arm).observe(seconds)

    def response(self, route: str, status: int) -> None:
        """A response has begun."""
        self._responses.labels(route, status).inc()

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    """Gauges that are asked for rather than counted."""

    def __init__(self, health: Callable[[], Health]) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        health = self._health()
        yield GaugeMetricFamily("ftp_up", "1 if the endpoint answers (ready or degraded).", float(health.status in ("ready", "degraded")))
        yield GaugeMetricFamily("ftp_queue_waiting", "Requests that wait for a batch.", health.waiting)
        yield GaugeMetricFamily("ftp_uptime_seconds", "Since the server's start.", health.uptime_seconds)
        yield GaugeMetricFamily("ftp_log_dropped_total", "Answered requests that the traffic log has lost.", health.log_dropped_total)
        if (stale := health.registry_stale_seconds) is not None:
            yield GaugeMetricFamily("ftp_registry_stale_seconds", "Since the registry of models last answered.", stale)
        info = GaugeMetricFamily(
            "ftp_version_info", "1 for each version of the table.", labels=("version", "model", "sha256", "state", "aliases")
        )
        for version in health.table.versions:
            aliases = ",".join(sorted(alias for alias, number in health.table.aliases.items() if number == version.version))
            info.add_metric((str(version.version), version.name, version.adapter_sha256, version.state, aliases), 1.0)
        yield info
