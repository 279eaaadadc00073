"""Messages of Microsoft Teams as Microsoft Graph gives them: JSON files that hold lists of `chatMessage`, or its pages with `value`.

Source: Microsoft's reference of the resource type chatMessage.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fine_tune_pipeline.guide.dataset.sources.chats.conversations import MENTIONS, Said, Sides, unused
from fine_tune_pipeline.guide.dataset.sources.chats.files import ChatFile
from fine_tune_pipeline.guide.dataset.sources.chats.on_disk import OnDisk
from fine_tune_pipeline.guide.dataset.sources.convert import UnusableDocument, html, refused_if_damaged
from fine_tune_pipeline.guide.dataset.sources.files import UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.readers import json_value
from fine_tune_pipeline.guide.dataset.sources.rows import Row, object_row

Message = Mapping[str, Any]

_MENTION = re.compile(r"<at\b[^>]*\bid=\"(?P<id>\d+)\"[^>]*>.*?</at>", re.DOTALL)
_EMOJI = re.compile(r"<emoji\b[^>]*\balt=\"(?P<alt>[^\"]*)\"[^>]*>(?:</emoji>)?")
_WORDLESS = re.compile(r"<attachment\b[^>]*>(?:</attachment>)?|<img\b[^>]*>")


def teams_messages(files: Sequence[ChatFile], sides: Sides) -> Iterator[Said | Row]:
    """Messages, chat by chat and of channels thread by thread; what is none comes first, as broken rows.

    Raises:
        UnreadableSource: a file is no list of messages in JSON.
    """
    with closing(OnDisk()) as copy:
        for file in files:
            for row in _rows(file):
                yield from [row] if row.columns is None else _taken(copy, row.columns, row.number, file, sides, parent="")
        yield from copy.sorted()


def _rows(file: ChatFile) -> Iterator[Row]:
    with file.open() as stream:
        value = json_value(stream, place=file.place)
    messages = value.get("value") if isinstance(value, dict) else value
    if not isinstance(messages, list):
        raise UnreadableSource(f"{file.place}: want a list of messages, or an object whose `value` is one, as Microsoft Graph answers")
    for number, item in enumerate(messages, start=1):
        yield replace(object_row(number, item, None), file=file.name)


def _taken(copy: OnDisk, message: Message, number: int, file: ChatFile, sides: Sides, *, parent: str) -> Iterator[Row]:
    """Keep a message and the replies within it; broken rows for what nobody said."""
    # The replies are judged on their own.
    raw = json.dumps({name: value for name, value in message.items() if name != "replies"}, ensure_ascii=False)
    id_ = str(message.get("id") or raw)
    for reply in message.get("replies") or ():
        if isinstance(reply, Mapping):
            yield from _taken(copy, {"channelIdentity": message.get("channelIdentity"), **reply}, number, file, sides, parent=id_)
    try:
        text, at = _text(message, sides), _time(message.get("createdDateTime"))
    except UnusableDocument as error:
        yield unused(file.name, number, "broken_row", f"body: {error.detail}", raw)
        return
    writer = _writer(message)
    refused = _refused(message, text, at, ours=sides.ours(*writer))
    if refused or at is None:
        yield unused(file.name, number, *(refused or _UNDATED), raw)
        return
    said = Said(file.name, number, at, sides.hear(*writer), text, raw, talk="", channel=_channel(message))
    thread = "" if message.get("chatId") else str(message.get("replyToId") or parent or id_)
    if not copy.add(said, id_=id_, thread=thread):
        yield unused(file.name, number, "said_twice", f"there is a message {id_} already", raw)


_UNDATED = ("impossible_date", "createdDateTime: want a date and time, such as 2026-02-11T09:15:22Z")


def _refused(message: Message, text: str, at: datetime | None, *, ours: bool) -> tuple[str, str] | None:
    """Reason and detail, if this is not what somebody said."""
    if message.get("messageType", "message") != "message":
        return "system_line", f"{message.get('messageType')}: Teams tells of the chat"
    if message.get("deletedDateTime"):
        return "deleted", "its writer deleted it"
    if at is None:
        return _UNDATED
    if not _object(_object(message, "from"), "user") and not ours:
        return "bot_message", "a program wrote it that is not in `us`"
    return None if text else ("media_only", "holds no text, as a file without a word")


def _text(message: Message, sides: Sides) -> str:
    body = _object(message, "body")
    content = str(body.get("content") or "")
    if body.get("contentType") != "html":
        return content.strip()
    called = {str(one.get("id")): _named(_object(one, "mentioned")) for one in message.get("mentions") or () if isinstance(one, Mapping)}
    marked = _MENTION.sub(lambda found: MENTIONS[sides.ours(*called.get(found["id"], ()))], content)
    bare = _WORDLESS.sub("", _EMOJI.sub(lambda found: found["alt"], marked))
    if not bare.strip():
        return ""
    with refused_if_damaged():
        return html(bare.encode("utf-8")).text.strip()


def _writer(message: Message) -> tuple[str, ...]:
    return _named(_object(message, "from")) or ("nobody",)


def _named(identities: Message) -> tuple[str, ...]:
    """Id and name of a person, or else of a program."""
    found = _object(identities, "user") or _object(identities, "application") or _object(identities, "device")
    return tuple(str(found[name]) for name in ("id", "displayName") if found.get(name))


def _channel(message: Message) -> str:
    return str(message.get("chatId") or _object(message, "channelIdentity").get("channelId") or "")


def _object(holder: Message, name: str) -> Message:
    value = holder.get(name)
    return value if isinstance(value, Mapping) else {}


def _time(written: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(written))
    except ValueError:
        return None
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
