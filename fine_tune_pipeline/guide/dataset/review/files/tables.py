"""Hand-outs as CSV and Excel workbooks: a row an example, empty columns to fill in, and nothing in a cell that a spreadsheet would run."""

import csv
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from fine_tune_pipeline.guide.dataset.review.files.unreadable import UnreadableHandIn
from fine_tune_pipeline.guide.dataset.review.verdicts import QUESTIONS, VERDICTS, Line

SHOWN = ("id", "content", "look", "why", "source", "prompt", "completion")
TO_FILL = ("verdict", *QUESTIONS, "corrected", "note", "by")
COLUMNS = (*SHOWN, *TO_FILL)
NEEDED = ("id", "by")

CELL_CHARACTERS = 32_767
"""What a cell of Excel holds."""

_CUT = " … (cut; all of it stands in handout.jsonl)"
_RUNS = re.compile(r"[\s']*[=+\-@＝＋－＠]|'*[\t\r\n]")
"""How a cell begins that a spreadsheet takes for a formula; also after apostrophes, so that the one put before it can be told apart."""

_ILLEGAL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_WIDTHS = {"prompt": 60, "completion": 40, "corrected": 40, "note": 30, "why": 24, "look": 16, "by": 16}
_SHEET = "review"


def defused(text: str) -> str:
    """The text with an apostrophe before it if a spreadsheet would run it."""
    return "'" + text if _RUNS.match(text) else text


def restored(text: str) -> str:
    """What `defused` was given."""
    return text[1:] if text.startswith("'") and _RUNS.match(text[1:]) else text


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """UTF-8 with a byte order mark, by which Excel knows it; every cell in quotes."""
    with path.open("w", encoding="utf-8-sig", newline="", errors="replace") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerow(COLUMNS)
        writer.writerows([defused(str(row.get(name) or "")) for name in COLUMNS] for row in rows)


def read_csv(path: Path) -> list[Line]:
    """Rows of a CSV file, however the spreadsheet that saved it separates cells.

    Raises:
        UnreadableHandIn: wrong encoding, or columns are missing.
    """
    text = _decoded(path)
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    # A field may be as long as the text of an example.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        _check_columns(path, header)
        lines = [_csv_line(f"{path.name}:{reader.line_num}", header, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UnreadableHandIn(f"{path.name}:{reader.line_num}: {error}; save it as CSV UTF-8 again, or hand in the .xlsx") from error
    return lines


def _csv_line(where: str, header: Sequence[str], cells: Sequence[str]) -> Line:
    fields = {name: restored(cell) for name, cell in zip(header, cells, strict=False)}
    if len(cells) == len(header):
        return Line(where, fields)
    return Line(where, fields, f"{len(cells)} cells where the header has {len(header)}; put cells that hold the separator in quotes")


def write_xlsx(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A workbook in which all cells are text, with a list to choose from where the answer is one of a few."""
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.worksheets[0]
    sheet.title = _SHEET
    _header(sheet)
    for number, row in enumerate(rows, start=2):
        for column, name in enumerate(COLUMNS, start=1):
            _text_cell(sheet.cell(number, column), str(row.get(name) or ""))
    last = max(2, len(rows) + 1)
    _offer(sheet, VERDICTS, ["verdict"], last=last)
    _offer(sheet, ("yes", "no"), list(QUESTIONS), last=last)
    sheet.freeze_panes = "B2"
    sheet.auto_filter.ref = f"A1:{_letter(COLUMNS[-1])}{last}"
    _explain(book.create_sheet("how to"))
    book.save(path)


def read_xlsx(path: Path) -> list[Line]:
    """Rows of a workbook: of the sheet `review`, or of the first one.

    Raises:
        UnreadableHandIn: no workbook, or columns are missing.
    """
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with warnings.catch_warnings():
            # Excel adds extensions of its own to the lists of choices when it saves; only the cells matter here.
            warnings.simplefilter("ignore", UserWarning)
            book = load_workbook(path, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, ValueError, OSError) as error:
        raise UnreadableHandIn(f"{path.name}: no Excel workbook ({error}); save it as .xlsx without a password") from error
    sheet = book[_SHEET] if _SHEET in book.sheetnames else book.worksheets[0]
    rows = sheet.iter_rows(values_only=True)
    header = [str(name or "").strip().casefold() for name in next(rows, ())]
    _check_columns(path, header)
    lines = []
    for number, cells in enumerate(rows, start=2):
        if any(cell is not None and str(cell).strip() for cell in cells):
            lines.append(Line(f"{path.name}:{number}", {name: cell for name, cell in zip(header, cells, strict=False) if name}))
    book.close()
    return lines


def _header(sheet: Any) -> None:
    from openpyxl.styles import Font, PatternFill

    for column, name in enumerate(COLUMNS, start=1):
        cell = sheet.cell(1, column, name)
        cell.font = Font(bold=True)
        cell.fill = PatternFill("solid", fgColor="FFF2CC" if name in TO_FILL else "D9D9D9")
        sheet.column_dimensions[_letter(name)].width = _WIDTHS.get(name, 11)


def _text_cell(cell: Any, text: str) -> None:
    from openpyxl.styles import Alignment

    cell.number_format = "@"
    cell.alignment = Alignment(wrap_text=True, vertical="top")
    if text:
        cell.value = _cell(text)
        # Not a formula, whatever it begins with; and it stays a text when somebody edits it.
        cell.data_type = "s"
        cell.quotePrefix = True


def _offer(sheet: Any, choices: Sequence[str], names: Sequence[str], *, last: int) -> None:
    """Let people choose from a list in these columns, down to the last row."""
    from openpyxl.worksheet.datavalidation import DataValidation

    offered = DataValidation(type="list", formula1=f'"{",".join(choices)}"', allow_blank=True, showErrorMessage=True)
    offered.error = f"Choose one of {', '.join(choices)}, or leave it empty."
    for name in names:
        offered.add(f"{_letter(name)}2:{_letter(name)}{last}")
    sheet.add_data_validation(offered)


def _letter(name: str) -> str:
    from openpyxl.utils import get_column_letter

    return get_column_letter(COLUMNS.index(name) + 1)


def _cell(text: str) -> str:
    text = _ILLEGAL.sub("\ufffd", text)
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - len(_CUT)] + _CUT


def _explain(sheet: Any) -> None:
    sheet.column_dimensions["A"].width, sheet.column_dimensions["B"].width = 14, 90
    said = {
        "verdict": "accept, reject or fix; may be left empty when all questions are answered",
        **{name: f"{question} yes or no" for name, question in QUESTIONS.items()},
        "corrected": "the right answer, for a fix; leave the column completion as it is",
        "by": "your name",
        "look": "rows for two people: both judge them, each in an own copy of the file, without seeing what the other says",
    }
    for row in said.items():
        sheet.append(row)


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableHandIn(
            f"{path.name}: not {encoding.removesuffix('-sig').upper()} (byte {error.start:,}: {data[error.start : error.start + 1]!r}); "
            "save it as CSV UTF-8, or hand in the .xlsx"
        ) from error


def _check_columns(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in NEEDED if name not in header]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if missing or twice:
        problem = f"no column {', '.join(missing)}" if missing else f"column {', '.join(twice)} is there twice"
        raise UnreadableHandIn(
            f"{path.name}: {problem}; found {', '.join(filter(None, header)) or 'no header'}; keep the header of the hand-out"
        )
    if not {"verdict", *QUESTIONS}.intersection(header):
        raise UnreadableHandIn(f"{path.name}: neither a column verdict nor one of {', '.join(QUESTIONS)}; keep the header of the hand-out")
