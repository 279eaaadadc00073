"""What people see of the rows as the model is given them."""

import re

from fine_tune_pipeline.artifacts.lengths import lengths
from fine_tune_pipeline.guide.environment.texts import labelled, long_rows, texts_page, token_lengths, truncation
from fine_tune_pipeline.pages.document import html, markdown
from fine_tune_pipeline.programs.preflight_requests import LabelledRow, LongRow, PartTokens, Piece, Rendered, TokenLengths
from fine_tune_pipeline_tests.guide.environment.test_preflight import seen


def part(name: str, *sizes: int, long: tuple[tuple[str, int], ...] = ()) -> PartTokens:
    found = TokenLengths(**vars(lengths(sizes)))
    return PartTokens(
        part=name,
        lengths={"prompt": found, "completion": found, "whole": found},
        over_long=len(long),
        long_rows=tuple(LongRow(id=id, tokens=tokens) for id, tokens in long),
        labelled=6,
        least_labelled=(LabelledRow(id="7", labelled=2, tokens=90),),
    )


SEEN = seen(
    rows=5,
    over_long=("7",),
    parts=(part("train", 10, 20, 90, long=(("7", 90),)), part("validation", 10, 10), part("test", 300, long=(("t", 300),))),
    preview=(
        Rendered(
            id="7",
            prompt="<bos>Input: a ``` b\n# no heading\nOutput:",
            completion=" <b>x</b><eos>",
            tokens=9,
            pieces=(
                Piece(text="<bos>", tokens=1, learned=False, special=True),
                Piece(text="Input: a ``` b\n# no heading\nOutput:", tokens=4, learned=False),
                Piece(text=" <b>x</b>", tokens=3, learned=True),
                Piece(text="<eos>", tokens=1, learned=True, special=True),
            ),
        ),
    ),
)


def test_lengths_and_limit_are_told_part_by_part():
    rows = token_lengths(SEEN)
    assert [(row["part"], row["text"]) for row in rows[:3]] == [("train", "prompt"), ("train", "completion"), ("train", "whole")]
    assert rows[2] == {"part": "train", "text": "whole", "rows": 3, "p50": 20, "p90": 90, "p99": 90, "longest": 90, "total": 120}
    assert [tuple(row.values()) for row in truncation(SEEN, max_length=64)] == [
        ("train", 3, 64, 90, 1, "7"), ("validation", 2, 64, 10, 0, "none"), ("test", 1, 64, 300, 1, "t"),
    ]  # fmt: skip


def test_test_rows_do_not_count_as_left_out_of_training():
    assert "1 of 5 training and validation rows are longer than max_length (64 tokens)" in markdown(
        texts_page(SEEN, max_length=64, use_case="x")
    )


def test_every_over_long_row_is_told_with_its_part_and_its_tokens():
    assert long_rows(SEEN, max_length=64) == [
        {"id": "7", "part": "train", "tokens": 90, "max_length": 64}, {"id": "t", "part": "test", "tokens": 300, "max_length": 64},
    ]  # fmt: skip


def test_the_labelled_share_is_told_with_the_rows_that_have_the_least():
    assert labelled(SEEN)[0] == {"part": "train", "tokens": 120, "labelled": 6, "share": 0.05, "lowest": "7 (2 of 90, 2.2%)"}


def test_a_rejected_answer_is_told_and_has_a_colour_of_its_own():
    rejected = SEEN.preview[0].model_copy(update={"answer": "rejected"})
    page = html(texts_page(SEEN.model_copy(update={"preview": (rejected,)}), max_length=64, use_case="x"))
    assert "7, rejected answer: 4 of 9 tokens are learned against" in page
    assert '<span class="learned against"> &lt;b&gt;x&lt;/b&gt;</span>' in page
    assert "what is learned against is red" in page
    assert 'class="learned against"' not in html(texts_page(SEEN, max_length=64, use_case="x"))


def test_text_is_shown_as_it_is_whatever_marks_it_holds():
    page = texts_page(SEEN, max_length=64, use_case="x")
    assert "    ‹<bos>›Input: a ``` b\n    # no heading\n    Output:⟦ <b>x</b>‹<eos>›⟧\n" in markdown(page)
    shown = html(page)
    assert "<script" not in shown
    assert '<pre><span class="special">&lt;bos&gt;</span>Input: a ``` b\n# no heading\nOutput:<span class="learned"> &lt;b&gt;x' in shown
    assert '&lt;/b&gt;</span><span class="special learned">&lt;eos&gt;</span></pre>' in shown
    assert "7: 4 of 9 tokens are learned" in shown


def test_the_page_needs_nothing_beside_it():
    assert not re.search(r"(src|href)=|url\(|@import", html(texts_page(SEEN, max_length=64, use_case="x")))
