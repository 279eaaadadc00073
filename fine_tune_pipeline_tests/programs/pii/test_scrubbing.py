"""The detector with its real model: what it finds, and that it never opens a connection."""

import subprocess
import sys

import pytest

from fine_tune_pipeline.guide.dataset.scrubbing.residue import kinds
from fine_tune_pipeline.programs.pii import scrubbing
from fine_tune_pipeline.programs.pii.scrubbing import LONGEST_TEXT, TooLongToScrub, UnknownEntity, WrongNerWeights, detector, scrub_text
from fine_tune_pipeline.spec.dataset import PiiSpec


@pytest.fixture(scope="module")
def detect():
    return detector(PiiSpec())


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("My name is Julia Fischer, mail julia@fischer.example", "My name is <PERSON>, mail <EMAIL_ADDRESS>"),
        ("Yesterday Barack Obama lost his card in Nairobi.", "Yesterday <PERSON> lost his card in <LOCATION>."),
        ("card 5555-5555-5555-4444, ssn 536-90-4399?", "card <CREDIT_CARD>, ssn <US_SSN>?"),
        ("from 192.168.17.4 to DE89 3704 0044 0532 0130 00", "from <IP_ADDRESS> to <IBAN_CODE>"),
        ("Julia Fischer called. Fischer is angry.", "<PERSON> called. <PERSON> is angry."),
        ("The ATM in the UK ate my card and asked for the PIN", "The ATM in the UK ate my card and asked for the PIN"),
        ("It happened on Monday at 10:30", "It happened on Monday at 10:30"),
        ("", ""),
    ],
)
def test_personal_data_is_replaced_and_bank_words_and_dates_stay(detect, text, clean):
    assert scrub_text(text, detector=detect) == clean


def test_texts_in_a_batch_are_as_texts_alone(detect):
    texts = ["Julia Fischer called", "nothing here", "call +44 7700 900518"] * 30
    together = detect(texts)
    assert together[:3] == [detect([text])[0] for text in texts[:3]]
    assert together[3:] == together[:3] * 29


def test_only_the_entities_of_the_use_case_are_found():
    only = detector(PiiSpec(entities=["EMAIL_ADDRESS"]))
    assert scrub_text("Julia Fischer, julia@fischer.example", detector=only) == "Julia Fischer, <EMAIL_ADDRESS>"


def test_patterns_alone_see_no_names(detect):
    text = "Julia Fischer 4111 1111 1111 1111"
    assert [span.entity for span in detect.patterns(text)] == ["CREDIT_CARD"]


def test_an_unknown_entity_is_named_with_those_that_are_known():
    with pytest.raises(UnknownEntity, match=r"dataset\.pii\.entities: got SHOE_SIZE, want some of .*PERSON"):
        detector(PiiSpec(entities=["PERSON", "SHOE_SIZE"]))


def test_a_text_that_the_model_cannot_take_is_refused(detect):
    with pytest.raises(TooLongToScrub, match="text 1 has"):
        detect(["short", "x" * (LONGEST_TEXT + 1)])


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(scrubbing, "NER_SHA256", "0" * 64)
    with pytest.raises(WrongNerWeights, match="want 0000"):
        scrubbing._check_weights()


@pytest.mark.parametrize(
    "text",
    [
        "ANN@POST.EXAMPLE", "<ann@post.example>", "mailto:ann_b-c@mail.post.example;", "gb82 west 1234 5698 7654 32 and more words",
        "GB82-WEST-1234-5698-7654-32", "4111.1111.1111.1111", "card:4111 1111 1111 1111,+447700900518", "+1(312)5550147",
        "+49 (0)30 901820", "IBANDE89370400440532013000", "x4111111111111111y",
    ],
)  # fmt: skip
def test_nothing_that_the_independent_look_would_find_is_left(detect, text):
    assert kinds(scrub_text(text, detector=detect)) == set()


OFFLINE = """
import socket

def refuse(*args, **kwargs):
    raise SystemExit("a connection was tried: %r" % (args[1:],))

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse

from fine_tune_pipeline.programs.pii.scrubbing import detector, scrub_text
from fine_tune_pipeline.spec.dataset import PiiSpec

print(scrub_text("write to ann@example.org or b@bank.co.uk, http://post.example", detector=detector(PiiSpec())))
"""


def test_not_one_connection_is_tried_from_the_start_to_the_first_address():
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "write to <EMAIL_ADDRESS> or <EMAIL_ADDRESS>, http://post.example"
