"""Stand-ins: the same for the same value, of the same form, and never the value itself."""

import ipaddress
import random
import subprocess
import sys

import pytest

from fine_tune_pipeline.guide.dataset.scrubbing.residue import kinds
from fine_tune_pipeline.programs.pii.personal_patterns import find
from fine_tune_pipeline.programs.pii.pseudonyms import hashed, pseudonym

KEY = "the key of these tests"
VALUES = [
    ("PERSON", "Jane Doe"),
    ("PERSON", "Siobhán O'Dowd"),
    ("LOCATION", "Flat 2B, 110 Old Mill Road, Norwich NR1 3AB"),
    ("LOCATION", "London"),
    ("EMAIL_ADDRESS", "ann.smith@mail.example.org"),
    ("CREDIT_CARD", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "3782-822463-10005"),
    ("IBAN_CODE", "GB29 NWBK 6016 1331 9268 19"),
    ("IBAN_CODE", "fr1420041010050500013m02606"),
    ("PHONE_NUMBER", "+44 (0)7700 900518"),
    ("IP_ADDRESS", "10.2.3.4"),
    ("IP_ADDRESS", "fe80::1"),
    ("US_SSN", "123-45-6789"),
]

NUMBERS = ("CREDIT_CARD", "IBAN_CODE", "PHONE_NUMBER", "US_SSN")


def of(entity: str, value: str, key: str = KEY) -> str:
    made = pseudonym(key, entity, value)
    assert made is not None
    return made


@pytest.mark.parametrize(("entity", "value"), VALUES)
def test_a_stand_in_is_another_value_decided_by_key_and_value_alone(entity, value):
    assert of(entity, value) == of(entity, value)
    assert of(entity, value) != value
    assert of(entity, value) != of(entity, value, key="another key of these tests")


@pytest.mark.parametrize(
    ("entity", "value"), [pair for pair in VALUES if pair[0] not in ("EMAIL_ADDRESS", "PERSON", "LOCATION", "IP_ADDRESS")]
)
def test_numbers_keep_their_form(entity, value):
    def form(text: str) -> str:
        return "".join("9" if sign.isdigit() else "a" if sign.isalpha() else sign for sign in text)

    assert form(of(entity, value)) == form(value)


def test_another_process_gives_the_same_stand_ins():
    script = f"from fine_tune_pipeline.programs.pii.pseudonyms import pseudonym\nprint([pseudonym({KEY!r}, e, v) for e, v in {VALUES!r}])"
    said = subprocess.run([sys.executable, "-c", script], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str([of(entity, value) for entity, value in VALUES])


def test_a_name_is_the_same_wherever_and_however_it_stands():
    first, last = of("PERSON", "Jane Doe").split()
    assert of("PERSON", "Dear Mrs Doe") == f"Dear Mrs {last}"
    assert of("PERSON", "JANE DOE") == f"{first} {last}".upper()
    assert of("PERSON", "jane") == first.lower()
    assert of("PERSON", "Dr. J. van der Doe").endswith(f" van der {last}")


def test_an_address_keeps_what_names_no_place():
    made = of("LOCATION", "Flat 2B, 110 Old Mill Road, Norwich")
    assert made.startswith("Flat ")
    assert " Road, " in made
    assert not {"2B", "110", "Mill", "Norwich"}.intersection(made.replace(",", "").split())


@pytest.mark.parametrize("seed", range(20))
def test_cards_and_ibans_have_valid_check_digits(seed):
    draw = random.Random(seed)
    card = of("CREDIT_CARD", "".join(draw.choices("0123456789", k=16)))
    assert kinds(f"card {card} here") == {"CREDIT_CARD"}
    iban = of("IBAN_CODE", "DE" + "".join(draw.choices("0123456789", k=20)))
    assert kinds(f"to {iban} please") >= {"IBAN_CODE"}


def test_an_address_on_the_net_is_nobodys():
    assert any(ipaddress.ip_address(of("IP_ADDRESS", "10.2.3.4")) in ipaddress.ip_network(net) for net in DOCUMENTATION)
    assert ipaddress.ip_address(of("IP_ADDRESS", "fe80::1")) in ipaddress.ip_network("2001:db8::/32")
    assert of("EMAIL_ADDRESS", "a@b.example").rpartition("@")[2].endswith((".example.com", ".example.net", ".example.org"))
    assert of("US_SSN", "123-45-6789").startswith("9")


DOCUMENTATION = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")


def test_the_domain_of_two_addresses_stays_one():
    one, two = of("EMAIL_ADDRESS", "ann@mail.example.org"), of("EMAIL_ADDRESS", "bob@MAIL.example.org")
    assert one.rpartition("@")[2] == two.rpartition("@")[2]
    assert one != two


def test_many_names_rarely_clash():
    draw = random.Random(0)
    names = {f"{draw.choice('BCDFGLMNPRST')}{draw.choice('aeiou')}{number}".translate(LETTERS) for number in range(1000)}
    full = {f"{first} {last}" for first, last in zip(sorted(names), sorted(names, reverse=True), strict=True)}
    assert len({of("PERSON", name) for name in full}) >= 0.99 * len(full)


LETTERS = str.maketrans("0123456789", "bdfghklmnr")


def test_there_is_no_stand_in_for_secrets_and_groups():
    assert pseudonym(KEY, "SECRET", "hunter22") is None
    assert pseudonym(KEY, "NRP", "French") is None


def test_a_hash_ignores_case_and_gaps_and_depends_on_the_key():
    assert hashed(KEY, "PERSON", "Jane  Doe") == hashed(KEY, "PERSON", "JANE DOE") != hashed(KEY, "PERSON", "Jane Roe")
    assert hashed(KEY, "PERSON", "Jane Doe") != hashed("another key of these tests", "PERSON", "Jane Doe")


def test_a_pseudonym_would_be_found_again_as_what_it_stands_for():
    for entity, value in VALUES:
        if entity in ("CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE"):
            assert entity in {span.entity for span in find(of(entity, value), [entity])}
