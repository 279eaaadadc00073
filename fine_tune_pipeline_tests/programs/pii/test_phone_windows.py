"""Phone numbers in windows around digits, against Presidio's recogniser on the whole text."""

import random

import phonenumbers
import pytest
from presidio_analyzer import EntityRecognizer
from presidio_analyzer.predefined_recognizers import PhoneRecognizer

from fine_tune_pipeline.programs.pii.phone_windows import PhoneWindows, _is_number
from fine_tune_pipeline_tests.programs.pii.analyzers import findings
from fine_tune_pipeline_tests.programs.pii.hostile_texts import hostile_texts

CORNERS = [
    "4929 1111 1111 1111",
    "4916111111111111",
    "312-867-5309 ext. 12",
    "312 867 5309x123#",
    "110",
    "1111 2222",
    "49 030 901820",
    "0049 30 901820",
    "2012-01-02 08:00",
    "2012-01-02 08 312 867 5309",
    "3128675309/3128675310",
    "a3128675309",
    "3128675309b",
    "$3128675309",
    "3128675309%",
    "((312) 867-5309",
    "+ (312) 867-5309",
    "312 867 5309" + " " * 60 + "ext 5",
    "3128675309 " * 15,
    "312867530931286753093128675309",
    "٣١٢ ٨٦٧ ٥٣٠٩",
    "+290 22158",
    "tel 312-867-5309, fax 312-867-5310",
    "12345 - 312-867-5309 is my number",
    "211-227 (2003)",
    "12/31/2019 312-867-5309",
]


@pytest.mark.parametrize(
    "recognizer",
    [
        PhoneRecognizer(),
        PhoneRecognizer(supported_regions=("AT", "SG", "AU", "ZZ")),
        PhoneRecognizer(leniency=0, supported_regions=("US",)),
    ],
)
def test_numbers_are_those_that_the_recogniser_finds(recognizer):
    windows = PhoneWindows(recognizer)
    draw = random.Random(0)
    joined = [draw.choice(CORNERS) + draw.choice(["", " ", ", ", " and ", "x", "/", " - ", ":"]) + draw.choice(CORNERS) for _ in range(30)]
    for text in [*CORNERS, *joined, *hostile_texts(25, seed=4)]:
        found = EntityRecognizer.remove_duplicates(windows(text, ["PHONE_NUMBER"]))
        assert findings(found) == findings(recognizer.analyze(text, ["PHONE_NUMBER"])), text


def test_digits_are_a_valid_number_where_the_library_says_so():
    draw, valid = random.Random(6), 0
    for _ in range(20000):
        code = draw.choice([1, 7, 39, 44, 49, 55, 91, 225, 290, 800, 999])
        national = draw.choice(["", "", "0", "00", "3", "80", "20", "7"]) + str(draw.randrange(10 ** draw.randrange(2, 13)))
        zeros = min(len(national) - len(national.lstrip("0")), len(national) - 1)
        number = phonenumbers.PhoneNumber(country_code=code, national_number=int(national))
        if zeros:
            number.italian_leading_zero, number.number_of_leading_zeros = True, zeros
        want = 2 <= len(national) <= 17 and phonenumbers.is_valid_number(number)
        assert _is_number(code, national) == want
        valid += want
    assert valid > 500
