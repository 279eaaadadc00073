"""What the rules find beside Presidio, and what they leave alone. None of these texts is from the built-in use case."""

import pytest

from fine_tune_pipeline.programs.pii.personal_data import Span, lowered, merged
from fine_tune_pipeline.programs.pii.recognizers import addresses, listed, lists, rules
from fine_tune_pipeline_tests.programs.pii.hostile_texts import hostile_texts

ALL = ("AGE", "DATE_TIME", "LOCATION", "NRP", "ORGANIZATION", "PERSON", "PHONE_NUMBER", "TITLE", "ZIP_CODE")


def found(text, *entities):
    spans = merged(rules.find(text, entities or ALL), text)
    return [(span.entity, text[span.start : span.end]) for span in spans]


@pytest.mark.parametrize(
    "address",
    [
        "14 Rue des Lilas 8\n Apt. 12\n Nantes\n France 44000",
        "4820 Birkenallee 7 Suite 310, Oberdorf, Switzerland 81220",
        "77 Harbour View\nPortsville, ME 04101",
        "PSC 1412, Box 77\nAPO AE 09123",
        "USS Halyard\nFPO AP 96601",
        "P.O. Box 219 Suite 4, Nuuk, Greenland",
        "Lindenstraße 12, 10969 Berlin",
        "ul. Polna 14",
        "Kossuth u. 9.",
        "the corner of Elm Street and 5 Mill Road",
        "12 long mill 4 apt. 9\nhamar, norway 23170",
    ],
)
def test_an_address_is_found_to_its_end(address):
    assert found(f"please send it to {address}", "LOCATION") == [("LOCATION", address.rstrip("."))]


@pytest.mark.parametrize(
    "text",
    [
        "I paid 20 Euros, twice in 2019",
        "order 4512 left on 12 March 2024 from warehouse 3",
        "5 people, 10 laptops and 2 servers in room B",
        "version 3 of Python runs on 4 cores, 16000 jobs",
        "up 12 per cent to 34567 on 3 cards",
        "via app 3 times",
    ],
)
def test_numbers_that_count_are_no_house_numbers(text):
    assert found(text, "LOCATION") == []


def test_an_address_that_somebody_else_found_is_taken_to_its_end():
    text = "9 Quay Walk\nApt. 3\nDunmore, Ireland 12345, thanks"
    grown = addresses.grown(Span(0, 11, "LOCATION"), text)
    assert text[grown.start : grown.end] == "9 Quay Walk\nApt. 3\nDunmore, Ireland 12345"


@pytest.mark.parametrize(
    ("text", "entity", "value"),
    [
        ("Name:   oona kettlewell\nOther: x", "PERSON", "oona kettlewell"),
        ("Full name: Zed Quon, Status: open", "PERSON", "Zed Quon"),
        ("> Patient: R. Okonjo Title: none", "PERSON", "R. Okonjo"),
        ("Where: grimwold hall.", "LOCATION", "grimwold hall"),
        ("Phone: 55-61-22-8", "PHONE_NUMBER", "55-61-22-8"),
        ("ZIP: 4410", "ZIP_CODE", "4410"),
        ("Company: Frobozz", "ORGANIZATION", "Frobozz"),
        ("DOB: 3/4/1971", "DATE_TIME", "3/4/1971"),
        ("Occupation: lamp lighter", "TITLE", "lamp lighter"),
        ("Age: 44", "AGE", "44"),
    ],
)
def test_what_stands_behind_a_label_is_found(text, entity, value):
    assert (entity, value) in found(text)


def test_a_postcode_behind_a_label_is_a_place_where_nobody_asks_for_postcodes():
    assert found("ZIP: 4410", "LOCATION") == [("LOCATION", "4410")]


@pytest.mark.parametrize(
    "text", ["Name: see below", "When: soon", "Phone: none", "Address: same as before", "Contact: a@b.example, Subject: x"]
)
def test_labels_without_a_value_are_nothing(text):
    assert found(text, "PERSON", "LOCATION", "DATE_TIME", "PHONE_NUMBER") == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("i spoke to beatrix yesterday", ["beatrix"] if "beatrix" in lists.names().given else []),
        ("this is gregor lund.", ["gregor lund"]),
        ("Then Gregor M. van Lund called", ["Gregor M. van Lund"]),
        ("maria lost her card", ["maria"]),
        ("we met Jean-Luc Moreau", ["Jean-Luc Moreau"]),
        ("He asked Will Turner", ["Will Turner"]),
        ("Gregor I'll wait", ["Gregor"]),
        ("will you mark this? may i grant it, rose petals, a bill in april", []),
        ("Hope Street is closed, said Grace Hospital", []),
        ("see gregor.lund.example/gregor and gregor_1", []),
        ("Penny for it", []),
    ],
)
def test_people_are_found_by_their_given_names_also_in_small_letters(text, names):
    assert [value for entity, value in found(text, "PERSON")] == names


