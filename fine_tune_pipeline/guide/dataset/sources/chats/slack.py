"""Slack's exports: a folder for each channel, a JSON file for each day, `users.json` beside them.

Replies to a thread may stand in the file of any later day.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fine_tune_pipeline.guide.dataset.sources.chats.conversations import Said, Sides, unused
from fine_tune_pipeline.guide.dataset.sources.chats.files import ChatFile
from fine_tune_pipeline.guide.dataset.sources.chats.on_disk import OnDisk
from fine_tune_pipeline.guide.dataset.sources.chats.slack_text import plain_text
from fine_tune_pipeline.guide.dataset.sources.files import UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.readers import json_value
from fine_tune_pipeline.guide.dataset.sources.rows import Row, object_row

Message = Mapping[str, Any]
Names = Mapping[str, tuple[str, ...]]

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\.json")
_PEOPLE = ("users.json", "org_users.json")
_LISTS = frozenset(
    {*_PEOPLE, "channels.json", "groups.json", "dms.json", "mpims.json", "integration_logs.json", "canvases.json", "lists.json"}
    | {"file_conversations.json", "huddle_transcripts.json"}
)
"""What lies beside the channels and holds no messages."""

_SAID = frozenset({None, "bot_message", "file_share", "me_message", "thread_broadcast"})
"""Subtypes of messages that somebody wrote; the others tell of joins, topics, calls, reminders."""


def is_day(file: ChatFile) -> bool:
    """Whether a file holds the messages of a day; its folder is called as the channel."""
    return _DAY.fullmatch(file.base) is not None


def slack_messages(files: Sequence[ChatFile], sides: Sides) -> Iterator[Said | Row]:
    """Messages, channel by channel, and of each channel the main flow before its threads; what is none comes first, as broken rows.

    Raises:
        UnreadableSource: there is no file of a day, or one is no list in JSON.
    """
    days = [file for file in files if is_day(file)]
    if not days:
        raise UnreadableSource(
            f"{files[0].place}: no file is called after a day, such as general/2026-01-31.json; want the folder or .zip of a Slack export"
        )
    names = _names(files)
    with closing(OnDisk()) as copy:
        yield from (_stray(file) for file in files if file not in days and file.base not in _LISTS)
        for file in days:
            for row in _rows(file):
                yield from [row] if row.columns is None else _taken(copy, row.columns, row.number, file, sides, names)
        yield from copy.sorted()


def _rows(file: ChatFile) -> Iterator[Row]:
    with file.open() as stream:
        value = json_value(stream, place=file.place)
    if not isinstance(value, list):
        raise UnreadableSource(f"{file.place}: got {type(value).__name__}, want a list of messages, as Slack exports a day")
    for number, item in enumerate(value, start=1):
        yield replace(object_row(number, item, None), file=file.name)


def _stray(file: ChatFile) -> Row:
    return unused(file.name, 1, "unknown_file", "is no file of a day and none of the lists of a Slack export", file.name)


def _names(files: Sequence[ChatFile]) -> dict[str, tuple[str, ...]]:
    """Id -> all names of everybody in the export's list of users."""
    found: dict[str, tuple[str, ...]] = {}
    for file in files:
        if file.base in _PEOPLE:
            found |= {str(row.columns["id"]): _called(row.columns) for row in _rows(file) if row.columns and row.columns.get("id")}
    return found


def _called(person: Message) -> tuple[str, ...]:
    values = [holder.get(name) for name in ("real_name", "display_name", "name") for holder in (person, _object(person, "profile"))]
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value))


def _taken(copy: OnDisk, message: Message, number: int, file: ChatFile, sides: Sides, names: Names) -> Iterator[Row]:
    """Keep a message in the copy; a broken row if it is not what somebody said."""
    raw, subtype = json.dumps(message, ensure_ascii=False), message.get("subtype")
    if subtype in _CHANGES:
        yield from _CHANGES[subtype](copy, message, number, file, sides, names)
        return
    writer, text, at = _writer(message, names), _text(message, sides, names), _time(message.get("ts"))
    if refused := _refused(message, text, at, ours=sides.ours(*writer)):
        if refused[0] == "bot_message":
            sides.hear(*writer)
        yield unused(file.name, number, *refused, raw)
        return
    assert at is not None, "a message without a time was refused"
    said = Said(file.name, number, at, sides.hear(*writer), text, raw, talk="", channel=file.folder)
    if not copy.add(said, id_=str(message["ts"]), thread=str(message.get("thread_ts") or "")):
        yield unused(file.name, number, "said_twice", f"the channel has a message of {message['ts']} already", raw)


def _refused(message: Message, text: str, at: datetime | None, *, ours: bool) -> tuple[str, str] | None:
    """Reason and detail, if this is not what somebody said."""
    if message.get("type") != "message" or message.get("subtype") not in _SAID:
        return "system_line", f"{message.get('subtype') or message.get('type')}: Slack tells of the channel"
    if at is None:
        return "impossible_date", f"ts: got {message.get('ts')!r}, want seconds since 1970"
    if (message.get("bot_id") or message.get("subtype") == "bot_message" or message.get("user") == "USLACKBOT") and not ours:
        return "bot_message", "a program wrote it that is not in `us`"
    return None if text else ("media_only", "holds no text, as a file without a word")


def _writer(message: Message, names: Names) -> tuple[str, ...]:
    """Id and names of whoever wrote a message, the id first."""
    profiles = [_object(message, name) for name in ("user_profile", "bot_profile")]
    ids = [str(message[name]) for name in ("user", "bot_id") if message.get(name)]
    own = [str(message["username"])] if message.get("username") else []
    found = [
        *ids,
        *own,
        *(name for profile in profiles for name in _called(profile)),
        *(name for id_ in ids for name in names.get(id_, ())),
    ]
    return tuple(dict.fromkeys(found)) or ("nobody",)


def _text(message: Message, sides: Sides, names: Names) -> str:
    attached = [item for item in message.get("attachments") or () if isinstance(item, Mapping)]
    # Programs often write nothing but attachments.
    written = message.get("text") or "\n".join(str(item.get("text") or item.get("fallback") or "") for item in attached)
    return plain_text(str(written), lambda id_: sides.ours(id_, *names.get(id_, ()))).strip()


def _changed(copy: OnDisk, event: Message, number: int, file: ChatFile, sides: Sides, names: Names) -> Iterator[Row]:
    message = _object(event, "message")
    text = _text(message, sides, names)
    done = bool(text) and copy.change(file.folder, str(message.get("ts")), text)
    detail = "the message is taken as it became" if done else "the message that was changed is not in the export before this"
    yield unused(file.name, number, "edit", detail, json.dumps(event, ensure_ascii=False))


def _deleted(copy: OnDisk, event: Message, number: int, file: ChatFile, *_: Any) -> Iterator[Row]:
    for raw in copy.take_out(file.folder, str(event.get("deleted_ts"))):
        yield unused(file.name, number, "deleted", "its writer deleted it", raw)
    yield unused(file.name, number, "deleted", "tells that a message was deleted", json.dumps(event, ensure_ascii=False))


_CHANGES = {"message_changed": _changed, "message_deleted": _deleted}


def _object(holder: Message, name: str) -> Message:
    value = holder.get(name)
    return value if isinstance(value, Mapping) else {}


def _time(ts: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(ts), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
