"""What the catalogue knows of a hosted candidate: its last days and, from a file of the user's own, its prices."""

from fine_tune_pipeline.guide.base_model.catalogue import Catalogue, HostedModel, Price
from fine_tune_pipeline.spec.hosted import ApiModel, Prices


def completed(entry: ApiModel, known: Catalogue) -> ApiModel:
    """The candidate; last days and prices that it leaves out come from the catalogue's model of its name, if there is one."""
    found = known.hosted_model(entry.model)
    return entry if found is None else entry.model_copy(update=_left_out(entry, found))


def _left_out(entry: ApiModel, found: HostedModel) -> dict[str, object]:
    offered = {
        "last_job_date": found.last_job_date,
        "shutdown_date": found.shutdown_date,
        "prices": None if found.price is None else _prices(found.price),
    }
    return {field: value for field, value in offered.items() if value is not None and getattr(entry, field) is None}


def _prices(price: Price) -> Prices:
    return Prices(
        train=price.train, input=price.input, output=price.output, currency=price.currency, as_of=price.as_of, source=price.source
    )
