"""The picture of what is learned: SVG that holds any text, in lines that fit."""

import base64
import re
from xml.etree import ElementTree

import pytest
from wcwidth import wcswidth

from fine_tune_pipeline.guide.environment.mask_picture import COLUMNS, markdown_mask, svg, wrapped
from fine_tune_pipeline.programs.learned_text import Span
from fine_tune_pipeline.programs.preflight_requests import Piece, Rendered

SVG = "{http://www.w3.org/2000/svg}"


def rendered(*pieces: Piece, id: str = "a") -> Rendered:
    return Rendered(id=id, prompt="", completion="", tokens=sum(piece.tokens for piece in pieces), pieces=pieces)


def piece(text: str, *, learned: bool = False, special: bool = False) -> Piece:
    return Piece(text=text, tokens=1, learned=learned, special=special)


def drawn(row: Rendered) -> list[list[tuple[str, str]]]:
    """(class, text) of every stretch in every line below the row's heading."""
    root = ElementTree.fromstring(svg([row], title="x"))
    lines = [[(part.get("class") or "", part.text or "") for part in line] for line in root.iter(f"{SVG}text")]
    return lines[2:]


def test_learned_read_and_special_have_classes_of_their_own():
    row = rendered(piece("<bos>", special=True), piece("Output:"), piece(" yes", learned=True), piece("<eos>", learned=True, special=True))
    assert drawn(row) == [[("special", "<bos>"), ("", "Output:"), ("learned", " yes"), ("special learned", "<eos>")]]
    assert "a: 2 of 4 tokens are learned" in svg([row], title="x")


def test_a_rejected_answer_is_red_and_the_legend_says_so():
    row = rendered(piece("Output:"), piece(" no", learned=True)).model_copy(update={"answer": "rejected"})
    assert drawn(row) == [[("", "Output:"), ("learned against", " no")]]
    picture = svg([row.model_copy(update={"answer": "preferred"}), row], title="x")
    assert "a, preferred answer: 1 of 2 tokens are learned<" in picture
    assert "a, rejected answer: 1 of 2 tokens are learned against<" in picture
    assert '<tspan class="learned against">learned against</tspan>' in picture
    assert "learned against<" not in svg([row.model_copy(update={"answer": None})], title="x")


def test_no_text_of_a_row_becomes_a_tag():
    hostile = "</text></svg><script>alert(1)</script> & ]]> <!-- \x00\x1b\ufffe \"'"
    row = rendered(piece(hostile), piece(hostile, learned=True), id="</svg>&")
    root = ElementTree.fromstring(svg([row], title="</title>"))
    assert {element.tag for element in root.iter()} == {f"{SVG}{name}" for name in ("svg", "title", "style", "rect", "text", "tspan")}
    said = "".join(text for line in drawn(row) for kind, text in line if kind == "")
    assert said.startswith("</text></svg><script>alert(1)</script> & ]]> <!-- ␀␛[U+FFFE]")


@pytest.mark.parametrize(
    "text",
    [
        "word " * 200,
        "x" * 500,
        "漢字" * 150,
        "مرحبا بالعالم " * 40,
        "👩\u200d👩\u200d👧" * 90,
        "e\u0301" * 300,
        "क्षि" * 100,
        "a\n" * 5 + "b" * 200,
    ],
    ids=["words", "one word", "CJK", "Arabic", "families", "accents", "Devanagari", "lines"],
)
def test_lines_fit_and_together_are_the_whole_text(text: str):
    lines = wrapped([Span(text, learned=False)], columns=40)
    whole = ["".join(span.text for span in line) for line in lines]
    assert "".join(whole) == text.replace("\n", "↵")
    assert max(map(wcswidth, whole)) <= 40
    assert all(not line.startswith(("\u200d", "\u0301")) for line in whole), "a letter was cut"


def test_lines_break_between_words_and_a_line_of_the_text_is_a_line():
    found = wrapped([Span("one two three", learned=False), Span(" four\n\nfive", learned=True)], columns=10)
    assert [[(span.text, span.learned) for span in line] for line in found] == [
        [("one two ", False)], [("three", False), (" ", True)], [("four↵", True)], [("↵", True)], [("five", True)],
    ]  # fmt: skip


def test_a_special_token_wider_than_a_line_is_not_cut():
    name = "<" + "x" * 60 + ">"
    found = wrapped([Span("ab", learned=False), Span(name, learned=False, special=True), Span("c", learned=False)], columns=40)
    assert [[span.text for span in line] for line in found] == [["ab"], [name], ["c"]]


def test_a_long_row_is_told_with_what_is_left_out_and_the_picture_stays_small():
    rows = [rendered(piece("漢" * 20_000), piece("word " * 20_000, learned=True)) for _ in range(3)]
    picture = markdown_mask(rows, title="What is learned")
    found = re.fullmatch(r"!\[What is learned\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", picture)
    assert found is not None
    assert len(picture) < 50_000
    assert "… 19,600 characters …" in base64.b64decode(found[1]).decode()


def test_without_rows_there_is_a_sentence():
    assert markdown_mask([], title="x") == "No row became tokens; the table of mistakes says why."


def test_the_picture_is_as_high_as_its_lines():
    root = ElementTree.fromstring(svg([rendered(piece("line\n" * 30))], title="x"))
    last = max(float(line.get("y") or 0) for line in root.iter(f"{SVG}text"))
    assert last < float(root.get("height") or 0) < last + 40
    assert float(root.get("width") or 0) > COLUMNS * 8
