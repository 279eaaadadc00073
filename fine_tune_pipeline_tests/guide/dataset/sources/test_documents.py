"""Documents of every kind become chunks with their place; those that cannot are left out with the reason, and the others go on."""

import io
import json
import mailbox
import re
import socket
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from fine_tune_pipeline.artifacts.documents import Chunk, read_chunks
from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.guide.dataset.sources.documents import QUARANTINE, NoDocuments, collected_documents, opened_documents
from fine_tune_pipeline.guide.dataset.sources.files import MissingSource
from fine_tune_pipeline.spec.sources import DocumentSource
from fine_tune_pipeline_tests.guide.dataset.papers import docx, message, pdf, pptx, protected_office

LETTER = b"Dear customer,\n\nyour order has been sent.\n"


def read(folder: Path, **source: Any) -> tuple[list[Chunk], dict[str, str], dict[str, Any]]:
    """Chunks, what was left out by document as `reason: detail`, and the numbers for the UI."""
    spec = DocumentSource.model_validate({"path": "in", **source})
    out = folder / "out"
    out.mkdir(exist_ok=True)
    found = opened_documents(spec, locate=lambda path: str(folder / path), field="dataset.documents[0]")
    metadata = collected_documents([found], out)
    left = {row["original"]["document"]: f"{row['reason']}: {row['detail']}" for row in read_rows(out / QUARANTINE)}
    return list(read_chunks(out)), left, metadata


def files(folder: Path, **contents: bytes) -> None:
    """`name_ending=content` is the file `in/name.ending`."""
    (folder / "in").mkdir()
    for name, content in contents.items():
        (folder / "in" / name.replace("_", ".")).write_bytes(content)


def shown(chunks: list[Chunk]) -> list[tuple[str, str, int | None, str]]:
    return [(chunk.document, chunk.heading, chunk.page, chunk.text) for chunk in chunks]


def test_each_kind_of_document_gives_its_text_with_headings_and_pages(tmp_path):
    files(
        tmp_path,
        a_pdf=pdf(["First page."], ["Second page."]),
        b_docx=docx("# Returns", "Within 30 days.", "## Refunds", "By card."),
        c_html=b"<html><head><title>Help</title><script>x()</script></head><body><h1>Hours</h1><p>9 to 5.</p></body></html>",
        d_md=b"# Terms\n\nBe fair.\n",
        e_txt=b"# not a heading\n",
    )
    chunks, left, metadata = read(tmp_path)
    assert shown(chunks) == [
        ("a.pdf", "", 1, "First page."),
        ("a.pdf", "", 2, "Second page."),
        ("b.docx", "Returns", None, "Within 30 days."),
        ("b.docx", "Returns > Refunds", None, "By card."),
        ("c.html", "Hours", None, "9 to 5."),
        ("d.md", "Terms", None, "Be fair."),
        ("e.txt", "", None, "# not a heading"),
    ]
    assert chunks[4].metadata == {"title": "Help"}
    assert left == {}
    assert (metadata["documents"], metadata["document_chunks"], metadata["documents_left_out"]) == (5, 7, 0)


def test_slides_are_pages_and_speaker_notes_belong_to_them(tmp_path):
    files(
        tmp_path,
        a_pptx=pptx(
            ("Returns", "Within 30 days.", "Say that cards are quicker."), (None, "No title here.", None), ("Only a title", None, None)
        ),
    )
    chunks, left, _ = read(tmp_path)
    assert shown(chunks) == [
        ("a.pptx", "Returns", 1, "Within 30 days."),
        ("a.pptx", "Returns > Notes:", 1, "Say that cards are quicker."),
        ("a.pptx", "Slide 2", 2, "No title here."),
    ]
    assert left == {}
    assert chunks[2].place == f"a.pptx, page 2, Slide 2, characters {chunks[2].start}-{chunks[2].end}"


