"""Documents become chunks with their place, for retrieval and for synthetic examples; those that cannot are kept with the reason."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from tqdm import tqdm

from fine_tune_pipeline.artifacts.documents import Chunk, write_chunks
from fine_tune_pipeline.artifacts.examples import write_rows
from fine_tune_pipeline.artifacts.quarantine import Quarantined, reasons
from fine_tune_pipeline.guide.dataset.sources.chunks import pieces
from fine_tune_pipeline.guide.dataset.sources.convert import CONVERTERS, Converted, UnusableDocument, convert
from fine_tune_pipeline.guide.dataset.sources.files import SourceFile, ending, files_at
from fine_tune_pipeline.guide.dataset.sources.mail import attachments, mbox_messages, message_text
from fine_tune_pipeline.spec.sources import DocumentSource

QUARANTINE = "documents_quarantine.jsonl"
SUFFIXES = (*CONVERTERS, ".eml", ".mbox")
CONVERTER_PACKAGES = ("markitdown", "mammoth", "pdfminer.six", "pdfplumber", "pypdfium2", "python-pptx")
"""Another version of these may give another text, so they belong to the fingerprint."""


class NoDocuments(ValueError):
    """Not one document of a source could be read."""


@dataclass(frozen=True)
class OpenedDocuments:
    """Documents whose content is known: `place` for error messages, `digests` of the files for the fingerprint."""

    source: DocumentSource
    name: str
    place: str
    files: Sequence[SourceFile]
    digests: Sequence[str]

    def what(self) -> dict[str, Any]:
        """What decides the chunks: the contents and names of the files, and how they are cut; never where they lie."""
        files = [{"name": file.name, "sha256": digest} for file, digest in zip(self.files, self.digests, strict=True)]
        settings = self.source.model_dump(mode="json", exclude={"path"})
        return {**settings, "name": self.name, "files": files, "converters": {name: version(name) for name in CONVERTER_PACKAGES}}


def opened_documents(source: DocumentSource, *, locate: Callable[[str], str], field: str) -> OpenedDocuments:
    """Look at a source of documents.

    Raises:
        MissingSource, UnreadableSource: names the field and the file.
    """
    where = locate(source.path)
    files = files_at(where, suffixes=SUFFIXES, field=field, others=True)
    digests = [file.sha256() if ending(file.path) in SUFFIXES else "" for file in files]
    return OpenedDocuments(source, source.name or f"documents:{PurePath(source.path).name}", f"{field} ({where})", files, digests)


def collected_documents(sources: Sequence[OpenedDocuments], folder: Path) -> dict[str, Any]:
    """Write the chunks of all documents into `folder`, one document at a time, and what was left out with the reason.

    Gives the numbers for the UI.

    Raises:
        NoDocuments: not one document of a source could be read; names the first reasons.
    """
    left_out: list[Quarantined] = []
    counts = [Counts(source) for source in sources]
    write_chunks(folder, (chunk for count in counts for chunk in _chunks(count, left_out)))
    write_rows(folder / QUARANTINE, (vars(row) for row in left_out))
    return {
        "documents": sum(count.documents for count in counts),
        "document_chunks": sum(count.chunks for count in counts),
        "documents_left_out": sum(count.left_out for count in counts),
        "document_sources": [count.shown() for count in counts],
        "documents_left_out_by_reason": [{"reason": reason, "documents": number} for reason, number in reasons(left_out).items()],
    }


@dataclass
class Counts:
    """What has become of one source so far."""

    source: OpenedDocuments
    documents: int = 0
    chunks: int = 0
    left_out: int = 0
    seen: dict[str, str] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """A line of the table of sources."""
        numbers = {"documents": self.documents, "chunks": self.chunks, "left_out": self.left_out}
        return {"source": self.source.name, **numbers, "licence": self.source.source.licence or "not stated"}


@dataclass(frozen=True)
class Document:
    """One document before it is converted; `problem` if it cannot be."""

    name: str
    suffix: str
    content: bytes
    problem: UnusableDocument | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def _chunks(count: Counts, left_out: list[Quarantined]) -> Iterator[Chunk]:
    before = len(left_out)
    limit = int(count.source.source.max_megabytes * 2**20)
    for document in tqdm(_documents(count.source.files, limit), desc=f"documents {count.source.name}", unit="document", disable=None):
        try:
            yield from _chunks_of(document, count, left_out, limit=limit)
        except UnusableDocument as error:
            count.left_out += 1
            left_out.append(_out(document, error.reason, f"{count.source.name}, {document.name}: {error.detail}"))
    if not count.documents:
        first = "; ".join(f"{row.reason}: {row.detail}" for row in left_out[before:][:3]) or "there was none"
        raise NoDocuments(f"{count.source.place}: none of {count.left_out} documents could be read. {first}")


def _chunks_of(document: Document, count: Counts, left_out: list[Quarantined], *, limit: int) -> Iterator[Chunk]:
    if document.problem:
        raise document.problem
    digest = document.sha256
    if digest in count.seen:
        raise UnusableDocument("duplicate", f"is byte for byte {count.seen[digest]}")
    count.seen[digest] = document.name
    converted = (
        message_text(document.content) if document.suffix == ".eml" else convert(document.content, suffix=document.suffix, limit=limit)
    )
    if converted.pictures_only:
        pages = ", ".join(map(str, converted.pictures_only))
        detail = f"{count.source.name}, {document.name}: pages {pages} are pictures without text; the other pages are taken"
        left_out.append(_out(document, "pages_without_text", detail))
    count.documents += 1
    for chunk in _cut(converted, document, count.source, digest):
        count.chunks += 1
        yield chunk


def _cut(converted: Converted, document: Document, source: OpenedDocuments, digest: str) -> Iterator[Chunk]:
    spec = source.source
    subject = converted.metadata.get("subject", "")
    found = pieces(
        converted.text, size=spec.chunk_characters, overlap=spec.overlap_characters,
        headings=converted.headings, page_starts=converted.page_starts,
    )  # fmt: skip
    for piece in found:
        yield Chunk(
            id=hashlib.sha256(f"{digest}:{piece.start}:{piece.end}".encode()).hexdigest()[:16],
            text=converted.text[piece.start : piece.end],
            source=source.name,
            document=document.name,
            sha256=digest,
            start=piece.start,
            end=piece.end,
            heading=" > ".join(filter(None, [subject, piece.heading])),
            page=piece.page,
            licence=spec.licence,
            metadata=converted.metadata,
        )


def _documents(files: Sequence[SourceFile], limit: int) -> Iterator[Document]:
    for file in files:
        suffix = ending(file.path)
        if suffix not in SUFFIXES:
            yield _unsupported(file.name, suffix)
        elif suffix == ".mbox":
            yield from _messages(file, limit)
        else:
            with file.open() as stream:
                content = stream.read(limit + 1)
            yield from _with_attachments(_sized(file.name, suffix, content, limit), limit)


def _messages(file: SourceFile, limit: int) -> Iterator[Document]:
    with file.open() as stream:
        try:
            for number, content in enumerate(mbox_messages(stream, limit=limit), start=1):
                yield from _with_attachments(_sized(f"{file.name}, message {number}", ".eml", content, limit), limit)
        except UnusableDocument as error:
            yield Document(file.name, ".mbox", b"", error)


def _with_attachments(document: Document, limit: int) -> Iterator[Document]:
    yield document
    if document.suffix != ".eml" or document.problem:
        return
    try:
        found = list(attachments(document.content))
    except UnusableDocument as error:
        yield Document(f"{document.name}, attachments", ".eml", b"", error)
        return
    for name, content in found:
        inner, suffix = f"{document.name}, attachment {name}", ending(name)
        if suffix in CONVERTERS or suffix == ".eml":
            yield from _with_attachments(_sized(inner, suffix, content, limit), limit)
        else:
            yield _unsupported(inner, suffix)


def _sized(name: str, suffix: str, content: bytes, limit: int) -> Document:
    if len(content) <= limit:
        return Document(name, suffix, content)
    return Document(name, suffix, b"", UnusableDocument("too_large", f"has more than {limit:,} bytes; raise max_megabytes, or split it"))


def _unsupported(name: str, suffix: str) -> Document:
    detail = f"ends with {suffix or 'nothing'}, want one of {', '.join(SUFFIXES)}"
    return Document(name, suffix, b"", UnusableDocument("unsupported_type", detail))


def _out(document: Document, reason: str, detail: str) -> Quarantined:
    return Quarantined(id=document.name, reason=reason, detail=detail, original={"document": document.name})
