import pytest

from fine_tune_pipeline.resources.compute.job import TAIL_LINES
from fine_tune_pipeline.resources.compute.output import Output


def taken(*chunks: bytes) -> Output:
    output = Output()
    for chunk in chunks:
        output.take(chunk)
    return output


def test_letters_and_lines_that_are_cut_anywhere_come_out_whole(capsys: pytest.CaptureFixture[str]):
    text = "Grüße, 東京\nsecond line\n"
    output = taken(*(bytes([byte]) for byte in text.encode("utf-8")))
    assert output.tail() == text
    assert capsys.readouterr().err == text
    assert output.taken_bytes == len(text.encode("utf-8"))


def test_only_the_last_lines_are_kept():
    output = taken(b"".join(b"line %d\n" % number for number in range(TAIL_LINES + 5)), b"unfinished")
    lines = output.tail().splitlines()
    assert len(lines) == TAIL_LINES
    assert (lines[0], lines[-1]) == ("line 6", "unfinished")


def test_a_progress_bar_is_shown_as_a_screen_shows_it():
    assert taken(b"10%\r20%", b"\r30", b"%\nnext").tail() == "30%\nnext"
    assert taken(b"of Windows\r\n", b"again\r", b"\n").tail() == "of Windows\nagain\n"
