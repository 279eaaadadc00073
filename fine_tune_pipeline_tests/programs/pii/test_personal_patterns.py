"""Patterns of personal data, and what must not be taken for it. None of these texts is from the built-in use case."""

import random

import pytest
import regex

from fine_tune_pipeline.programs.pii.personal_data import lowered, merged
from fine_tune_pipeline.programs.pii.personal_patterns import PATTERNS, find, iban_sum, luhn
from fine_tune_pipeline_tests.programs.pii.hostile_texts import hostile_texts

ALL = ("CREDIT_CARD", "IBAN_CODE", "EMAIL_ADDRESS", "PHONE_NUMBER", "PERSON", "LOCATION", "SECRET")


def found(text):
    return [(span.entity, text[span.start : span.end]) for span in merged(find(text, ALL), text)]


@pytest.mark.parametrize(
    ("text", "entity", "value"),
    [
        ("my card 3782 822463 10005 is gone", "CREDIT_CARD", "3782 822463 10005"),
        ("6011.1111.1111.1117", "CREDIT_CARD", "6011.1111.1111.1117"),
        ("pay to gb29 nwbk 6016 1331 9268 19 today", "IBAN_CODE", "gb29 nwbk 6016 1331 9268 19"),
        ("FR1420041010050500013M02606 is mine", "IBAN_CODE", "FR1420041010050500013M02606"),
        ("write to lucía.o+x@correo.invalid.", "EMAIL_ADDRESS", "lucía.o+x@correo.invalid"),
        ("it is +33 6 39 98 12 34", "PHONE_NUMBER", "+33 6 39 98 12 34"),
        ("please ring 0151 496 0123 after six", "PHONE_NUMBER", "0151 496 0123"),
        ("my mobile is 0612 345 678", "PHONE_NUMBER", "0612 345 678"),
        ("Hi, my name is Ségolène and", "PERSON", "Ségolène"),
        ("Hello, this is Kwame Adjei-Boateng from flat two", "PERSON", "Kwame Adjei-Boateng"),
        ("Ludwig van Beethoven here, I want", "PERSON", "Ludwig van Beethoven"),
        ("ask Dr. Okafor about it", "PERSON", "Dr. Okafor"),
        ("It is broken.\nKind regards,\nSiobhán O'Dowd", "PERSON", "Siobhán O'Dowd"),
        ("It is broken. Thanks, Piotr", "PERSON", "Piotr"),
        ("It is broken. Mirela Ionescu-Dunn", "PERSON", "Mirela Ionescu-Dunn"),
        ("send it to 9 Heron Wharf, Leeds LS9 8AG now", "LOCATION", "9 Heron Wharf, Leeds LS9 8AG"),
        ("Flat 2B, 110 Old Mill Road, Norwich", "LOCATION", "Flat 2B, 110 Old Mill Road, Norwich"),
        ("ship to 742 Evergreen Terrace, Springfield, OR 97403", "LOCATION", "742 Evergreen Terrace, Springfield, OR 97403"),
        ("i live at 12 mill lane now", "LOCATION", "12 mill lane"),
    ],
)
def test_personal_data_is_found_whole(text, entity, value):
    assert found(text) == [(entity, value)]


@pytest.mark.parametrize(
    "text",
    [
        "order 4111 1111 1111 1112 has the wrong sum",
        "reply b4 5pm or b4 2nd",
        "In Marseille, my card was refused",
        "Mr. I've never been",
        "Thank you. Kind Regards",
        "call me at 10:30 on 12/11/2026",
        "paid £1,140.00 on 3 cards in 2 shops",
        "this is Very bad",
        "the code is 123456",
        "a 5 mile road and 3 more days in the same place",
        "I Am Furious. This Is Wrong",
    ],
)
def test_what_is_no_personal_data_is_left(text):
    assert found(text) == []


# Put together here, so that no scanner takes this file for a leak.
KEYS = [
    "AKIA" + "Q7RX2LMN4KPTVW5Z",
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "11ABCDEFG0" * 5,
    "glpat-" + "x9Y8" * 5,
    "xoxb-" + "2048-4096-aBcDeF",
    "sk_live_" + "4eC39HqLyjWDarjt",
    "sk-proj-" + "T3BlbkFJ" * 4,
    "AIza" + "SyD9" * 8 + "abc",
    "hf_" + "QwErTy12" * 4,
    "eyJhbGciOiJI" + ".eyJzdWIiOiIx." + "SflKxwRJSMeK",
]