def test_tables_and_descriptions_of_pictures_on_slides_are_text_and_names_of_pictures_are_not(tmp_path):
    from pptx import Presentation
    from pptx.util import Inches

    deck = Presentation(io.BytesIO(pptx((None, None, None), (None, None, None))))
    deck.slides[0].shapes[0]._element._nvXxPr.cNvPr.set("descr", "A map of the shop")
    cells = deck.slides[0].shapes.add_table(2, 2, Inches(1), Inches(5), Inches(4), Inches(1)).table
    for place, text in enumerate(["size", "price", "small", "3 euros"]):
        cells.cell(place // 2, place % 2).text = text
    (tmp_path / "in").mkdir()
    deck.save(tmp_path / "in" / "a.pptx")
    chunks, left, _ = read(tmp_path)
    [chunk] = chunks
    assert chunk.text.startswith("A map of the shop")
    assert "| small | 3 euros |" in chunk.text
    assert left == {"a.pptx": "pages_without_text: documents:in, a.pptx: pages 2 are pictures without text; the other pages are taken"}


def test_a_chunk_says_where_it_stands_and_under_which_terms(tmp_path):
    files(tmp_path, a_txt=b"one two three. " * 20)
    chunks, _, metadata = read(tmp_path, chunk_characters=100, overlap_characters=20, licence="own", name="handbook")
    text = ("one two three. " * 20).strip()
    assert all(chunk.text == text[chunk.start : chunk.end] for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == len(chunks) > 3
    assert {(chunk.source, chunk.licence) for chunk in chunks} == {("handbook", "own")}
    assert chunks[0].place == f"a.txt, characters 0-{chunks[0].end}"
    assert metadata["document_sources"] == [
        {"source": "handbook", "documents": 1, "chunks": len(chunks), "left_out": 0, "licence": "own"},
    ]


def test_a_message_gives_its_plain_text_under_its_subject_and_its_attachments(tmp_path):
    forwarded = message("inner text", subject="Older")
    mail = message("The words.", html="<p>The other words.</p>", terms_pdf=pdf(["Be fair."]), logo_png=b"\x89PNG")
    mail.add_attachment(forwarded)
    files(tmp_path, a_eml=mail.as_bytes(), b_eml=message("", html="<h1>Hi</h1><p>Only HTML.</p>", subject="Page").as_bytes())
    chunks, left, _ = read(tmp_path)
    assert shown(chunks)[0] == ("a.eml", "Order 7", None, "The words.")
    assert ("a.eml, attachment terms.pdf", "", 1, "Be fair.") in shown(chunks)
    assert [chunk.text for chunk in chunks if chunk.heading == "Older"] == ["inner text"]
    assert chunks[0].metadata == {"message_id": "<Order-7@example.com>", "subject": "Order 7", "date": "2026-01-02T10:00:00+01:00"}
    assert left.keys() == {"a.eml, attachment logo.png", "b.eml"}
    assert left["a.eml, attachment logo.png"].startswith("unsupported_type")


def test_a_message_in_html_alone_gives_its_text(tmp_path):
    mail = message("x")
    mail.set_content("<h1>Hi</h1><p>Only HTML.</p>", subtype="html")
    files(tmp_path, a_eml=mail.as_bytes())
    assert shown(read(tmp_path)[0]) == [("a.eml", "Order 7 > Hi", None, "Only HTML.")]


def test_the_messages_of_an_mbox_are_documents_of_their_own(tmp_path):
    (tmp_path / "in").mkdir()
    box = mailbox.mbox(tmp_path / "in" / "a.mbox")
    for number in range(3):
        box.add(message("x" * 3000 if number == 1 else f"text {number}", subject=f"Mail {number}"))
    box.close()
    chunks, left, _ = read(tmp_path, max_megabytes=0.002)
    assert shown(chunks) == [("a.mbox, message 1", "Mail 0", None, "text 0"), ("a.mbox, message 3", "Mail 2", None, "text 2")]
    assert left == {
        "a.mbox, message 2": "too_large: documents:in, a.mbox, message 2: has more than 2,097 bytes; raise max_megabytes, or split it"
    }


def bomb() -> bytes:
    file = io.BytesIO(docx("fine"))
    with ZipFile(file, "a") as archive:
        archive.writestr("word/footnotes.xml", b" " * 3_000_000, compress_type=8)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.pdf", pdf(["secret"], protected=True), "password_protected: .*needs a password; save it without one"),
        ("b.pdf", pdf(None, None), "no_text: .*its 2 pages are pictures, as a scanner makes them"),
        ("b.pdf", pdf([]), "no_text: .*holds no text"),
        ("b.pdf", pdf(["whole"])[:200], "damaged: .*PdfiumError"),
        ("b.pdf", b"not a PDF", "damaged: "),
        ("b.pdf", b"", "damaged: "),
        ("b.docx", docx("text")[:-30], "damaged: .*no .docx, or not all of one"),
        ("b.docx", b"PK", "damaged: "),
        ("b.docx", docx("<w:broken>"), "damaged: .*mismatched tag"),
        ("b.docx", docx(), "no_text: "),
        ("b.docx", protected_office(), "password_protected: .*save it without one"),
        ("b.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old", "damaged: .*old Word document"),
        ("b.pptx", pptx(("Title", "Text", None))[:-30], "damaged: .*no .pptx, or not all of one"),
        ("b.pptx", docx("text"), "damaged: .*no .pptx"),
        ("b.pptx", pptx((None, None, None)), "no_text: .*its 1 slides hold no text"),
        ("b.pptx", protected_office(), "password_protected: .*save it without one"),
        ("b.pptx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old", "damaged: .*old presentation"),
        ("b.docx", bomb(), "too_large: .*unpacks to 3,00"),
        ("b.html", b"<script>x()</script>", "no_text: "),
        ("b.html", b"<div>" * 5000 + b"deep", "damaged: .*RecursionError"),
        ("b.txt", b" \n", "no_text: "),
        ("b.txt", b"", "no_text: "),
        ("b.txt", bytes(range(256)) * 4, "not_text: "),
        ("b.txt", b"x" * 2_100_000, "too_large: .*has more than 2,097,152 bytes"),
        ("b.eml", message("").as_bytes(), "no_text: .*no text of its own"),
        ("b.eml", b"Content-Type: text/plain; charset=nonsense\n\ntext", "damaged: .*LookupError"),
        ("b.mbox", b"no message\n", "damaged: .*no message begins"),
        ("b.txt", LETTER, "duplicate: .*is byte for byte a.txt"),
        ("b.doc", b"old", "unsupported_type: .*ends with .doc, want one of .pdf, "),
    ],
)
def test_a_document_that_cannot_be_read_is_left_out_with_its_reason_and_the_others_go_on(tmp_path, name, content, said):
    files(tmp_path, a_txt=LETTER, c_txt=b"The last one.")
    (tmp_path / "in" / name).write_bytes(content)
    chunks, left, metadata = read(tmp_path, max_megabytes=2)
    assert [chunk.document for chunk in chunks] == ["a.txt", "c.txt"]
    assert left.keys() == {name}
    assert metadata["documents_left_out"] == 1
    assert re.match(said, left[name])


