"""What people see of the rows as the model is given them."""

from fine_tune_pipeline.artifacts.lengths import lengths
from fine_tune_pipeline.guide.environment.texts import texts_page, token_lengths, truncation
from fine_tune_pipeline.pages.document import html, markdown
from fine_tune_pipeline.programs.preflight_requests import PartTokens, Rendered, TokenLengths
from fine_tune_pipeline_tests.guide.environment.test_preflight import seen


def part(name: str, *sizes: int, over_long: int = 0) -> PartTokens:
    found = TokenLengths(**vars(lengths(sizes)))
    return PartTokens(part=name, lengths={"prompt": found, "completion": found, "whole": found}, over_long=over_long)


SEEN = seen(
    rows=5,
    over_long=("7",),
    parts=(part("train", 10, 20, 90, over_long=1), part("validation", 10, 10), part("test", 300, over_long=1)),
    preview=(Rendered(id="7", prompt="<bos>Input: a ``` b\n# no heading\nOutput:", completion=" <b>x</b><eos>", tokens=9),),
)


def test_lengths_and_limit_are_told_part_by_part():
    rows = token_lengths(SEEN)
    assert [(row["part"], row["text"]) for row in rows[:3]] == [("train", "prompt"), ("train", "completion"), ("train", "whole")]
    assert rows[2] == {"part": "train", "text": "whole", "rows": 3, "p50": 20, "p90": 90, "p99": 90, "longest": 90, "total": 120}
    assert [(row["part"], row["rows"], row["longest"], row["over_long"]) for row in truncation(SEEN, max_length=64)] == [
        ("train", 3, 90, 1), ("validation", 2, 10, 0), ("test", 1, 300, 1),
    ]  # fmt: skip


def test_test_rows_do_not_count_as_left_out_of_training():
    assert "1 of 5 training and validation rows are longer than max_length (64 tokens)" in markdown(
        texts_page(SEEN, max_length=64, use_case="x")
    )


def test_text_is_shown_as_it_is_whatever_marks_it_holds():
    page = texts_page(SEEN, max_length=64, use_case="x")
    assert "    <bos>Input: a ``` b\n    # no heading\n    Output:\n" in markdown(page)
    assert "<pre>&lt;bos&gt;Input: a ``` b\n# no heading\nOutput:</pre>" in html(page)
    assert "<pre> &lt;b&gt;x&lt;/b&gt;&lt;eos&gt;</pre>" in html(page)
