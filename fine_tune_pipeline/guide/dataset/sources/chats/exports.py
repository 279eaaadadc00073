"""A source of chat exports: its rows, and what decides them."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta

from fine_tune_pipeline.artifacts.fingerprint import stream_sha256
from fine_tune_pipeline.guide.dataset.sources.chats.conversations import Said, Sides, conversations
from fine_tune_pipeline.guide.dataset.sources.chats.files import ChatFile, chat_files
from fine_tune_pipeline.guide.dataset.sources.chats.slack import is_day, slack_messages
from fine_tune_pipeline.guide.dataset.sources.chats.teams import teams_messages
from fine_tune_pipeline.guide.dataset.sources.chats.whatsapp import whatsapp_messages
from fine_tune_pipeline.guide.dataset.sources.files import SourceFile
from fine_tune_pipeline.guide.dataset.sources.rows import Row
from fine_tune_pipeline.spec.sources import ChatSource, SlackSource, TeamsSource

MEMBERS = {"slack": ".json", "teams": ".json", "whatsapp": ".txt"}
"""How the files of an export end, in a folder or an archive."""


def chat_rows(files: Sequence[SourceFile], source: ChatSource, *, place: str) -> Iterator[Row]:
    """A row for each conversation, and a broken one for each line or message that is in none.

    Raises:
        UnreadableSource, UnclearDates: names the file.
        UnstatedSide, UnseenSide: names the source and lists who takes part, when all is read.
    """
    sides = Sides(source.us, place=place)
    with chat_files(files, suffix=MEMBERS[source.type]) as members:
        found = _said(members, source, sides)
        if source.us:
            yield from conversations(found, pause=timedelta(hours=source.pause_hours), most_turns=source.most_turns)
        else:
            deque(found, maxlen=0)
    sides.check()


def chat_sha256(files: Sequence[SourceFile], source: ChatSource) -> str:
    """Of the contents of all files in their order; of Slack's with their names too, which say the channel."""
    digest = hashlib.sha256()
    with chat_files(files, suffix=MEMBERS[source.type]) as members:
        for member in members:
            with member.open() as stream:
                content = stream_sha256(stream)
            channel = member.folder if is_day(member) else ""
            name = f"{channel}/{member.base}" if isinstance(source, SlackSource) else ""
            digest.update(f"{name}\n{content}\n".encode())
    return digest.hexdigest()


def _said(members: Sequence[ChatFile], source: ChatSource, sides: Sides) -> Iterator[Said | Row]:
    if isinstance(source, SlackSource):
        yield from slack_messages(members, sides)
    elif isinstance(source, TeamsSource):
        yield from teams_messages(members, sides)
    else:
        for member in members:
            yield from whatsapp_messages(member, sides, order=source.date_order)
