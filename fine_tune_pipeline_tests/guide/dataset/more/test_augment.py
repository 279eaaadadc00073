"""Which rows get variants, and what the variants are."""

import pytest

from fine_tune_pipeline.guide.dataset.more.augment import BrokenVariant, planned, variant
from fine_tune_pipeline.spec.more import MoreSpec, Phrases, Templates, Typos
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, example

ROWS = [example(str(number), f"a sweet fruit {number}", ("apple", "pear")[number % 2], metadata={"shop": "north"}) for number in range(100)]


def plans(**augment):
    spec = MoreSpec.model_validate({"augment": [{"type": "typos", **augment}], "hard": {"evaluation": "e"}})
    return planned(ROWS, spec, task=FRUIT, hard={"3", "4"}, seed=0)


def test_the_share_is_chosen_by_hash_and_stays_when_rows_are_added():
    assert len(plans(share=0.2)) == 20
    fewer = planned(ROWS[:90], MoreSpec(augment=[Typos(type="typos")]), task=FRUIT, hard=(), seed=0)
    assert len({plan.origin.id for plan in fewer} & {plan.origin.id for plan in plans(share=0.2)}) >= 15


def test_copies_classes_and_hard_slices():
    assert [plan.number for plan in plans(share=0.01, copies=3)] == [0, 1, 2]
    assert {plan.origin.completion for plan in plans(share=1.0, classes=["pear"])} == {"pear"}
    assert {plan.origin.id for plan in plans(share=1.0, hard=True)} == {"3", "4"}


def test_a_variant_says_how_and_from_what_it_was_made():
    made = variant(ROWS[0], Typos(type="typos"), number=0, seed=0)
    assert made.id.startswith("0~typos-")
    assert made.metadata == {"shop": "north", "synthetic": "typos", "made_from": "0"}
    assert (made.completion, made.source, made.held_out) == ("apple", "made: typos", False)
    assert made.prompt != ROWS[0].prompt


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("my cash machine broke", {"my ATM broke", "my cashpoint broke"}),
        ("Cash machine broke", {"ATM broke", "Cashpoint broke"}),
        ("the cash machines broke", {None}),
    ],
)
def test_phrases_are_said_in_another_way_and_only_whole_ones(prompt, wanted):
    how = Phrases(type="phrases", phrases={"cash machine": ["ATM", "cashpoint"]})
    found = [variant(example("a", prompt), how, number=number, seed=0) for number in range(2)]
    assert {made and made.prompt for made in found} == wanted


def test_templates_see_the_prompt_and_the_columns():
    made = variant(ROWS[0], Templates(type="templates", templates=["In {{ shop }}: {{ prompt }}!"]), number=0, seed=0)
    assert made.prompt == "In north: a sweet fruit 0!"


@pytest.mark.parametrize("template", ["{{ nothing }}", "{{ prompt", "{{ prompt.__class__.__mro__ }}"])
def test_a_template_that_fails_is_named(template):
    with pytest.raises(BrokenVariant, match="row 0"):
        variant(ROWS[0], Templates(type="templates", templates=[template]), number=0, seed=0)


def test_hard_slices_need_an_evaluation():
    with pytest.raises(ValueError, match=r"needs dataset\.more\.hard"):
        MoreSpec(augment=[Typos(type="typos", hard=True)])