PEM = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("text", ["{}", "it says {}, what now?", 'export KEY="{}"', "url?key={}&x=1"])
def test_a_key_is_found_whole_wherever_it_stands(key, text):
    assert found(text.format(key)) == [("SECRET", key)]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("my password is Tulip-4471 and it fails", "Tulip-4471"),
        ("password: hunter22.", "hunter22"),
        ('{"api_key": "9f86d081884c7d65"}', "9f86d081884c7d65"),
        ("login with postgresql://ann:s3cr3t@db.example/x", "s3cr3t@db.example"),
        (
            "a\n-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\nb",
            "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----",
        ),
        ("cut -----BEGIN RSA PRIVATE KEY-----\nMIIB", "-----BEGIN RSA PRIVATE KEY-----\nMIIB"),
    ],
)
def test_a_secret_is_found_by_what_stands_around_it(text, secret):
    assert found(text) == [("SECRET", secret)]


@pytest.mark.parametrize(
    "text",
    [
        "my password is wrong again",
        "the password is: incorrect",
        "reset token expired, token is missing",
        "a task-force-of-seventeen-people met",
        "see https://bank.example/login:8080/x@y",
        "the api key page shows error 404",
        "AKIAshort and hf_short and sk-short",
    ],
)
def test_talk_of_secrets_is_none(text):
    assert found(text) == []


def test_only_the_wanted_entities_are_looked_for():
    assert find("ann@post.example +44 7700 900518", ["PHONE_NUMBER"])[0].entity == "PHONE_NUMBER"


def test_luhn_agrees_with_the_definition():
    draw = random.Random(0)
    for _ in range(300):
        number = "".join(draw.choices("0123456789", k=draw.randint(12, 18)))
        fitting = [digit for digit in "0123456789" if _definition(number + digit)]
        assert [digit for digit in "0123456789" if luhn(number + digit)] == fitting
        assert len(fitting) == 1


def _definition(number):
    total = 0
    for place, sign in enumerate(number[::-1]):
        value = int(sign) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


@pytest.mark.parametrize(
    ("number", "valid"), [("GB82 WEST 1234 5698 7654 32", True), ("gb82west12345698765432", True), ("GB82WEST12345698765433", False)]
)
def test_an_iban_is_valid_when_its_remainder_is_one(number, valid):
    assert iban_sum(number) is valid


ODD = [
    "PA\u017f\u017fWORD: abc123", "to\u212aen = a1b2c3d4", "CREDENT\u0130AL: hunter2x",
    "A\u017fC\u0130\u0130 pwd: 1a2b3c", "api-\u212aEY: zz99zz99",
    "gb29 nwbk 6016 1331 9268 19", "\u212aw81CBKU0000000000001234560101",
    "\u017fe45 5000 0000 0583 9825 7466", "FR1420041010050500013M02606",
    "+\u0663\u0661\u0662 \u0665\u0665\u0665 \u0660\u0661\u0664\u0667",
    "ring \u0660\u0661\u0665\u0661 496 0123", "\uff11\uff12 Mill Road",
    "5 Elm Lane, Leeds LS1 4AP",
    "x@\u00e9.fr", "postgres://a:b1c2@db", "Ludwig van Beethoven here", "12 mill road", "m1 1aa", "6011.1111.1111.1117",
]  # fmt: skip


def test_no_pattern_is_left_out_of_a_text_that_it_matches():
    matched = set()
    for text in [*ODD, *hostile_texts(1500, seed=4)]:
        lower, digits = lowered(text), len(regex.findall(r"\d", text))
        for place, pattern in enumerate(PATTERNS):
            if pattern.expression.search(text) is not None:
                matched.add(place)
                assert pattern.may_match(text, lower=lower, digits=digits), (pattern.entity, pattern.why, text)
    gated = {place for place, pattern in enumerate(PATTERNS) if pattern.digits or pattern.words or pattern.sign is not None}
    assert gated <= matched


def test_a_text_without_digits_is_not_searched_for_numbers():
    assert [
        pattern.entity for pattern in PATTERNS if pattern.entity == "IBAN_CODE" and pattern.may_match("hello", lower="hello", digits=0)
    ] == []