def test_pages_that_are_pictures_are_said_and_the_others_taken(tmp_path):
    files(tmp_path, a_pdf=pdf(["One."], None, [], ["Four."]))
    chunks, left, metadata = read(tmp_path)
    assert [(chunk.page, chunk.text) for chunk in chunks] == [(1, "One."), (4, "Four.")]
    assert left == {"a.pdf": "pages_without_text: documents:in, a.pdf: pages 2 are pictures without text; the other pages are taken"}
    assert (metadata["documents"], metadata["documents_left_out"]) == (1, 0)


def test_if_no_document_can_be_read_it_is_an_error_with_the_first_reasons(tmp_path):
    files(tmp_path, a_pdf=pdf(None), b_txt=b"")
    with pytest.raises(NoDocuments, match=r"dataset\.documents\[0\].*none of 2 documents could be read\. no_text: documents:in, a\.pdf"):
        read(tmp_path)


def test_a_folder_without_files_is_an_error(tmp_path):
    files(tmp_path, _DS_Store=b"hidden")
    with pytest.raises(MissingSource, match=r"dataset\.documents\[0\].*holds no \*\.pdf"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_text_is_read_in_the_usual_encodings(tmp_path, encoding):
    text = "Die Rückgabe ist kostenlos. Größere Möbel holen wir gern für Sie ab, müssen aber wissen, wann."
    files(tmp_path, a_txt=text.encode(encoding))
    assert read(tmp_path)[0][0].text == text


def test_lines_may_end_as_on_any_system(tmp_path):
    mail = message("One.\n\nTwo.").as_bytes().replace(b"\n", b"\r\n")
    files(tmp_path, a_md=b"# Terms #\r\n\r\nBe fair.\r\nAnd kind.\r\n", b_eml=mail)
    assert shown(read(tmp_path)[0]) == [("a.md", "Terms", None, "Be fair.\nAnd kind."), ("b.eml", "Order 7", None, "One.\n\nTwo.")]


def test_a_page_is_read_in_the_encoding_that_it_names(tmp_path):
    files(tmp_path, a_html='<meta charset="iso-8859-1"><p>Rückgabe</p>'.encode("latin-1"))
    assert read(tmp_path)[0][0].text == "Rückgabe"


def test_converting_opens_no_connection(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    page = b'<p>text</p><img src="http://127.0.0.1:9/x.png"><link rel="stylesheet" href="http://127.0.0.1:9/x.css">'
    files(tmp_path, a_html=page, b_pdf=pdf(["text"]), c_docx=docx("text"), d_pptx=pptx((None, "text", None)))
    assert len(read(tmp_path)[0]) == 4


def test_what_decides_the_chunks_is_content_names_and_settings_and_never_a_place(tmp_path):
    def what(folder: str, **source: Any) -> dict[str, Any]:
        spec = DocumentSource.model_validate({"path": "in", **source})
        return opened_documents(spec, locate=lambda path: str(tmp_path / folder / path), field="f").what()

    for folder, text in (("here", b"one"), ("there", b"one"), ("other", b"two")):
        (tmp_path / folder).mkdir()
        files(tmp_path / folder, a_txt=text)
    assert what("here") == what("there")
    assert str(tmp_path) not in json.dumps(what("here"))
    assert what("here") != what("other")
    assert what("here") != what("here", chunk_characters=200, overlap_characters=0)
