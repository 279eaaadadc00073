"""Texts in which people marked personal data, as they wrote them down: what the packaged NER can be trained further on."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.guide.dataset.scrubbing.scrub_file import texts_of

NER_ENTITIES = ("DATE_TIME", "LOCATION", "NRP", "ORGANIZATION", "PERSON")
"""What the NER can learn; findings of other entities say that there is no name."""

Finding = tuple[int, int, str]
"""Start, end, entity."""


class BadReview(ValueError):
    """A reviewed text cannot be used: names file, line and field."""


@dataclass(frozen=True)
class ReviewedText:
    """A text with everything that people marked in it. `document`: texts of one are learnt from or judged on together."""

    text: str
    findings: tuple[Finding, ...]
    document: str
    looked_for: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "text": self.text, "findings": [list(finding) for finding in self.findings], "document": self.document,
            "looked_for": list(self.looked_for),
        }  # fmt: skip


def read_reviewed(path: Path, *, entities: Collection[str], looked_for: Sequence[str]) -> list[ReviewedText]:
    """Rows of `text` and `findings`.

    Args:
        entities: those that a finding may have.
        looked_for: entities that people looked for in these texts.

    Raises:
        BadReview: names the line and the field.
        BrokenLine: a line is no JSON object.
    """
    texts = []
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}: row {number}"
        if not isinstance(row.get("text"), str):
            raise BadReview(f"{where}: text: got {json.dumps(row.get('text'))}, want the text that people looked at")
        if not isinstance(row.get("findings"), list):
            raise BadReview(f"{where}: findings: got {json.dumps(row.get('findings'))}, want a list; an empty one where there is none")
        findings = _checked(row["findings"], row["text"], where=where, entities=entities)
        texts.append(ReviewedText(row["text"], findings, str(row.get("document", row["text"])), tuple(sorted(looked_for))))
    return texts


def read_scrubbed(path: Path, findings: Path, *, entities: Collection[str], looked_for: Sequence[str]) -> list[ReviewedText]:
    """Texts of a file that `scrub` read, with its findings, put right by people.

    Raises:
        BadReview: names the row of the findings and the field; also where it points at no text.
        BrokenLine: a line is no JSON object.
    """
    rows = {str(row.get("id", number)): dict(_named(row)) for number, row in enumerate(read_rows(path), start=1)}
    marked: dict[tuple[str, str], list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for number, finding in enumerate(read_rows(findings), start=1):
        id_, at = str(finding.get("id")), str(finding.get("path"))
        if at not in rows.get(id_, {}):
            raise BadReview(f"{findings}: row {number}: id {id_!r}, path {at!r}: there is no such text in {path}")
        marked[id_, at].append((number, finding))
    texts = []
    for id_, places in rows.items():
        for at, text in places.items():
            lines = marked.get((id_, at), [])
            where = f"{findings}: row {lines[0][0]}" if lines else str(path)
            found = _checked([line for _, line in lines], text, where=where, entities=entities)
            if " " in text or found:
                texts.append(ReviewedText(text, found, id_, tuple(sorted(looked_for))))
    return texts


def _named(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return ((".".join(map(str, place)), text) for place, text in texts_of(row) if place != ("id",))


def _checked(findings: Iterable[Any], text: str, *, where: str, entities: Collection[str]) -> tuple[Finding, ...]:
    """The findings of a text, in order."""
    found = sorted(_finding(one, text, where=f"{where}: findings[{place}]", entities=entities) for place, one in enumerate(findings))
    for before, after in pairwise(found):
        if after[0] < before[1]:
            raise BadReview(
                f"{where}: findings: {before[2]} at {before[0]}-{before[1]} and {after[2]} at {after[0]}-{after[1]} overlap; "
                "keep one, or join them"
            )
    return tuple(found)


def _finding(one: Any, text: str, *, where: str, entities: Collection[str]) -> Finding:
    if not isinstance(one, Mapping):
        raise BadReview(f"{where}: got {json.dumps(one)}, want an object with start, end and entity")
    start, end, entity = one.get("start"), one.get("end"), one.get("entity")
    for name, value in (("start", start), ("end", end)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadReview(f"{where}.{name}: got {json.dumps(value)}, want a number of characters")
    assert isinstance(start, int)
    assert isinstance(end, int)
    if not 0 <= start < end <= len(text):
        raise BadReview(f"{where}: got {start}-{end}, want a place in a text of {len(text)} characters; positions count from 0")
    if not isinstance(entity, str) or entity not in entities:
        raise BadReview(f"{where}.entity: got {json.dumps(entity)}, want one of {', '.join(sorted(entities))}")
    return start, end, entity
