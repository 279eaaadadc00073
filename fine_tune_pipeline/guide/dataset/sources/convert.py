"""Documents become Markdown: PDF page by page, DOCX, HTML; text of any usual encoding. Offline, by markitdown's converters alone."""

import io
import logging
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from xml.parsers.expat import ExpatError, ParserCreate
from zipfile import BadZipFile, ZipFile

_OLE = b"\xd0\xcf\x11\xe0"
_PROTECTED = "EncryptedPackage".encode("utf-16-le")


class UnusableDocument(ValueError):
    """Nothing can be taken from a document; `reason` is the name under which the quarantine keeps it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Converted:
    """A document's text: Markdown with `headings`, or plain; where its pages begin, and which of them hold pictures but no text."""

    text: str
    headings: bool = False
    page_starts: tuple[int, ...] = ()
    pictures_only: tuple[int, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


def convert(content: bytes, *, suffix: str, limit: int) -> Converted:
    """The text of a document.

    Args:
        content: all of its bytes.
        suffix: such as `.pdf`; one of `CONVERTERS`.
        limit: bytes that its text may take when it is unpacked.

    Raises:
        UnusableDocument: password_protected, damaged, too_large, no_text, not_text.
    """
    with _quiet(), refused_if_damaged():
        converted = CONVERTERS[suffix](content, limit)
    if converted.text.strip():
        return converted
    if converted.pictures_only:
        pages = len(converted.page_starts)
        raise UnusableDocument("no_text", f"its {pages} pages are pictures, as a scanner makes them; bring it with recognised text (OCR)")
    raise UnusableDocument("no_text", "it holds no text")


def needs_password(stream: BinaryIO) -> bool:
    """Whether this is what Office writes instead of a .docx or .xlsx that is to need a password; the stream is at its begin again.

    Source: [MS-CFB] 2.2 and 2.6, the place of the first directory sector; [MS-OFFCRYPTO] 2.3.4, the name in it.
    """
    header = stream.read(52)
    found = False
    if header.startswith(_OLE) and len(header) == 52:
        (shift,), (sector,) = struct.unpack_from("<H", header, 30), struct.unpack_from("<I", header, 48)
        stream.seek((sector + 1) << min(shift, 12))
        found = _PROTECTED in stream.read(4096)
    stream.seek(0)
    return found


@contextmanager
def refused_if_damaged() -> Iterator[None]:
    """What else a parser raises on a document is decided by the bytes in it, so it costs this document only."""
    try:
        yield
    except (UnusableDocument, ImportError, MemoryError):
        raise
    except Exception as error:
        raise UnusableDocument("damaged", f"cannot be read ({type(error).__name__}: {str(error)[:200]})") from error


def decoded(content: bytes) -> str:
    """Text in UTF-8, UTF-16 with its mark, else in the encoding that it most looks like."""
    from charset_normalizer import from_bytes

    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    try:
        text = content.decode(marks.get(content[:2], "utf-8-sig"))
    except UnicodeDecodeError:
        best = from_bytes(content).best()
        text = "\0" if best is None else str(best)
    if "\0" in text:
        raise UnusableDocument("not_text", "holds bytes that are no text in any known encoding; want UTF-8")
    return one_newline(text)


def one_newline(text: str) -> str:
    """The text with lines that end alike, whatever system wrote it."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def html(content: bytes) -> Converted:
    """Markdown of a page, without scripts and styles."""
    result = _markdown("HtmlConverter", content, ".html", strict=True)
    return Converted(result.markdown, headings=True, metadata={"title": result.title.strip()} if result.title else {})


def _html(content: bytes, _: int) -> Converted:
    return html(content)


def _text(content: bytes, _: int) -> Converted:
    return Converted(decoded(content))


def _markdown_text(content: bytes, _: int) -> Converted:
    return Converted(decoded(content), headings=True)


def _docx(content: bytes, limit: int) -> Converted:
    if needs_password(io.BytesIO(content)):
        raise UnusableDocument("password_protected", "needs a password; save it without one")
    if content.startswith(_OLE):
        raise UnusableDocument("damaged", "is an old Word document (.doc) by its content; save it as .docx")
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(part.file_size for part in archive.infolist() if part.filename.endswith((".xml", ".rels")))
            if unpacked > limit:
                raise UnusableDocument("too_large", f"its text unpacks to {unpacked:,} bytes, want at most {limit:,} (max_megabytes)")
            # The converter mends XML that is none, and loses text by it.
            ParserCreate().Parse(archive.read("word/document.xml"), True)
    except (BadZipFile, KeyError, ExpatError) as error:
        raise UnusableDocument("damaged", f"is no .docx, or not all of one ({error})") from error
    return Converted(_markdown("DocxConverter", content, ".docx").markdown, headings=True)


def _pdf(content: bytes, _: int) -> Converted:
    from pypdfium2 import PdfDocument, PdfiumError, raw

    try:
        pdf = PdfDocument(content)
    except PdfiumError as error:
        if error.err_code == raw.FPDF_ERR_PASSWORD:
            raise UnusableDocument("password_protected", "needs a password; save it without one") from error
        raise
    with pdf:
        # One page at a time: so each chunk knows its page, and the memory that is taken does not grow with their number.
        texts = [_markdown("PdfConverter", _page(pdf, number), ".pdf").markdown.strip() for number in range(len(pdf))]
        pictures = [number for number, text in enumerate(texts, start=1) if not text and _has_picture(pdf, number - 1)]
    return Converted("\n\n".join(texts), page_starts=_starts(texts), pictures_only=tuple(pictures))


def _page(pdf: Any, number: int) -> bytes:
    """A PDF of this page alone."""
    from pypdfium2 import PdfDocument

    with PdfDocument.new() as alone:
        alone.import_pages(pdf, [number])
        content = io.BytesIO()
        alone.save(content)
    return content.getvalue()


def _has_picture(pdf: Any, number: int) -> bool:
    from pypdfium2 import raw

    return next(pdf[number].get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE]), None) is not None


def _starts(texts: Sequence[str]) -> tuple[int, ...]:
    starts = [0]
    for text in texts[:-1]:
        starts.append(starts[-1] + len(text) + 2)
    return tuple(starts)


def _markdown(converter: str, content: bytes, suffix: str, **options: Any) -> Any:
    # Not MarkItDown(): it guesses types by a model, opens addresses and loads plugins.
    from markitdown import MissingDependencyException, StreamInfo, converters

    try:
        return getattr(converters, converter)().convert(io.BytesIO(content), StreamInfo(extension=suffix), **options)
    except MissingDependencyException as error:
        raise ImportError(f"{suffix} documents need markitdown[docx,pdf] whole: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Parsers warn of every oddity of a document; what matters of it is in the text or raises."""
    log = logging.getLogger("pdfminer")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


CONVERTERS: dict[str, Callable[[bytes, int], Converted]] = {
    ".pdf": _pdf,
    ".docx": _docx,
    ".html": _html,
    ".htm": _html,
    ".md": _markdown_text,
    ".markdown": _markdown_text,
    ".txt": _text,
}
