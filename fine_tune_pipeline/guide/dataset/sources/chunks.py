"""Long text in parts that a model can read at once: by headings and pages first, then at paragraphs, sentences, words."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")
_WORD = re.compile(r"\s+")
_HEADING = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")


@dataclass(frozen=True)
class Piece:
    """`text[start:end]` of the whole, without white space around it, the headings above it and the page it stands on."""

    start: int
    end: int
    heading: str = ""
    page: int | None = None


def pieces(text: str, *, size: int, overlap: int, headings: bool, page_starts: Sequence[int] = ()) -> Iterator[Piece]:
    """Pieces in their order; none of them crosses a heading or the end of a page, and all of the text but headings is in one.

    Args:
        text: Markdown, or plain text.
        size: the most characters of a piece.
        overlap: about so many characters of a piece are the next one's beginning, from a sentence or word on; below half of `size`.
        headings: whether lines that begin with `#` are headings.
        page_starts: where the pages begin, if there are pages.
    """
    assert 2 * overlap < size, f"an overlap of {overlap} leaves no room in {size}"
    sections = [*_sections(text)] if headings else []
    if not any(text[part.start : part.end].strip() for part in sections):
        # Without headings, or with nothing but headings.
        sections = [Piece(0, len(text))]
    for section in sections:
        for page in _pages(section, page_starts):
            for start, end in _cut(text, page.start, page.end, size=size, overlap=overlap):
                yield Piece(start, end, page.heading, page.page)


def _sections(text: str) -> Iterator[Piece]:
    """What stands between headings, each part with the path of those above it."""
    path: list[tuple[int, str]] = []
    start = place = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        heading = None if fence or mark else _HEADING.match(line)
        if heading:
            yield Piece(start, place, _named(path))
            path = [(level, title) for level, title in path if level < len(heading[1])]
            path.append((len(heading[1]), heading[2]))
            start = place + len(line)
        place += len(line)
    yield Piece(start, place, _named(path))


def _named(path: Sequence[tuple[int, str]]) -> str:
    return " > ".join(title for _, title in path)


def _pages(section: Piece, starts: Sequence[int]) -> Iterator[Piece]:
    if not starts:
        yield section
        return
    first = max(bisect_right(starts, section.start), 1)
    bounds = [section.start, *(start for start in starts if section.start < start < section.end), section.end]
    for number, (start, end) in enumerate(pairwise(bounds), start=first):
        yield Piece(start, end, section.heading, number)


def _cut(text: str, start: int, end: int, *, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    before = start
    while (start := _skipped(text, start, end)) < end:
        cut = end if end - start <= size else _last_cut(text, start, size=size)
        last = start + len(text[start:cut].rstrip())
        # Behind an overlap there may be nothing but a long run of white space.
        if last > before:
            yield start, last
        before = last
        if cut == end:
            return
        start = _first_start(text, cut - overlap, cut) if overlap else cut


def _skipped(text: str, start: int, end: int) -> int:
    """The first character that is no white space."""
    return end - len(text[start:end].lstrip())


def _last_cut(text: str, start: int, *, size: int) -> int:
    """Where a piece that begins at `start` ends best: in its second half, after a paragraph, else a sentence, a word, anywhere."""
    half, most = start + size // 2 + 1, start + size
    for pattern in (_PARAGRAPH, _SENTENCE, _WORD):
        ends = [match.start() for match in pattern.finditer(text, half, most + 1) if match.start() <= most]
        if ends:
            return ends[-1]
    return most


def _first_start(text: str, start: int, cut: int) -> int:
    """Where the next piece begins within the overlap: at the first sentence, else word; at the cut if there is none."""
    for pattern in (_SENTENCE, _WORD):
        match = pattern.search(text, start, cut)
        if match and match.end() < cut:
            return match.end()
    return cut
