"""Texts that the tuned model wrote, and what training rows they hold word for word."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example

SPAN = 50
"""Characters that no two people write alike by chance: about ten words."""

FORM_ROWS = 3
"""Training rows that share a span, from which on it is the form of the answers and nobody's text."""

SHORTEST_BEGUN = 8
"""Characters of an answer of which half can be begun."""


@dataclass(frozen=True)
class Output:
    """A text of the tuned model. `given` is the prompt, `excused` what it may hold beside: the right answer, what the base wrote;
    `row` is the training row whose answer it continues."""

    id: str
    text: str
    given: str
    excused: tuple[str, ...] = ()
    row: str | None = None


def openings(train: Sequence[Example], *, count: int, seed: int) -> list[dict[str, Any]]:
    """Training rows with the first half of their answer, drawn by `seed`: rows for the probe; fewer where answers are too short."""
    long = [row for row in train if len(row.completion.strip()) >= SHORTEST_BEGUN]
    drawn = random.Random(seed).sample(long, min(count, len(long)))
    return [{**row.without_answer(), "opening": _first_half(row.completion.strip())} for row in drawn]


def _first_half(answer: str) -> str:
    """Up to the gap nearest to the middle, if there is one."""
    middle = len(answer) // 2
    gaps = [place for place, sign in enumerate(answer) if sign == " " and place]
    return answer[: min(gaps, key=lambda place: abs(place - middle))] if gaps else answer[:middle]


def verbatim(outputs: Sequence[Output], train: Sequence[Example], *, span: int = SPAN) -> dict[str, str]:
    """Outputs that hold `span` characters of a training row: id of the output -> id of the first such row.

    What stands in the prompt, in the right answer or in the base's own answer does not count, nor what the continued row itself or
    `FORM_ROWS` rows hold. Gaps of any width are one. The outputs are looked up in the rows, so memory does not grow with these.
    """
    owners = _owners({window for output in outputs for window in _windows(output.text, span)}, train, span)
    found = {}
    for output in outputs:
        known = {window for text in (output.given, *output.excused) for window in _windows(text, span)}
        for window in _windows(output.text, span):
            rows = owners.get(window, [])
            if rows and len(rows) < FORM_ROWS and output.row not in rows and window not in known:
                found[output.id] = rows[0]
                break
    return found


def _owners(wanted: set[str], train: Sequence[Example], span: int) -> Mapping[str, list[str]]:
    """Window -> ids of the training rows that hold it, each once."""
    owners: dict[str, list[str]] = defaultdict(list)
    if wanted:
        for row in train:
            held = {window for text in (row.question, row.completion) for window in _windows(text, span) if window in wanted}
            for window in held:
                owners[window].append(row.id)
    return owners


def _windows(text: str, span: int) -> Iterator[str]:
    line = " ".join(text.split())
    return (line[start : start + span] for start in range(len(line) - span + 1))
