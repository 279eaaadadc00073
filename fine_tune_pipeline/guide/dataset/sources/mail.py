"""E-mail: the text of a message, its attachments as documents of their own, the messages of an mbox one by one."""

import mailbox
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from mimetypes import guess_extension
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from fine_tune_pipeline.guide.dataset.sources.convert import Converted, UnusableDocument, html, one_newline, refused_if_damaged


def message_text(content: bytes) -> Converted:
    """The text of a message, its plain form if it has one; subject, date and id beside it.

    Raises:
        UnusableDocument: damaged, no_text.
    """
    with refused_if_damaged():
        message = _parsed(content)
        body = message.get_body(("plain", "html"))
        text = "" if body is None else one_newline(body.get_content())
        converted = html(text.encode("utf-8")) if body is not None and body.get_content_subtype() == "html" else Converted(text)
        metadata = _metadata(message)
    if not converted.text.strip():
        raise UnusableDocument("no_text", "the message has no text of its own")
    return replace(converted, metadata=metadata)


def attachments(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of what is attached to a message; a forwarded message is an `.eml`.

    Raises:
        UnusableDocument: damaged.
    """
    with refused_if_damaged():
        found = [_attachment(part, number) for number, part in enumerate(_parsed(content).iter_attachments(), start=1)]
    yield from found


def mbox_messages(stream: BinaryIO, *, limit: int) -> Iterator[bytes]:
    """The bytes of each message, of one that is longer than `limit` one byte more than that.

    Raises:
        UnusableDocument: damaged: there is no message.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The library finds the messages by their places in a file, so that none but the one at hand is in memory.
        path = Path(folder) / "mbox"
        with path.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        box = mailbox.mbox(path, create=False)
        try:
            if not len(box) and path.stat().st_size:
                raise UnusableDocument("damaged", "no message begins in it with a line `From …`; a single message is an .eml")
            for key in box.iterkeys():
                with box.get_file(key) as message:
                    yield message.read(limit + 1)
        finally:
            box.close()


def _parsed(content: bytes) -> EmailMessage:
    return message_from_bytes(content, policy=default)


def _metadata(message: EmailMessage) -> dict[str, str]:
    date = message["date"]
    when = getattr(date, "datetime", None)
    found = {
        "message_id": str(message["message-id"] or "").strip(),
        "subject": str(message["subject"] or "").strip(),
        "date": when.isoformat() if when else str(date or ""),
    }
    return {name: value for name, value in found.items() if value}


def _attachment(part: EmailMessage, number: int) -> tuple[str, bytes]:
    ending = ".eml" if part.get_content_type() == "message/rfc822" else guess_extension(part.get_content_type()) or ""
    name = PurePosixPath(part.get_filename() or "").name or f"{number}{ending}"
    if part.get_content_type() == "message/rfc822":
        return name if name.endswith(".eml") else f"{name}.eml", cast(EmailMessage, part.get_payload(0)).as_bytes()
    payload = part.get_payload(decode=True)
    return name, payload if isinstance(payload, bytes) else b""
