from datetime import date
from typing import Any

import pytest

from fine_tune_pipeline.guide.base_model.catalogue import catalogue
from fine_tune_pipeline.guide.base_model.catalogue_files import catalogue_of
from fine_tune_pipeline.guide.base_model.hosted import offered_checks
from fine_tune_pipeline.guide.base_model.offers import completed
from fine_tune_pipeline.spec.hosted import ApiModel, Prices
from fine_tune_pipeline_tests.guide.technique.stand_ins import use_case

OURS = Prices(train=1, currency="EUR", as_of=date(2026, 11, 1), source="our contract")


def entry(model: str = "gpt-4.1-mini-2025-04-14", **more: Any) -> ApiModel:
    return ApiModel(type="api", id="ours", model=model, licence="LicenseRef-OpenAI-Terms", **more)


def test_last_days_that_a_candidate_leaves_out_are_the_catalogues():
    found = completed(entry(), catalogue())
    assert (found.last_job_date, found.shutdown_date, found.prices) == (date(2027, 1, 6), date(2027, 1, 14), None)


def test_what_a_candidate_says_itself_stays():
    found = completed(entry(shutdown_date=date(2030, 1, 1), prices=OURS), catalogue())
    assert (found.last_job_date, found.shutdown_date, found.prices) == (date(2027, 1, 6), date(2030, 1, 1), OURS)


def test_a_model_that_the_catalogue_does_not_know_stays_as_it_is():
    assert completed(entry("llama-9"), catalogue()) == entry("llama-9")


def test_prices_of_a_file_reach_a_hosted_candidate(tmp_path):
    text = "prices: [{id: gpt-4.1-mini, train: 5, input: 1, currency: USD, as_of: 2026-11-20, source: an offer}]"
    (tmp_path / "prices.yaml").write_text(text, encoding="utf-8")
    spec = use_case(tmp_path, base_model={"candidates": [entry().model_dump()], "catalogue": ["prices.yaml"]})
    prices = completed(entry(), catalogue_of(spec)).prices
    assert prices is not None
    assert (prices.train, prices.input, prices.output, prices.as_of) == (5, 1, None, date(2026, 11, 20))


@pytest.mark.parametrize(("today", "passed"), [(date(2026, 8, 1), True), (date(2026, 12, 1), False)])
def test_the_check_of_a_hosted_candidate_warns_of_the_catalogues_last_days(tmp_path, today, passed):
    prices = OURS.model_copy(update={"as_of": today})
    spec = use_case(tmp_path, base_model={"candidates": [entry(prices=prices).model_dump()]})
    [check] = offered_checks(spec, today=today)
    assert check.passed is passed
    assert ("is shut down on 2027-01-14" in check.description) is not passed
