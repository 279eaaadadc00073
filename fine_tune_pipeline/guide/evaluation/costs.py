"""What each system costs beside its quality: money and seconds per thousand answers, and how long one answer takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from fine_tune_pipeline.guide.base_model.price import Cost as Money
from fine_tune_pipeline.guide.base_model.price import cost as cost_of
from fine_tune_pipeline.guide.base_model.price import price_of
from fine_tune_pipeline.guide.evaluation.cost_limit import money_per_1000
from fine_tune_pipeline.guide.evaluation.figure import quantile_of
from fine_tune_pipeline.guide.evaluation.predictions import Cost, cost_row
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.use_case import UseCaseSpec

QUANTILES = {"p50": 0.5, "p95": 0.95}
"""Of the times of single answers."""


def money_of(costs: Sequence[Cost], spec: UseCaseSpec, inventory: Inventory, *, base: str | None) -> dict[str, Money]:
    """System -> money per thousand answers, for those that have a price; what is no language model runs on our own first device.

    Args:
        base: id of the base model.
    """
    here = price_of(inventory.devices[0], spec.environment.prices)
    priced = {
        cost.system: cost_of(cost.seconds_per_1000, here)
        if cost.new_tokens is None
        else money_per_1000(cost, spec, inventory, base=base)
        for cost in costs
    }  # fmt: skip
    return {system: money for system, money in priced.items() if money is not None}


def cost_lines(costs: Sequence[Cost], money: Mapping[str, Money]) -> list[dict[str, Any]]:
    """A line for each system: `cost_row`, and `cost_per_1000` with its `currency` and `latency_seconds`, each None where not known."""
    return [{**cost_row(cost), **_money(money.get(cost.system)), "latency_seconds": latency(cost.latencies)} for cost in costs]


def latency(seconds: Sequence[float]) -> dict[str, Any] | None:
    """Median and 95th percentile of the seconds of single answers, as figures; None when none was timed."""
    return {name: quantile_of(seconds, share) for name, share in QUANTILES.items()} if seconds else None


def _money(money: Money | None) -> dict[str, Any]:
    return {"cost_per_1000": None if money is None else money.amount, "currency": None if money is None else money.currency}
