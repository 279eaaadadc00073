"""The one table of counts that every asset of this room shows, and the names under which the web UI plots."""

from itertools import pairwise

import pytest

from fine_tune_pipeline.guide.dataset.steps import Step, funnel
from fine_tune_pipeline_tests.guide.dataset.test_assets import FACTORIES, House

CONSTANT = {"rows_in", "rows_kept", "rows_fixed", "rows_quarantined", "fixed", "quarantined", "funnel"}
OF_EVERY_ARTIFACT = {"reused", "fingerprint", "folder", "seconds"}
OWN = {
    "raw_examples": {"held_out", "corrections", "sources"},
    "clean_examples": {"marked_for_review", "labels_judged", "labels_judged_by", "labels_not_judged", "rules"},
    "scrubbed_examples": {"rows_with_personal_data", "replacements", "detector", "personal_data", "examples"},
    "reviewed_examples": {
        *("policy", "handed_out", "waiting", "refused_verdicts", "reviewers", "review", "judged_twice"),
        *("random_rows_looked_at", "random_rows_with_personal_data", "share_with_personal_data_at_most"),
    },
    "dataset": {
        *("train", "validation", "test", "made_rows", "coverage", "review", "card"),
        *("smallest_detectable_gain", "smallest_gain_wanted", "criteria_rows", "next_look"),
        *("compared_with", "rows_added", "rows_removed", "rows_changed", "rows_moved", "class_shift", "difference"),
    },
}
STEPS = {
    "raw_examples": "collect",
    "clean_examples": "clean",
    "scrubbed_examples": "scrub",
    "reviewed_examples": "review",
    "dataset": "split",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = House(tmp_path_factory.mktemp("house"))
    assert house.run().success
    return house


@pytest.mark.parametrize("asset", FACTORIES)
def test_metadata_names_of_an_asset_stay(house, asset):
    # A name that changes breaks off the plots of all earlier runs.
    assert set(house.shown(asset)) - OF_EVERY_ARTIFACT == CONSTANT | OWN[asset]


@pytest.mark.parametrize("asset", FACTORIES)
def test_each_asset_shows_the_funnel_up_to_itself_and_the_counts_add_up(house, asset):
    rows = house.artifact(asset).metadata["funnel"]
    steps = list(STEPS.values())
    assert [row["step"] for row in rows] == steps[: steps.index(STEPS[asset]) + 1]
    assert all(row["in"] == row["kept"] + row["quarantined"] for row in rows)
    assert all(before["kept"] == after["in"] for before, after in pairwise(rows))
    last = house.shown(asset)
    assert [last["rows_in"], last["rows_kept"], last["rows_quarantined"]] == [rows[-1][name] for name in ("in", "kept", "quarantined")]
    assert sum(row["rows"] for row in house.artifact(asset).metadata["quarantined"]) == last["rows_quarantined"]


def test_the_funnel_names_reasons_with_their_rows():
    [row] = funnel([Step("clean", 5, 2, quarantined={"too_short": 2, "refusal": 1}, fixed={"html": 1, "whitespace": 2})])
    assert row == {"step": "clean", "in": 5, "kept": 2, "fixed": 3, "quarantined": 3, "reasons": "too_short 2, refusal 1"}
