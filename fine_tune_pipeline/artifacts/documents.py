"""Parts of documents as JSONL: what examples are made from and answers are looked up in; never training rows by themselves."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fine_tune_pipeline.artifacts.examples import write_rows

FILE = "documents.jsonl"


@dataclass(frozen=True)
class Chunk:
    """A part of one document, as it was converted to Markdown.

    `text` is `converted[start:end]`, character for character, so a quote can be looked up in it. `document` names the file, below the
    place that all files of its source share, and the message or attachment in it; `sha256` is that of the document's bytes.
    `heading` is the path of headings above the text (`Returns > Refunds`; of a message its subject), `page` counts from 1 (PDF).
    `metadata` holds what only some documents have: a message's `message_id`, `subject`, `date`; an HTML page's `title`.
    """

    id: str
    text: str
    source: str
    document: str
    sha256: str
    start: int
    end: int
    heading: str = ""
    page: int | None = None
    licence: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where a reader finds the text: file, page or heading, characters."""
        parts = [self.document, f"page {self.page}" if self.page else "", self.heading, f"characters {self.start}-{self.end}"]
        return ", ".join(filter(None, parts))


def write_chunks(folder: Path, chunks: Iterable[Chunk]) -> None:
    """Write the chunks to `documents.jsonl` of an artifact, one at a time."""
    write_rows(folder / FILE, (asdict(chunk) for chunk in chunks))


def read_chunks(folder: Path) -> Iterator[Chunk]:
    """The chunks of an artifact, one at a time; none if its use case names no documents."""
    path = folder / FILE
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            yield Chunk(**json.loads(line))
