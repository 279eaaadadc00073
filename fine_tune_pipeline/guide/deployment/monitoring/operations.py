"""How the endpoint did in one window, against fixed limits: speed, errors, cost. It never asks for a retraining."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.guide.deployment.monitoring.traffic_summary import percentile
from fine_tune_pipeline.programs.requests import Contract

SERVER_ERRORS = 500
"""HTTP status from which a request failed by our fault; those below are the caller's, and 429 asks to come again."""


class Measure(Contract):
    """One figure of a window; without a limit it is shown and judged by nobody."""

    name: str
    unit: str
    value: float | None
    limit: float | None

    @property
    def broken(self) -> bool:
        return self.value is not None and self.limit is not None and self.value > self.limit


@dataclass(frozen=True)
class Prices:
    """What answering costs; None where the use case does not say. Tokens are priced by the million."""

    currency: str
    per_hour: float | None = None
    per_input_token: float | None = None
    per_output_token: float | None = None


@dataclass(frozen=True)
class OperationLimits:
    """Above these the report warns; None is no limit."""

    error_share: float | None
    p95_latency_seconds: float | None
    cost_per_1000: float | None


def measured(rows: Sequence[dict[str, Any]], limits: OperationLimits, prices: Prices | None) -> tuple[Measure, ...]:
    """The figures of a window.

    Args:
        rows: all requests to the champion in it, answered or not; at least one.
    """
    answered = [row for row in rows if row["status"] == 200]
    times = sorted(row["latency_ms"] / 1000 for row in answered)
    errors = sum(row["status"] >= SERVER_ERRORS for row in rows) / len(rows)
    cost = Measure(
        name="cost_per_1000",
        unit="money" if prices is None else prices.currency,
        value=_cost_per_1000(rows, answered, prices),
        limit=limits.cost_per_1000,
    )
    return (
        Measure(name="p50_latency", unit="s", value=percentile(times, 50), limit=None),
        Measure(name="p95_latency", unit="s", value=percentile(times, 95), limit=limits.p95_latency_seconds),
        Measure(name="error_share", unit="share", value=errors, limit=limits.error_share),
        cost,
    )


def _cost_per_1000(rows: Sequence[dict[str, Any]], answered: Sequence[dict[str, Any]], prices: Prices | None) -> float | None:
    """A provider's tokens, else the hours that the machine stood there for this window."""
    if prices is None or not answered:
        return None
    if prices.per_input_token is not None and prices.per_output_token is not None:
        asked = sum(row["prompt_tokens"] for row in answered) * prices.per_input_token
        return 1000 * (asked + sum(row["new_tokens"] for row in answered) * prices.per_output_token) / len(answered)
    if prices.per_hour is None:
        return None
    times = [row["ts"] for row in rows]
    return 1000 * (max(times) - min(times)) / 3600 * prices.per_hour / len(answered)
