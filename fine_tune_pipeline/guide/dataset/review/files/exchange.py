"""All formats in one place: what is open goes out in each, and whatever people hand in is read by its ending."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fine_tune_pipeline.guide.dataset.review.files.html_form import write_html
from fine_tune_pipeline.guide.dataset.review.files.label_studio import read_export, write_interface, write_tasks
from fine_tune_pipeline.guide.dataset.review.files.tables import read_csv, read_xlsx, write_csv, write_xlsx
from fine_tune_pipeline.guide.dataset.review.files.unreadable import UnreadableHandIn
from fine_tune_pipeline.guide.dataset.review.verdicts import Line

Rows = Sequence[Mapping[str, Any]]

FORM = "review.html"
TASKS, INTERFACE = "label_studio_tasks.json", "label_studio_interface.xml"
FILLED_IN_PLACE = ("handout.csv", "handout.xlsx", "handout.jsonl")
"""Hand-outs that people may fill in where they lie."""


def write_formats(folder: Path, rows: Rows, *, formats: Sequence[str], use_case: str) -> dict[str, Path]:
    """Write the hand-out in every format beside the JSONL one; format -> file."""
    writers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "csv": ("handout.csv", lambda path: write_csv(path, rows)),
        "xlsx": ("handout.xlsx", lambda path: write_xlsx(path, rows)),
        "html": (FORM, lambda path: write_html(path, rows, use_case=use_case)),
        "label_studio": (TASKS, lambda path: write_tasks(path, rows)),
    }
    written = {name: folder / writers[name][0] for name in formats if name in writers}
    for name, path in written.items():
        _whole(path, writers[name][1])
    if "label_studio" in written:
        _whole(folder / INTERFACE, write_interface)
    return written


def read_hand_in(path: Path) -> list[Line]:
    """The rows of a file that people handed in.

    Raises:
        UnreadableHandIn: says how to save the file so that it can be read.
    """
    readers = {".jsonl": read_jsonl, ".csv": read_csv, ".tsv": read_csv, ".xlsx": read_xlsx, ".json": read_export}
    reader = readers.get(path.suffix.casefold())
    if reader is None:
        raise UnreadableHandIn(f"{path.name}: want a file that ends in {', '.join(readers)}")
    return reader(path)


def read_jsonl(path: Path) -> list[Line]:
    """One object a line; a line that is none is told, and the others count."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableHandIn(f"{path.name}: not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    return json_lines(path.name, text)


def json_lines(name: str, text: str) -> list[Line]:
    """The lines of a JSONL text, each with where it stands."""
    return [_json_line(f"{name}:{number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _json_line(where: str, line: str) -> Line:
    try:
        row = json.loads(line)
    except ValueError as error:
        return Line(where, {"line": line}, f"not JSON ({error})")
    return Line(where, row) if isinstance(row, dict) else Line(where, {"line": line}, f"got {type(row).__name__}, want an object")


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    """A reader sees the whole file or the one before it."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)
