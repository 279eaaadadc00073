"""A row of a source as it lies there, whatever kind of source; one that cannot be read is a broken row, not an error."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row; `number` counts from 1 as the reader of the file would (for CSV without the header). `columns` is None if it is broken.

    `reason` is the name under which the quarantine keeps a broken one, `problem` a sentence about it, `raw` how it stands in the source.
    `file` says which one where a source has several, `sheet` which one of a workbook.
    """

    number: int
    columns: dict[str, Any] | None
    problem: str = ""
    raw: str = ""
    file: str = ""
    sheet: str = ""
    reason: str = "broken_row"

    @property
    def place(self) -> str:
        return f"{self.file}, row {self.number}" if self.file else f"row {self.number}"

    @property
    def content(self) -> dict[str, Any]:
        """The row as it came, for the quarantine and for its hash."""
        return {"line": self.raw} if self.columns is None else self.columns

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical(self.content).encode("utf-8")).hexdigest()


def object_row(number: int, value: Any, raw: str | None) -> Row:
    """The row of a JSON value, broken if it is no object or no text that could be written; `raw` is how it stands in its source."""
    if not isinstance(value, dict):
        return Row(number, None, f"got {type(value).__name__}, want an object", json.dumps(value) if raw is None else raw)
    if lone := _lone_surrogate(value):
        return Row(number, None, lone, json.dumps(value) if raw is None else raw)
    return Row(number, value)


def _lone_surrogate(value: dict[str, Any]) -> str | None:
    # A lone half of a surrogate pair (`"\ud83d"`) is legal JSON, but no text: nothing could write it.
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        return f"not UTF-8 text ({error.reason} at {error.start})"
    return None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dates and decimals as text, bytes as hexadecimal, a number that is none as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def canonical(content: Any) -> str:
    """JSON that only the content decides."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
