"""Messages of many files in the order in which they were said: sorted on disk, so that memory does not grow with their number."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime

from fine_tune_pipeline.guide.dataset.sources.chats.conversations import Said

_COLUMNS = "channel TEXT, thread TEXT, at TEXT, id TEXT, file TEXT, number INTEGER, ours INTEGER, text TEXT, raw TEXT"


class OnDisk:
    """A file of messages, which goes when it is closed; each has an id of its own within its channel."""

    def __init__(self) -> None:
        # A database without a name lies in a temporary file, which nobody else sees.
        self._copy = sqlite3.connect("", isolation_level=None)
        self._copy.execute("BEGIN")
        self._copy.execute(f"CREATE TABLE said ({_COLUMNS}, PRIMARY KEY (channel, id))")

    def add(self, said: Said, *, id_: str, thread: str) -> bool:
        """Take a message in; False if its channel has one of this id already."""
        at = said.at.isoformat(timespec="microseconds")
        values = (said.channel, thread, at, id_, said.file, said.number, said.ours, said.text, said.raw)
        return self._copy.execute("INSERT OR IGNORE INTO said VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values).rowcount == 1

    def change(self, channel: str, id_: str, text: str) -> bool:
        """Give a message another text; False if it is not here."""
        return self._copy.execute("UPDATE said SET text = ? WHERE channel = ? AND id = ?", (text, channel, id_)).rowcount == 1

    def take_out(self, channel: str, id_: str) -> list[str]:
        """Forget a message; gives how it stood in its file, or nothing if it is not here."""
        found = self._copy.execute("DELETE FROM said WHERE channel = ? AND id = ? RETURNING raw", (channel, id_))
        return [raw for (raw,) in found.fetchall()]

    def sorted(self) -> Iterator[Said]:
        """All messages, channel by channel, and of each channel the main flow before its threads."""
        for channel, thread, at, _, file, number, ours, text, raw in self._copy.execute(
            "SELECT * FROM said ORDER BY channel, thread, at, id"
        ):
            talk = f"{channel}/{thread}"
            yield Said(file, number, datetime.fromisoformat(at), bool(ours), text, raw, talk, thread=bool(thread), channel=channel)

    def close(self) -> None:
        """Delete the file."""
        self._copy.close()
