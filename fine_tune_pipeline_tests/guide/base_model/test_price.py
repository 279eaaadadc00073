from datetime import date

import pytest
from pydantic import ValidationError

from fine_tune_pipeline.guide.base_model.hardware import inventory_of_named
from fine_tune_pipeline.guide.base_model.price import cost, price_of, stale
from fine_tune_pipeline.resources.compute.inventory import Device
from fine_tune_pipeline.spec.environment import DevicePrice, EnvironmentSpec

L4 = DevicePrice(device="L4", per_hour=0.72, currency="EUR", as_of=date(2026, 1, 31))
CPU = DevicePrice(device="CPU", per_hour=0.1, currency="EUR", as_of=date(2026, 1, 31))


@pytest.mark.parametrize(("name", "price"), [("NVIDIA L4", L4), ("L4", L4), ("NVIDIA L40S", None), ("CPU", CPU), ("Frobnicator 9", None)])
def test_a_price_belongs_to_the_device_that_it_names(name, price):
    assert price_of(Device(kind="cuda", name=name, memory_bytes=1, bfloat16=True), [CPU, L4]) == price


def test_a_price_may_name_a_device_that_is_not_in_the_table():
    own = L4.model_copy(update={"device": "Frobnicator 9"})
    assert price_of(Device(kind="cuda", name="Frobnicator 9", memory_bytes=1, bfloat16=True), [own]) == own


def test_cost_is_hours_times_devices_times_price():
    assert str(cost(1800, L4, devices=4)) == "1.44 EUR"
    assert cost(1800, price_of(inventory_of_named("H100").devices[0], [L4])) is None


def test_an_old_price_is_shown_with_a_warning():
    assert stale(L4, today=date(2026, 7, 30)) is None
    assert "the price of L4 is of 2026-01-31, more than 180 days old" in (stale(L4, today=date(2026, 7, 31)) or "")
    assert stale(None, today=date(2026, 7, 31)) is None


def test_two_prices_of_one_device_are_refused():
    with pytest.raises(ValidationError, match="L4 has more than one price"):
        EnvironmentSpec(prices=[L4, L4])


@pytest.mark.parametrize("wrong", [{"per_hour": -1}, {"currency": "euro"}, {"as_of": "soon"}, {"device": ""}])
def test_a_price_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DevicePrice.model_validate({**L4.model_dump(), **wrong})
