"""Spans: merging, what is no personal data, repeated names, replacing."""

import random

import pytest
import regex

from fine_tune_pipeline.programs.pii.personal_data import OverlappingSpans, Span, known, merged, plausible, repeated, replaced


def span(start, end, entity="PERSON", score=0.85, origin="model"):
    return Span(start, end, entity, score, origin)


@pytest.mark.parametrize(
    ("spans", "result"),
    [
        ([], []),
        ([span(5, 8), span(0, 3)], [span(0, 3), span(5, 8)]),
        ([span(0, 5), span(3, 8)], [span(0, 8)]),
        ([span(0, 8), span(2, 4, "LOCATION", 0.99)], [span(0, 8, "LOCATION", 0.99)]),
        ([span(0, 8, "PERSON", 0.85), span(4, 12, "LOCATION", 0.5, "pattern")], [span(0, 12, "LOCATION", 0.85, "pattern")]),
        (
            [span(0, 16, "PHONE_NUMBER", 0.9, "pattern"), span(0, 16, "CREDIT_CARD", 1.0, "checksum")],
            [span(0, 16, "CREDIT_CARD", 1.0, "checksum")],
        ),
        ([span(0, 4), span(4, 8)], [span(0, 4), span(4, 8)]),
    ],
)
def test_overlapping_spans_become_one_that_is_named_by_the_strongest(spans, result):
    assert merged(spans, "x" * 20) == result


def test_places_with_only_a_comma_between_are_one_place():
    text = "27 Quay Mews, Exeter and Rome"
    assert merged([span(0, 12, "LOCATION"), span(14, 20, "LOCATION"), span(25, 29, "LOCATION")], text) == [
        span(0, 20, "LOCATION"),
        span(25, 29, "LOCATION"),
    ]


@pytest.mark.parametrize(
    ("found", "entity", "kept"),
    [
        ("Ruth Pemberton", "PERSON", "Ruth Pemberton"),
        (" Ruth, ", "PERSON", "Ruth"),
        ("UK", "LOCATION", None),
        ("the UK", "LOCATION", None),
        ("ATM", "PERSON", None),
        ("PIN", "LOCATION", None),
        ("Brindle Bank", "PERSON", None),
        ("Dad", "PERSON", None),
        ("George Best", "PERSON", "George Best"),
        ("ex-Zombie Bergman", "PERSON", "ex-Zombie Bergman"),
        ("gym locker", "PERSON", None),
        ("09:14:03 INFO", "PERSON", None),
        ("spain", "LOCATION", "spain"),
        ("...", "PERSON", None),
    ],
)
def test_what_cannot_be_personal_data_is_dropped(found, entity, kept):
    result = plausible(span(0, len(found), entity), found)
    assert (found[result.start : result.end] if result else None) == kept


def test_brackets_and_signs_of_numbers_stay_in_the_span():
    text = "(312) 555-0147"
    assert plausible(span(0, 14, "PHONE_NUMBER", 0.4, "pattern"), text) == span(0, 14, "PHONE_NUMBER", 0.4, "pattern")


def test_a_name_is_known_whole_and_by_its_longer_words():
    text = "Dear Al Moor, write to al@post.example"
    values = known([span(5, 12), span(23, 38, "EMAIL_ADDRESS")], text)
    assert values == {"Al Moor": "PERSON", "Moor": "PERSON", "al@post.example": "EMAIL_ADDRESS"}


def test_known_values_are_found_as_words_of_their_own_and_outside_other_spans():
    text = "Moor of Moorland, moor, Moor."
    assert [(one.start, one.end) for one in repeated({"Moor": "PERSON"}, text)] == [(0, 4), (24, 28)]
    assert [(one.start, one.end) for one in repeated({"Moor": "PERSON"}, text, besides=[span(20, 30)])] == [(0, 4)]
    assert repeated({}, text) == []


def test_each_span_is_replaced_by_its_type():
    assert replaced("Call Ann on 555-0100!", [span(5, 8), span(12, 20, "PHONE_NUMBER")]) == "Call <PERSON> on <PHONE_NUMBER>!"
    assert replaced("Ann", [span(0, 3)]) == "<PERSON>"
    assert replaced("nobody", []) == "nobody"


def test_overlapping_spans_are_refused_by_name():
    with pytest.raises(OverlappingSpans, match="PERSON at 0-5 and NAME at 4-9 overlap"):
        replaced("x" * 10, [span(0, 5), span(4, 9, "NAME")])


def repeated_by_one_expression(found, text, besides):
    either = "|".join(regex.escape(value) for value in sorted(found, key=len, reverse=True))
    matches = regex.finditer(rf"(?<![\p{{L}}\p{{N}}])(?:{either})(?![\p{{L}}\p{{N}}])", text)
    spans = [Span(match.start(), match.end(), found[match.group()], 0.85, "pattern") for match in matches]
    return [one for one in spans if all(one.end <= other.start or other.end <= one.start for other in besides)]


def test_a_value_is_found_again_as_by_one_expression_of_all_values():
    draw, again = random.Random(2), 0
    words = [
        "Anna",
        "Anna Lund",
        "Lund",
        "annals",
        "Annapolis",
        "Anna\u0301",
        "\u00e9Anna",
        "Anna1",
        "Anna\u00b2",
        "\u0661Lund",
        "-",
        " ",
        "  ",
        ".",
    ]
    for _ in range(3000):
        text = "".join(draw.choice(words) + draw.choice(["", " ", "_", "\n"]) for _ in range(draw.randrange(1, 9)))
        places = sorted(draw.sample(range(len(text) + 1), min(len(text) + 1, draw.choice([0, 2, 4]))))
        besides = [span(start, end) for start, end in zip(places[::2], places[1::2], strict=False)]
        found = dict.fromkeys(draw.sample(["Anna", "Anna Lund", "Lund", "Zoe"], draw.randrange(1, 4)), "PERSON")
        want = repeated_by_one_expression(found, text, besides)
        assert repeated(found, text, besides=besides) == want
        again += bool(want)
    assert again > 300
