from datetime import date

import pytest

from fine_tune_pipeline.guide.base_model.catalogue import Architecture, Price
from fine_tune_pipeline.guide.base_model.hardware import inventory_of_named
from fine_tune_pipeline.guide.base_model.running_costs import (
    answers_cost,
    answers_seconds,
    nominal_run,
    run_cost,
    run_seconds,
    running_place,
    tuning_cost,
)
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline_tests.guide.technique.stand_ins import use_case

LLAMA_8B = Architecture(hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, mlp_width=14336, vocabulary=128256, tied=False)
PRICES = [{"device": "H100", "per_hour": 3.6, "currency": "EUR", "as_of": date(2026, 11, 1)}]
OFFER = Price(train=3, input=0.5, output=2, currency="USD", as_of=date(2026, 11, 1), source="an offer")


def place(tmp_path, device="H100", **sections):
    return running_place(inventory_of_named(device), use_case(tmp_path, **sections))


def test_the_nominal_run_is_a_thousand_rows_no_longer_than_the_use_case_allows(tmp_path):
    usual = nominal_run(use_case(tmp_path), longest_tokens=4000)
    short = nominal_run(use_case(tmp_path, training={"epochs": 2.0}), longest_tokens=40)
    assert str(usual) == "1,000 rows of 256 tokens, 64 of them the answer, 3 epochs"
    assert str(short) == "1,000 rows of 40 tokens, 40 of them the answer, 2 epochs"


def test_a_training_run_costs_its_hours_at_the_price_of_the_use_case(tmp_path):
    run, priced = nominal_run(use_case(tmp_path), longest_tokens=4000), place(tmp_path, environment={"prices": PRICES})
    seconds = run_seconds(LLAMA_8B, Technique(type="lora"), run, priced)
    # At least 4 operations per weight and token, at 35 % of 989 TFLOP/s.
    assert seconds > 768_000 * 4 * 7e9 / (0.35 * 989e12)
    cost = run_cost(seconds, priced)
    assert cost is not None
    assert (cost.amount, cost.currency) == (pytest.approx(seconds / 1000), "EUR")
    assert run_cost(seconds, place(tmp_path)) is None


def test_tuning_at_a_provider_costs_every_token_of_every_epoch(tmp_path):
    run = nominal_run(use_case(tmp_path), longest_tokens=4000)
    cost = tuning_cost(OFFER, run)
    assert cost is not None
    assert (cost.amount, cost.currency) == (pytest.approx(0.768 * 3), "USD")
    assert tuning_cost(None, run) is None
    assert tuning_cost(OFFER.model_copy(update={"train": None}), run) is None


def test_a_written_token_is_bounded_by_the_memory_that_is_read_for_it(tmp_path):
    run = nominal_run(use_case(tmp_path), longest_tokens=4000)
    seconds = answers_seconds(LLAMA_8B, run, place(tmp_path))
    body_and_head = LLAMA_8B.parameters - LLAMA_8B.vocabulary * LLAMA_8B.hidden
    bound = 64_000 * 2 * body_and_head / 3.35e12
    assert bound < seconds < 1.2 * bound


def test_of_a_mixture_only_the_experts_that_a_token_visits_are_paid_for(tmp_path):
    run = nominal_run(use_case(tmp_path), longest_tokens=4000)
    experts = {"experts": 8, "experts_per_token": 2, "expert_width": 14336}
    mixture = LLAMA_8B.model_copy(update=experts)
    assert answers_seconds(mixture, run, place(tmp_path)) < 2.1 * answers_seconds(LLAMA_8B, run, place(tmp_path))
    assert mixture.parameters > 5 * LLAMA_8B.parameters


def test_answers_cost_what_the_provider_asks_and_else_the_hours_of_the_own_hardware(tmp_path):
    run, priced = nominal_run(use_case(tmp_path), longest_tokens=4000), place(tmp_path, environment={"prices": PRICES})
    at_provider, own = answers_cost(LLAMA_8B, OFFER, run, priced), answers_cost(LLAMA_8B, None, run, priced)
    assert at_provider is not None
    assert (at_provider.amount, at_provider.currency) == (pytest.approx(0.192 * 0.5 + 0.064 * 2), "USD")
    assert own is not None
    assert own.amount == pytest.approx(answers_seconds(LLAMA_8B, run, priced) / 1000)
    assert answers_cost(LLAMA_8B, None, run, place(tmp_path)) is None
    assert answers_cost(None, None, run, priced) is None


def test_a_cpu_is_slower_than_an_accelerator_in_both(tmp_path):
    run = nominal_run(use_case(tmp_path), longest_tokens=4000)
    cpu, gpu = place(tmp_path, "CPU"), place(tmp_path, "L4")
    assert answers_seconds(LLAMA_8B, run, cpu) > 5 * answers_seconds(LLAMA_8B, run, gpu)
    assert run_seconds(LLAMA_8B, Technique(type="lora"), run, cpu) > 50 * run_seconds(LLAMA_8B, Technique(type="lora"), run, gpu)
