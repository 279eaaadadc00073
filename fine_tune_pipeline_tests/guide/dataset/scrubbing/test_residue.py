"""What the independent look for leftovers finds, and what it leaves alone."""

import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.scrubbing.residue import kinds, residue, shown
from fine_tune_pipeline_tests.guide.dataset.make import example


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("card 4111 1111 1111 1111 please", "CREDIT_CARD"),
        ("card 4111-1111-1111-1111", "CREDIT_CARD"),
        ("amex 378282246310005.", "CREDIT_CARD"),
        ("maestro 6304000000000000", "CREDIT_CARD"),
        ("ann@example.org", "EMAIL_ADDRESS"),
        ("(ann.o'neil+x@post.example)", "EMAIL_ADDRESS"),
        ("to GB82 WEST 1234 5698 7654 32 ten days ago", "IBAN_CODE"),
        ("gb82west12345698765432", "IBAN_CODE"),
        ("DE89-3704-0044-0532-0130-00", "IBAN_CODE"),
        ("NO93 8601 1117 947", "IBAN_CODE"),
        ("call +44 7700 900518", "PHONE_NUMBER"),
        ("+1 (312) 555-0147", "PHONE_NUMBER"),
    ],
)
def test_checkable_identifiers_are_found(text, kind):
    assert kinds(text) == {kind}


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112",  # the sum is wrong
        "order 0000 0000 0000 0000",
        "reference 41111111111111110000000",  # longer than any card
        "GB83 WEST 1234 5698 7654 32",  # the remainder is wrong
        "+5 points and 20 + 30 more",
        "meet me @ noon. ok?",
        "ring me on 555",
        "<EMAIL_ADDRESS> and <CREDIT_CARD>",
        "12/11/2026 10:30, £1,140.00",
    ],
)
def test_what_does_not_add_up_is_left_alone(text):
    assert kinds(text) == set()


def test_prompts_completions_and_metadata_are_looked_at_for_the_chosen_kinds_only():
    rows = [
        example("a", "ann@example.org"),
        example("b", "fine", "write to bob@example.org or +44 7700 900518"),
        example("c", "fine", metadata={"account": "GB82WEST12345698765432"}),
        example("d", "fine"),
    ]
    found = residue(rows, ["EMAIL_ADDRESS", "IBAN_CODE", "PERSON"])
    assert found.rows == {"EMAIL_ADDRESS": ["a", "b"], "IBAN_CODE": ["c"]}
    assert found.share == 0.75
    assert "example.org" not in shown(found)
    assert "EMAIL_ADDRESS in 2 rows (a, b)" in shown(found)


def test_no_rows_have_no_residue():
    assert residue([], ["EMAIL_ADDRESS"]).share == 0.0


def test_marks_of_the_steps_are_no_personal_data():
    card = "4929318806175242"
    marked = Example("1", "hello", "fine", metadata={"cluster": card})
    named = Example("2", "hello", "fine", metadata={"account": card})
    assert residue([marked, named], ["CREDIT_CARD"]).rows == {"CREDIT_CARD": ["2"]}
