"""Pieces are exact parts of a text, small enough, under their headings, on their page, and together hold all of it."""

import random
from itertools import pairwise

import pytest

from fine_tune_pipeline.guide.dataset.sources.chunks import Piece, pieces

MARKDOWN = """Before all.

# Returns

Within 30 days.

## Refunds ##

By card.

```
# no heading
```

# Empty

# Shipping
Free.
"""


def cut(text: str, *, size: int = 1000, overlap: int = 0, headings: bool = True, page_starts: tuple[int, ...] = ()) -> list[Piece]:
    return list(pieces(text, size=size, overlap=overlap, headings=headings, page_starts=page_starts))


def shown(text: str, parts: list[Piece]) -> list[str]:
    return [text[part.start : part.end] for part in parts]


def test_a_piece_stands_under_its_path_of_headings():
    parts = cut(MARKDOWN)
    assert list(zip([part.heading for part in parts], shown(MARKDOWN, parts), strict=True)) == [
        ("", "Before all."),
        ("Returns", "Within 30 days."),
        ("Returns > Refunds", "By card.\n\n```\n# no heading\n```"),
        ("Shipping", "Free."),
    ]


def test_plain_text_has_no_headings_and_nothing_but_headings_is_text():
    assert [part.heading for part in cut("# one\ntwo", headings=False)] == [""]
    assert shown("# one\n## two", cut("# one\n## two")) == ["# one\n## two"]
    assert cut(" \n ") == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("First one here.\n\nSecond one is here. And more.", ["First one here.", "Second one is here.", "And more."]),
        ("One sentence. Another is longer.", ["One sentence.", "Another is longer."]),
        ("word another something", ["word another", "something"]),
        ("x" * 45, ["x" * 20, "x" * 20, "x" * 5]),
        ("你好世界你好世界你好。你好世界你好世界你好。", ["你好世界你好世界你好。", "你好世界你好世界你好。"]),
    ],
)
def test_a_long_text_is_cut_after_a_paragraph_else_a_sentence_a_word_anywhere(text, wanted):
    assert shown(text, cut(text, size=20)) == wanted


def test_the_next_piece_begins_with_the_last_sentence_or_words_of_the_one_before():
    text = "Aaaa bbbb cccc dddd. Eeee ffff. Gggg hhhh iiii."
    assert shown(text, cut(text, size=32, overlap=12)) == ["Aaaa bbbb cccc dddd. Eeee ffff.", "Eeee ffff. Gggg hhhh iiii."]
    assert shown("aaaa bbbb cccc dddd", cut("aaaa bbbb cccc dddd", size=14, overlap=6)) == ["aaaa bbbb cccc", "cccc dddd"]


def test_no_piece_crosses_the_end_of_a_page():
    text = "one\n\ntwo\n\nthree"
    parts = cut(text, headings=False, page_starts=(0, 5, 10))
    assert list(zip([part.page for part in parts], shown(text, parts), strict=True)) == [(1, "one"), (2, "two"), (3, "three")]


@pytest.mark.parametrize("seed", range(200))
def test_every_character_is_in_a_piece_of_the_wanted_size(seed):
    chance = random.Random(seed)
    text = "".join(chance.choice(["a", "bb", ". ", "\n", "\n\n", " ", "\u3002", "\x0c"]) for _ in range(chance.randrange(1, 400)))
    size = chance.randrange(3, 60)
    overlap = chance.randrange(0, (size + 1) // 2)
    pages = tuple(sorted({0, *(chance.randrange(len(text)) for _ in range(chance.randrange(4)))}))
    parts = cut(text, size=size, overlap=overlap, headings=False, page_starts=pages)
    held = {place for part in parts for place in range(part.start, part.end)}
    assert all(text[place].isspace() for place in range(len(text)) if place not in held)
    assert all(0 < part.end - part.start <= size and part.page for part in parts)
    assert all(text[part.start : part.end] == text[part.start : part.end].strip() for part in parts)
    assert all(one.start < two.start and one.end < two.end and one.end - two.start <= overlap for one, two in pairwise(parts))
