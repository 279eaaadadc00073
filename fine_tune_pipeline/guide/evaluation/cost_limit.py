"""What a thousand answers cost in money, and the verdict on `limits.cost_per_1000`."""

from fine_tune_pipeline.guide.base_model.price import Cost as Money
from fine_tune_pipeline.guide.base_model.price import cost as cost_of
from fine_tune_pipeline.guide.base_model.price import price_of
from fine_tune_pipeline.guide.evaluation.predictions import Cost
from fine_tune_pipeline.guide.evaluation.verdicts import Verdict
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.hosted import ApiModel
from fine_tune_pipeline.spec.objective import Limits
from fine_tune_pipeline.spec.use_case import UseCaseSpec


def money_per_1000(spent: Cost, spec: UseCaseSpec, inventory: Inventory, *, base: str | None) -> Money | None:
    """Of a thousand answers like those that were given: a provider's tokens, else the hours of the first device; None without a price.

    Args:
        spent: what the answers took.
        base: id of the base model.
    """
    hosted = next((one for one in spec.base_model.candidates if isinstance(one, ApiModel) and one.id == base), None)
    if hosted is None:
        return cost_of(spent.seconds_per_1000, price_of(inventory.devices[0], spec.environment.prices))
    prices = hosted.prices
    if prices is None or prices.input is None or prices.output is None:
        return None
    asked = ((spent.prompt_tokens or 0) * prices.input + (spent.new_tokens or 0) * prices.output) / 1e6
    return Money(1000 * asked / spent.rows, prices.currency)


def cost_verdict(limits: Limits, money: Money | None) -> list[Verdict]:
    """The verdict on the limit, if there is one: a measurement, so "cannot tell" only where nothing has a price."""
    wanted = limits.cost_per_1000
    if wanted is None:
        return []
    text = f"1,000 answers cost at most {wanted:g}"
    if money is None:
        said = (
            "nothing says what answers cost; name this place's device in environment.prices, or the provider's prices of input and output"
        )
        return [Verdict("limit", text, "cost_per_1000", None, None, None, "cannot tell", said)]
    fits = money.amount <= wanted
    said = f"1,000 answers took {money.amount:.3g} {money.currency}" + ("" if fits else "; choose a smaller base model, or raise the limit")
    return [Verdict("limit", text, "cost_per_1000", money.amount, None, None, "met" if fits else "not met", said)]
