"""Rows as plain text with marks around what is learned."""

from fine_tune_pipeline.programs.learned_text import Span, log_lines, marked, spans, visible
from fine_tune_pipeline.programs.preflight_requests import Piece, Rendered


def piece(text: str, *, learned: bool = False, special: bool = False) -> Piece:
    return Piece(text=text, tokens=1, learned=learned, special=special)


ROW = (piece("<bos>", special=True), piece("Output:"), piece(" yes", learned=True), piece("<eos>", learned=True, special=True))


def test_learned_text_and_special_tokens_stand_between_marks():
    [text], legend = marked([spans(ROW)])
    assert text == "‹<bos>›Output:⟦ yes‹<eos>›⟧"
    assert legend.startswith("⟦learned⟧, the rest is only read; ‹special› is one token")


def test_marks_that_stand_in_a_text_are_doubled_for_all_rows():
    texts, legend = marked([spans(ROW), spans([piece("a ⟧ b"), piece("c ‹‹ d", learned=True)])])
    assert texts == ["‹‹‹<bos>›››Output:⟦⟦ yes‹‹‹<eos>›››⟧⟧", "a ⟧ b⟦⟦c ‹‹ d⟧⟧"]
    assert legend.startswith("⟦⟦learned⟧⟧")


def test_characters_without_a_picture_or_that_turn_the_text_are_written_out():
    assert visible("a\x1b[31m\u202eb\u200b\r\n\tc\x9b") == "a␛[31m[U+202E]b[U+200B]␍\n\tc[U+009B]"
    assert visible("नमस्ते می\u200cروم 👩\u200d👧") == "नमस्ते می\u200cروم 👩\u200d👧", "joiners belong to letters"


def test_of_a_long_stretch_the_beginning_and_the_end_are_shown_with_what_is_left_out():
    found = spans([piece("a" * 50 + "b" * 50), piece("c" * 100, learned=True)], most=20)
    assert found == [
        Span("a" * 10, learned=False), Span("… 80 characters …", learned=False, gap=True), Span("b" * 10, learned=False),
        Span("c" * 10, learned=True), Span("… 80 characters …", learned=True, gap=True), Span("c" * 10, learned=True),
    ]  # fmt: skip
    assert "[… 80 characters …]" in marked([found])[0][0]


def test_what_is_cut_is_cut_between_letters_and_special_tokens_stay_whole():
    family = "👩\u200d👩\u200d👧"
    found = spans([piece(family * 10)], most=18)
    assert [span.text for span in found] == [family, f"… {8 * len(family)} characters …", family]
    turns = spans([piece("<start_of_turn>", special=True), piece("x" * 60), piece("<end_of_turn>", special=True)], most=40)
    assert [span.text for span in turns] == ["<start_of_turn>", "xxxxx", f"… {60 - 12} characters …", "x" * 7, "<end_of_turn>"]


def test_nothing_is_left_out_of_what_fits_or_without_a_limit():
    assert [span.text for span in spans(ROW, most=len("<bos>Output:"))] == [part.text for part in ROW]
    assert spans([piece("a" * 10_000)]) == [Span("a" * 10_000, learned=False)]


def test_the_log_names_each_row():
    shown = Rendered(id="7", prompt="", completion="", tokens=4, pieces=ROW)
    assert log_lines([shown]).splitlines()[1:] == ["row 7: 2 of 4 tokens are learned:", "‹<bos>›Output:⟦ yes‹<eos>›⟧"]