@pytest.mark.parametrize(
    ("text", "entity", "values"),
    [
        ("flying from lisbon to New York city", "LOCATION", ["lisbon", "New York city"]),
        ("a lisbon-based firm, lisbons", "LOCATION", ["lisbon"]),
        ("two norwegians and a Swiss", "NRP", ["norwegians", "Swiss"]),
        ("My name appears wrong. Last name? Quon", "PERSON", ["Quon"]),
        ("a film directed by Zed Quon and starring Ilka", "PERSON", ["Zed Quon", "Ilka"]),
        ("Dear Zed, hello", "PERSON", ["Zed"]),
        ("Dear Customer, hello", "PERSON", []),
        ("thanks @zed_q! mail a@b.example", "PERSON", ["zed_q"]),
        ("RT @ zedq : so", "PERSON", ["zedq"]),
        ("meet me @ noon or @ 5pm", "PERSON", []),
        ("Mr. Quon and dr Moe", "TITLE", ["Mr.", "dr"]),
        ("Zed Quon\nDrum technician\nHull", "TITLE", ["Drum technician"]),
        ("I work as a night nurse at home", "TITLE", ["night nurse"]),
        ("Frobozz Magic Inc. and the Company", "ORGANIZATION", ["Frobozz Magic Inc."]),
        ("ask Quill, Dart and Moss", "ORGANIZATION", ["Quill, Dart and Moss"]),
        ("between May, June and July", "ORGANIZATION", []),
        ("a 61-year-old, aged 7, turned 30", "AGE", ["61", "7", "30"]),
        ("at 2020-02-03 04:05:06 sharp", "DATE_TIME", ["2020-02-03 04:05:06"]),
        ("my zip code is 99501", "ZIP_CODE", ["99501"]),
    ],
)
def test_phrases_and_lists(text, entity, values):
    assert found(text, entity) == [(entity, value) for value in values]


def model(text, value, entity="PERSON"):
    start = text.index(value)
    spans = rules.tidied([Span(start, start + len(value), entity)], text)
    return [text[span.start : span.end] for span in spans]


@pytest.mark.parametrize(
    ("text", "value", "entity", "result"),
    [
        ("RT from Zed Quon http://x.example/1", "Zed Quon http://x.example/1", "PERSON", ["Zed Quon"]),
        ("Zed Quon Title: x", "Zed Quon Title", "PERSON", ["Zed Quon"]),
        ("Zed Quon\nPhone", "Zed Quon\nPhone", "PERSON", ["Zed Quon", "Phone"]),
        ("Zed I'll", "Zed I'll", "PERSON", ["Zed"]),
        ("then Ana Quon left", "Ana", "PERSON", ["Ana Quon"]),
        ("then Ana Quon left", "Quon", "PERSON", ["Ana Quon"]),
        ("Ana's Tales", "Ana's", "PERSON", ["Ana's"]),
        ("Ana Senior Vice", "Ana", "PERSON", ["Ana"]),
        ("LOL", "LOL", "ORGANIZATION", []),
        ("the Borrower", "the Borrower", "PERSON", []),
        ("the Option Agreement", "the Option Agreement", "ORGANIZATION", []),
        ("frobozz", "frobozz", "ORGANIZATION", []),
        ("Bath\nSomerset", "Bath\nSomerset", "LOCATION", ["Bath\nSomerset"]),
    ],
)
def test_findings_of_the_model_are_put_right(text, value, entity, result):
    assert model(text, value, entity) == result


def test_findings_of_patterns_are_left_as_they_are():
    span = Span(0, 3, "ORGANIZATION", 0.9, "pattern")
    assert rules.tidied([span], "LOL") == [span]


def test_no_word_is_in_two_lists_of_names():
    assert not lists.names().given & lists.names().also_words
    assert all(word == word.casefold() for part in vars(lists.names()).values() for word in part)


ADDRESSES = [
    "PSC 1412, Box 77, APO AE 09123", "uss Halyard FPO AP 96601", "p.o. BOX 219", "Postfach 12", "APARTADO 7",
    "Linden\u017ftraße 12", "LINDENSTRASSE 12",
    "LINDENSTRAẞE 12", "HAUPTBRÜC\u212aE 4", "V\u0130A Roma 5",
    "rue de Nantes 14", "Kossuth utca 9", "Kossuth u. 9", "the CORNER OF Elm and 5 Mill",
]  # fmt: skip


def test_no_start_of_an_address_is_left_out_of_a_text_that_it_matches():
    matched = set()
    for text in [*ADDRESSES, *hostile_texts(300, seed=8)]:
        for place, (pattern, _, words) in enumerate(addresses._heads()):
            if pattern.search(text) is not None:
                matched.add(place)
                assert any(word in lowered(text) for word in words), (pattern.pattern, text)
    assert len(matched) == len(addresses._heads())


@pytest.mark.parametrize(
    "text",
    ["mary", "MARY-ANN", "Jean-\u017faul", "Will Turner", "in new york", "French", "Ma\u0301ria", "zzz", "Berlin-Mitte", "\u212aevin"],
)
def test_a_text_without_any_listed_word_is_the_only_one_that_is_not_read(text, monkeypatch):
    quick = listed.find(text, ALL)
    monkeypatch.setattr(listed, "_listed", lambda: frozenset(word.casefold().partition("-")[0] for word in listed._word().findall(text)))
    assert listed.find(text, ALL) == quick


def test_a_handle_is_a_person_but_not_what_stands_for_a_side_or_for_all():
    assert found("thanks @marta_k", "PERSON") == [("PERSON", "marta_k")]
    assert found("thanks @user, ask @Assistant; @here and @channel and @everyone", "PERSON") == []
    assert found("thanks @username7", "PERSON") == [("PERSON", "username7")]
