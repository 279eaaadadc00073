"""Documents become Markdown: PDF by page, PPTX by slide, DOCX, HTML; text of any usual encoding. Offline, by markitdown's converters."""

import io
import logging
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from xml.parsers.expat import ExpatError, ParserCreate
from zipfile import BadZipFile, ZipFile

_OLE = b"\xd0\xcf\x11\xe0"
_PICTURE = re.compile(r"^!\[(?P<text>[^\]\n]*)\]\((?P<name>\w*)\.jpg\)$", re.MULTILINE)
_PICTURE_FILE = re.compile(r"\.(?:png|jpe?g|gif|bmp|tiff?|svg|emf|wmf|webp)$", re.IGNORECASE)
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
    _check_office(content, main="word/document.xml", kind=".docx", old="Word document (.doc)", counted=(".xml", ".rels"), limit=limit)
    return Converted(_markdown("DocxConverter", content, ".docx").markdown, headings=True)


def _pptx(content: bytes, limit: int) -> Converted:
    # The parser unpacks pictures too.
    _check_office(content, main="ppt/presentation.xml", kind=".pptx", old="presentation (.ppt)", counted=("",), limit=limit)
    slides = _slides(_markdown("PptxConverter", content, ".pptx").markdown)
    texts = [_PICTURE.sub(_described, slide).strip() for slide in slides]
    pictures = [number for number, (slide, text) in enumerate(zip(slides, texts, strict=True), start=1) if slide and not text]
    # A heading of their own: slides may have no title, or something above it, which is not the slide's before.
    pages = [f"# Slide {number}\n\n{text}" if text else "" for number, text in enumerate(texts, start=1)]
    if not any(texts):
        raise UnusableDocument("no_text", f"its {len(slides)} slides hold no text; pictures are not read")
    return Converted("\n\n".join(pages), headings=True, page_starts=_starts(pages), pictures_only=tuple(pictures))


def _slides(markdown: str) -> list[str]:
    """The text of each slide, without the comment that the converter puts before it."""
    found: list[str] = []
    rest = markdown
    while True:
        before, mark, rest = rest.partition(f"<!-- Slide number: {len(found) + 1} -->")
        if found:
            found[-1] = before.strip()
        if not mark:
            return found
        found.append("")


def _described(picture: re.Match[str]) -> str:
    """What somebody wrote about a picture; nothing if there is only its name, such as `Picture 2` or `logo.png`."""
    named = re.sub(r"\W", "", picture["text"]) == picture["name"] or _PICTURE_FILE.search(picture["text"])
    return "" if named else picture["text"]


def _check_office(content: bytes, *, main: str, kind: str, old: str, counted: tuple[str, ...], limit: int) -> None:
    """Raise if an Office file needs a password, is of the old kind, damaged, or unpacks to more than `limit` in parts with such endings."""
    if needs_password(io.BytesIO(content)):
        raise UnusableDocument("password_protected", "needs a password; save it without one")
    if content.startswith(_OLE):
        raise UnusableDocument("damaged", f"is an old {old} by its content; save it as {kind}")
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(part.file_size for part in archive.infolist() if part.filename.endswith(counted))
            if unpacked > limit:
                raise UnusableDocument("too_large", f"it unpacks to {unpacked:,} bytes, want at most {limit:,} (max_megabytes)")
            # The converter mends XML that is none, and loses text by it.
            ParserCreate().Parse(archive.read(main), True)
    except (BadZipFile, KeyError, ExpatError) as error:
        raise UnusableDocument("damaged", f"is no {kind}, or not all of one ({error})") from error


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
        raise ImportError(f"{suffix} documents need markitdown[docx,pdf,pptx] whole: {error}") from error


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
    ".pptx": _pptx,
    ".html": _html,
    ".htm": _html,
    ".md": _markdown_text,
    ".markdown": _markdown_text,
    ".txt": _text,
}
