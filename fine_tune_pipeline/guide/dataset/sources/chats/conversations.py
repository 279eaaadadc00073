"""What people said in a chat becomes conversations of two sides, each a row in the training format `messages`.

Names and numbers of those who take part are read to tell the sides apart, and go no further: what is left of them is a role.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.guide.dataset.sources.rows import Row, canonical

SHOWN_PEOPLE = 30
"""An error lists so many of those who take part, the busiest first."""

JOINED_MESSAGES = 200
"""A turn of more messages is a channel in which one side speaks alone."""

MENTIONS = {True: "@assistant", False: "@user"}
"""What stands in a text where somebody was called by name, by whether they are us."""


_CALL = re.compile(r"@(?P<words>[^\s@]+(?:[ ][^\s@]+){0,4})")


class UnstatedSide(ValueError):
    """A source of chats does not say who answers."""


class UnseenSide(ValueError):
    """Somebody who is to answer says nothing in the whole source."""


@dataclass(frozen=True)
class Said:
    """One message; `number` is its line, or its place in the list that the file holds, and `raw` how it stands there.

    Messages of one `talk` follow each other; a pause ends a conversation, but not a `thread`, which is one. `who` said it is known where
    nothing else tells apart what two people write in the same minute; it decides ids, and goes no further.
    """

    file: str
    number: int
    at: datetime
    ours: bool
    text: str
    raw: str
    talk: str
    thread: bool = False
    channel: str = ""
    who: str = ""


class Sides:
    """Who answers, by the names that a source gives; and who was seen."""

    def __init__(self, us: Collection[str], *, place: str) -> None:
        self._us = frozenset(map(one_space, us))
        self._place = place
        self._seen: Counter[str] = Counter()
        self._met: set[str] = set()
        self._names: set[str] = set(self._us)

    def ours(self, *names: str) -> bool:
        """Whether one of the names of somebody, the id first, is one of ours."""
        return not self._us.isdisjoint(names)

    def hear(self, *names: str) -> bool:
        """The same of somebody who says something, who counts as seen."""
        shown = [name for name in dict.fromkeys(names) if name][:2]
        self._seen[" = ".join(map(repr, shown))] += 1
        self._met.update(self._us.intersection(names))
        self._names.update(names)
        return self.ours(*names)

    def called(self, text: str) -> str:
        """The text with `@user` or `@assistant` where somebody who has spoken, or one of us, is called by name.

        An export does not say where such a name ends: the longest that is known counts.
        """
        return _CALL.sub(self._called, text) if "@" in text else text

    def _called(self, found: re.Match[str]) -> str:
        words = found["words"].split(" ")
        for count in range(len(words), 0, -1):
            written = " ".join(words[:count])
            name = written.rstrip(".,:;!?)")
            if name in self._names:
                return " ".join([MENTIONS[self.ours(name)] + written[len(name) :], *words[count:]])
        return found.group()

    def check(self) -> None:
        """Look at the names when all is read.

        Raises:
            UnstatedSide, UnseenSide: lists who takes part.
        """
        if not self._us:
            raise UnstatedSide(f"{self._place}: us is missing: write who answers, by name or id; {self._people()}")
        if unseen := sorted(self._us - self._met):
            raise UnseenSide(f"{self._place}: us: {unseen[0]!r} says nothing in it; correct the name or take it out; {self._people()}")

    def _people(self) -> str:
        people = some((f"{name} ({messages})" for name, messages in self._seen.most_common()), most=SHOWN_PEOPLE)
        return f"who takes part (messages): {people}"


def conversations(found: Iterable[Said | Row], *, pause: timedelta, most_turns: int) -> Iterator[Row]:
    """A row of columns `id`, `messages`, `started`, and of Slack `channel` for each conversation; rows that are none pass by.

    Turns of one side in a row are joined. What we say before anybody asks is a broken row (`opens_with_us`) for each message, since
    nothing stands before it that it could be the answer to.

    Args:
        pause: a longer silence ends a conversation.
        most_turns: from so many on, the next turn of the user begins a new one.
    """
    turns: list[list[Said]] = []
    for one in found:
        if isinstance(one, Row):
            yield one
            continue
        if turns and _ends(turns, one, pause, most_turns):
            yield _row(turns)
            turns = []
        if turns and turns[-1][-1].ours == one.ours:
            turns[-1].append(one)
        elif turns or not one.ours:
            turns.append([one])
        else:
            yield unused(one.file, one.number, "opens_with_us", "is ours, and there is no question before it", one.raw)
    if turns:
        yield _row(turns)


def _ends(turns: Sequence[Sequence[Said]], one: Said, pause: timedelta, most_turns: int) -> bool:
    last = turns[-1][-1]
    full = len(turns[-1]) >= JOINED_MESSAGES if last.ours == one.ours else len(turns) >= most_turns and last.ours
    return one.talk != last.talk or full or (not one.thread and one.at - last.at > pause)


def _row(turns: Sequence[Sequence[Said]]) -> Row:
    first = turns[0][0]
    messages = [{"role": "assistant" if turn[0].ours else "user", "content": "\n".join(one.text for one in turn)} for turn in turns]
    columns: dict[str, Any] = {"id": _id(first), "messages": messages, "started": first.at.isoformat()}
    return Row(first.number, columns | ({"channel": first.channel} if first.channel else {}), file=first.file)


def _id(first: Said) -> str:
    # By its first message alone: it stays when a later export brings more of the conversation.
    said = [first.channel, first.at.isoformat(), first.text, *([first.who] if first.who else [])]
    return hashlib.sha256(canonical(said).encode("utf-8")).hexdigest()[:16]


def unused(file: str, number: int, reason: str, problem: str, raw: str) -> Row:
    """A line or message of an export that is in no conversation."""
    return Row(number, None, problem, raw, file=file, reason=reason)


def one_space(name: str) -> str:
    """A name as it can be typed: telephone numbers are written with spaces and hyphens that no keyboard has."""
    return " ".join(name.replace("\u2011", "-").split())
