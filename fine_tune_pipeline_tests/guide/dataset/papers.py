"""Small documents that the tests read: PDF and DOCX written byte by byte, PPTX by its library."""

import base64
import io
import struct
from collections.abc import Sequence
from email.message import EmailMessage
from zipfile import ZipFile

# Of a file that needs the password "secret" (40-bit RC4).
PROTECTION = (
    b"<< /Filter /Standard /V 1 /R 2 /Length 40 /P 4294967292 "
    b"/O <e5a8d2687bd9d0cff946b7ac55f51081dcf0d116554c4bfcb0a5e446f69ea48a> "
    b"/U <faff4041dab3e9945d4fd860115e5b0c5f406c2596dc93f5fc1e5e3f71a56e5b> >>"
)
PROTECTION_ID = b"/ID [<f0fcaf96f1dfc2bca7d70b3bc8353cd2> <f0fcaf96f1dfc2bca7d70b3bc8353cd2>]"

# A picture of one point.
_DOT = base64.b64decode(b"R0lGODlhAQABAIAAAP///////yH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==")

_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006"


def pdf(*pages: Sequence[str] | None, protected: bool = False) -> bytes:
    """Each page has lines of text; None is a picture as a scanner makes it."""
    first = 5
    kids = b" ".join(b"%d 0 R" % (first + 2 * number) for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(pages), kids),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        _stream(b"\x80", b"/Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8"),
    ]
    for number, lines in enumerate(pages):
        resources = b"/Resources << /Font << /F 3 0 R >> /XObject << /I 4 0 R >> >>"
        objects.append(b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] %s /Contents %d 0 R >>" % (resources, first + 2 * number + 1))
        text = b"".join(b"1 0 0 1 50 %d Tm (%s) Tj " % (700 - 14 * line, words.encode("latin-1")) for line, words in enumerate(lines or ()))
        objects.append(_stream(b"q 600 0 0 800 0 0 cm /I Do Q" if lines is None else b"BT /F 12 Tf " + text + b"ET", b""))
    return _assembled([*objects, PROTECTION] if protected else objects, protected=protected)


def _stream(content: bytes, entries: bytes) -> bytes:
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (entries, len(content), content)


def _assembled(objects: Sequence[bytes], *, protected: bool) -> bytes:
    file = io.BytesIO()
    file.write(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(file.tell())
        file.write(b"%d 0 obj\n%s\nendobj\n" % (number, content))
    table = file.tell()
    file.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    file.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    more = b"/Encrypt %d 0 R %s" % (len(objects), PROTECTION_ID) if protected else b""
    file.write(b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, more, table))
    return file.getvalue()


def docx(*paragraphs: str) -> bytes:
    """A paragraph that begins with `# ` is a heading of the first level, one with `## ` of the second."""
    body = "".join(_paragraph(text) for text in paragraphs)
    styles = "".join(f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/></w:style>' for n in (1, 2))
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" ContentType='
        '"application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" ContentType='
        '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
        "_rels/.rels": _relation(f"{_OFFICE}/relationships/officeDocument", "word/document.xml"),
        "word/_rels/document.xml.rels": _relation(f"{_OFFICE}/relationships/styles", "styles.xml"),
        "word/styles.xml": f'<w:styles xmlns:w="{_WORD}">{styles}</w:styles>',
        "word/document.xml": f'<w:document xmlns:w="{_WORD}"><w:body>{body}</w:body></w:document>',
    }
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + content)
    return file.getvalue()


def _paragraph(text: str) -> str:
    level = len(text) - len(text.lstrip("#"))
    style = f'<w:pPr><w:pStyle w:val="Heading{level}"/></w:pPr>' if level else ""
    return f"<w:p>{style}<w:r><w:t>{text[level:].strip()}</w:t></w:r></w:p>"


def _relation(kind: str, target: str) -> str:
    return f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r1" Type="{kind}" Target="{target}"/></Relationships>'


def pptx(*slides: Sequence[str | None]) -> bytes:
    """Each slide has a title (None: none), a text (None: none) and notes; a slide of these alone has a picture instead of a text."""
    from pptx import Presentation
    from pptx.util import Inches

    deck = Presentation()
    for title, text, notes in slides:
        slide = deck.slides.add_slide(deck.slide_layouts[5 if title else 6])
        if title:
            slide.shapes.title.text = title
        if text is None:
            slide.shapes.add_picture(io.BytesIO(_DOT), Inches(1), Inches(3))
        else:
            slide.shapes.add_textbox(Inches(1), Inches(3), Inches(4), Inches(1)).text_frame.text = text
        if notes:
            slide.notes_slide.notes_text_frame.text = notes
    file = io.BytesIO()
    deck.save(file)
    return file.getvalue()


def protected_office() -> bytes:
    """As far as it is looked at, what Office writes for a .docx or .xlsx that needs a password: its header and its directory."""
    header = struct.pack("<8s22xHH14xI", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 9, 6, 2)
    return header.ljust(3 * 512, b"\0") + "Root Entry".encode("utf-16-le").ljust(128, b"\0") + "EncryptedPackage".encode("utf-16-le")


def message(text: str, *, subject: str = "Order 7", html: str | None = None, **attached: bytes) -> EmailMessage:
    """A message; `name_ending=content` is attached as `name.ending`."""
    mail = EmailMessage()
    mail["Subject"] = subject
    mail["From"] = "Ann <ann@example.com>"
    mail["Date"] = "Fri, 02 Jan 2026 10:00:00 +0100"
    mail["Message-ID"] = f"<{subject.replace(' ', '-')}@example.com>"
    mail.set_content(text)
    if html is not None:
        mail.add_alternative(html, subtype="html")
    for name, content in attached.items():
        mail.add_attachment(content, maintype="application", subtype="octet-stream", filename=name.replace("_", "."))
    return mail
