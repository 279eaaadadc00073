"""Repairs change how a text is written, not what it says."""

import pytest

from fine_tune_pipeline.guide.dataset.cleaning.mend import mend, mend_answer


@pytest.mark.parametrize(
    ("text", "better", "repairs"),
    [
        ("fine as it is, £5 – café", "fine as it is, £5 – café", []),
        ("cafe\u0301", "caf\u00e9", ["unicode_form"]),
        ("cafÃ© isnâ€™t Â£5 ðŸ˜€", "café isn’t £5 😀", ["mojibake"]),
        ("50â‚¬ in der StraÃŸe von Ä°stanbul, cafÃƒÂ©", "50€ in der Straße von İstanbul, café", ["mojibake"]),
        ("CAFÉ™ Ärger señor", "CAFÉ™ Ärger señor", []),
        ("in\u200bvis\ufeffible \u202etext\u202c", "invisible text", ["invisible_characters"]),
        ("bell\x07 and null\x00", "bell and null", ["invisible_characters"]),
        ("par\u200dt", "part", ["invisible_characters"]),
        ("👩\u200d👧 می\u200cخواهم", "👩\u200d👧 می\u200cخواهم", []),
        ("  a \t b\u00a0 c  ", "a b c", ["whitespace"]),
        ("one \r\ntwo\u2028three\n\n\n\nfour", "one\ntwo\nthree\n\nfour", ["whitespace"]),
        ("<p>My card&nbsp;was <b>eaten</b>.<br>Why?</p>", "My card was eaten.\nWhy?", ["html", "whitespace"]),
        ("<style>p {color: red}</style><p>a &lt;b&gt; c</p><!-- d -->", "a <b> c", ["html", "whitespace"]),
        ("if a < b and c > d, use <NAME> &amp; co", "if a < b and c > d, use <NAME> &amp; co", []),
        ("Where is it?\n-- \nAnn Smith\nHead of Tulips", "Where is it?", ["mail_footer"]),
        ("Where is it?\n\nSent from my iPhone", "Where is it?", ["mail_footer"]),
        ("Where?\nThis e-mail and its attachments are confidential and intended for you.\nx", "Where?", ["mail_footer"]),
        ("Sent from my iPhone", "Sent from my iPhone", []),
        ("it was sent from my account to hers", "it was sent from my account to hers", []),
        ("def f():\n    return 1", "def f():\n    return 1", []),
        (" \u200b\n ", "", ["invisible_characters", "whitespace"]),
    ],
)
def test_a_prompt_is_mended_and_each_repair_is_named(text, better, repairs):
    assert mend(text) == (better, repairs)


def test_gaps_inside_an_answer_stay():
    assert mend_answer(' {"a":  "b\t c"}\n') == ('{"a":  "b\t c"}', ["whitespace"])


def test_marks_in_an_answer_stay():
    assert mend_answer("<b>Yes</b>\n-- \nthe team") == ("<b>Yes</b>\n-- \nthe team", [])


@pytest.mark.parametrize("text", ["<p>a</p><br><p>b &amp;amp; c</p>\n-- \nx", "cafÃ© \u200b x", "a  b", "one \n\n\n two", "ÃÂ©Â"])
def test_mending_twice_changes_nothing_more(text):
    once, _ = mend(text)
    assert mend(once) == (once, [])
