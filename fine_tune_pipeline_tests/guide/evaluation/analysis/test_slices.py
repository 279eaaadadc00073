from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import fisher_exact

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.analysis.given import NotAvailable
from fine_tune_pipeline.guide.evaluation.analysis.slices import LOSES, WEAKER, slices
from fine_tune_pipeline.guide.evaluation.analysis.topics import topic_names, topics
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline_tests.guide.evaluation.analysis.make import fruit, given, no_nan, vectors

TEST = fruit(240)


def wrong_where(rows: list[Example], place_is_wrong) -> list[str]:
    return ["?" if place_is_wrong(place) else row.completion for place, row in enumerate(rows)]


def test_a_weak_value_of_metadata_is_found_and_its_opposite_is_not():
    own = wrong_where(TEST, lambda place: place % 2 == 0 and place % 6 == 0)
    found = slices(given(TEST, own))
    weak, strong = found["lines"]
    assert (weak["slice"], weak["rows"], weak["findings"]) == ("channel = mail", 120, [WEAKER])
    assert (strong["slice"], strong["findings"]) == ("channel = app", [])
    assert weak["rest"]["estimate"] == pytest.approx(-1 / 3)
    assert {"n", "low", "high"} <= set(weak["gain"])
    assert [row["fine_tuned"] for row in weak["examples"]] == ["?", "?"]
    assert found["hits"] == 1


def test_the_p_value_against_the_rest_is_fishers_times_holms_factor():
    own = wrong_where(TEST, lambda place: place in (0, 2, 4, 6, 8, 10, 1, 3))
    line = next(line for line in slices(given(TEST, own))["lines"] if line["slice"] == "channel = mail")
    expected = fisher_exact([[6, 114], [2, 118]], alternative="greater").pvalue
    assert line["rest_p"] == pytest.approx(expected)
    assert line["rest_p_holm"] == pytest.approx(min(1.0, 4 * expected))
    assert line["findings"] == []


def test_a_slice_in_which_the_base_was_better_is_told_although_the_whole_gained():
    base = [row.completion if place % 2 == 0 and place % 3 else "?" for place, row in enumerate(TEST)]
    own = [row.completion if place % 2 else "?" for place, row in enumerate(TEST)]
    line = slices(given(TEST, own, base=base))["lines"][0]
    assert (line["slice"], line["findings"]) == ("channel = mail", [LOSES, WEAKER])
    assert line["gain"]["estimate"] == pytest.approx(-2 / 3)


def test_topics_are_slices_named_by_their_telling_words():
    own = wrong_where(TEST, lambda place: place % 3 == 1)
    found = slices(given(TEST, own, known=vectors(fruit(0), TEST), more={"evidence": {"minimum_slice": 40}}))
    weak = found["lines"][0]
    assert weak["slice"].startswith("topic ")
    assert set(weak["slice"].split(": ")[1].split(", ")) <= {"green", "soft", "bottle", "grainy", "conference", "long", "buttery"}
    assert WEAKER in weak["findings"]


def test_without_any_effect_families_with_a_hit_are_rare():
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        rows = [replace(row, metadata={"channel": str(draw.integers(3))}) for row in TEST[:210]]
        right = draw.random(210) < 0.8
        own = [row.completion if well else "?" for row, well in zip(rows, right, strict=True)]
        base = [row.completion if well else "?" for row, well in zip(rows, draw.permutation(right), strict=True)]
        hits += slices(given(rows, own, base=base))["hits"] > 0
    assert hits <= 6


def test_columns_that_the_user_did_not_name_are_no_slices():
    rows = [
        replace(row, metadata={**row.metadata, "cluster": str(place % 2), "rare": "yes" if place < 10 else "no"})
        for place, row in enumerate(TEST)
    ]
    world = replace(given(rows, [row.completion for row in rows]), columns=frozenset({"channel", "rare"}))
    assert {line["slice"]: line["rows"] for line in slices(world)["lines"]} == {
        "channel = mail": 120,
        "channel = app": 120,
        "rare = no": 230,
    }


def test_two_names_for_the_same_rows_are_tested_once():
    rows = [replace(row, metadata={**row.metadata, "twin": row.metadata["channel"]}) for row in TEST]
    world = replace(given(rows, [row.completion for row in rows]), columns=frozenset({"channel", "twin"}))
    assert slices(world)["tests"] == 4


def test_graded_scores_and_rows_in_groups_are_judged_too():
    rows = [replace(row, metadata={**row.metadata, "document": str(place // 4)}) for place, row in enumerate(TEST)]
    own = [row.completion if place % 2 else row.completion + " more" * (1 + place % 5) for place, row in enumerate(rows)]
    world = given(rows, own, task=Task(type="generation"), metric="token_f1", clusters="document")
    line = slices(world)["lines"][0]
    assert (line["slice"], line["findings"]) == ("channel = mail", [WEAKER])
    assert line["rest"]["method"] == "t"


@pytest.mark.parametrize(("rows", "channel"), [(60, "mail"), (40, None), (1, None)])
def test_no_part_that_is_large_enough_is_said(rows: int, channel: str | None):
    test = [replace(row, metadata={"channel": channel}) if channel else row for row in TEST[:rows]]
    with pytest.raises(NotAvailable, match=r"has 50 rows \(evidence.minimum_slice\).*no sentence encoder"):
        slices(given(test, [row.completion for row in test]))


def test_all_right_all_wrong_and_equal_prompts_give_no_finding_and_no_nan():
    same = [replace(row, prompt="same words") for row in TEST]
    for own in ([row.completion for row in same], ["?"] * len(same)):
        found = slices(given(same, own, known=vectors(fruit(0), same)))
        assert found["hits"] == 0
        assert "all test prompts are alike" in found["notes"][0]
        assert no_nan(found)


def test_prompts_without_a_word_get_numbers_for_names():
    found = topics(np.eye(4, dtype=np.float32)[np.arange(80) % 2], minimum=20)
    assert set(topic_names(["12 34"] * 80, found).values()) == {"topic 1", "topic 2"}
