"""Section `environment` (step 5): what the place of training must have. Where that place is, is configuration, not use case."""

from datetime import date
from typing import Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section


class DevicePrice(Section):
    """What an hour on a device costs you. None is built in: prices go stale, and yours differ."""

    device: str = Field(min_length=1, description="A name such as 4090, L4, A10G, A100-40, A100-80, H100, H200, CPU, or the device's own.")
    per_hour: float = Field(ge=0, description="Of one device, with the machine around it.")
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217, such as USD.")
    as_of: date = Field(strict=False, description="Day on which the price was read; one older than 180 days is shown with a warning.")
    source: str = Field(default="", description="Where it was read.")


class EnvironmentSpec(Section):
    """Demands on the machine, checked by a program that runs there, and what its hours cost."""

    disk_free_gib: float = Field(default=3.0, ge=0)
    memory_headroom: float = Field(default=0.1, ge=0, lt=1, description="Share of the memory that the measured peak must leave free.")
    prices: list[DevicePrice] = Field(default=[], description="By device; without one, costs are not shown.")

    @model_validator(mode="after")
    def _each_device_once(self) -> Self:
        names = [price.device for price in self.prices]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"prices: {', '.join(twice)} has more than one price; keep the one that you pay")
        return self
