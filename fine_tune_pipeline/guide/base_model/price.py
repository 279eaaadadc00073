"""What an hour costs, as the use case says; nothing is built in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from fine_tune_pipeline.guide.base_model.hardware import gpu_of
from fine_tune_pipeline.resources.compute.inventory import Device
from fine_tune_pipeline.spec.environment import DevicePrice

STALE_DAYS = 180
"""Age from which a price is shown with a warning: hourly prices of accelerators have halved within a year."""


@dataclass(frozen=True)
class Cost:
    """An amount of money."""

    amount: float
    currency: str

    def __str__(self) -> str:
        return f"{self.amount:.2f} {self.currency}"


def price_of(device: Device, prices: Sequence[DevicePrice]) -> DevicePrice | None:
    """The price of the device, by the name that it gives itself or by that of the table; None when the use case gives none."""
    gpu = gpu_of(device.name)
    names = {device.name} if gpu is None else {device.name, gpu.name}
    return next((price for price in prices if price.device in names), None)


def cost(seconds: float, price: DevicePrice | None, *, devices: int = 1) -> Cost | None:
    """Of so many seconds on so many devices; None without a price."""
    return None if price is None else Cost(seconds / 3600 * devices * price.per_hour, price.currency)


def stale(price: DevicePrice | None, *, today: date) -> str | None:
    """A warning when the price is old."""
    if price is None or (today - price.as_of).days <= STALE_DAYS:
        return None
    return f"the price of {price.device} is of {price.as_of}, more than {STALE_DAYS} days old: look it up again (environment.prices)"
