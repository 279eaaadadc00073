"""Hand-outs in every format, and what comes back."""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import openpyxl
import pytest

from fine_tune_pipeline.guide.dataset.review.files.exchange import read_hand_in, write_formats
from fine_tune_pipeline.guide.dataset.review.files.html_form import form
from fine_tune_pipeline.guide.dataset.review.files.tables import COLUMNS, defused, read_csv, read_xlsx, restored, write_csv, write_xlsx
from fine_tune_pipeline.guide.dataset.review.verdicts import Line, content, known, read_verdicts, shown
from fine_tune_pipeline_tests.guide.dataset.make import OPEN

NASTY = [
    "=1+1", "+49 30 123", "-5 %", "@SUM(A1)", "'=1+1", "\t=cmd|' /C calc'!A0", " =2", "'tis fine", "plain",
    'a "quoted", cell; with\nline ends',
    "</script><script>alert(1)</script>", "<!--", "&lt;", "\u2028 \u2029 \U0001f600 é", "＝1", "'\nx", "x" * 40_000,
]  # fmt: skip


def handout(texts=NASTY):
    return [
        {"id": f"{number:05}", "content": content(text, text), "prompt": text, "completion": text, "source": "s", "why": "sample",
         "look": "one person", "people": 1}
        for number, text in enumerate(texts)
    ]  # fmt: skip


def fill_csv(path, answers):
    """Somebody opens the file, fills cells in, by row, and saves it."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, given in answers.items():
        rows[number].update(given)
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def fill_xlsx(path, answers):
    book = openpyxl.load_workbook(path)
    for number, given in answers.items():
        for name, value in given.items():
            book["review"].cell(number + 2, COLUMNS.index(name) + 1).value = value
    book.save(path)


def verdicts(path, rows):
    return read_verdicts(read_hand_in(path), known(shown(rows), []), OPEN)


@pytest.mark.parametrize(("write", "fill", "name"), [(write_csv, fill_csv, "h.csv"), (write_xlsx, fill_xlsx, "h.xlsx")])
def test_a_table_comes_back_with_what_was_filled_in(tmp_path, write, fill, name):
    rows, path = handout(), tmp_path / name
    write(path, rows)
    last = len(rows) - 1
    fill(path, {
        0: {"verdict": "accept", "by": "Kim"},
        1: {"correct": "no", "corrected": "another", "note": "so", "by": "Kim"},
        2: {"correct": "yes", "complete": "yes", "tone": "yes", "private": "no", "by": "Kim"},
        last: {"verdict": "reject", "by": "Kim"},
    })  # fmt: skip
    found, refused = verdicts(path, rows)
    assert refused == []
    assert [(one.id, one.verdict, one.completion) for one in found] == [
        ("00000", "accept", None), ("00001", "fix", "another"), ("00002", "reject", None), (f"{last:05}", "reject", None),
    ]  # fmt: skip
    assert (found[1].note, found[1].correct, found[2].private) == ("so", False, False)
    assert [one.content for one in found] == [rows[place]["content"] for place in (0, 1, 2, last)]


@pytest.mark.parametrize(("write", "name"), [(write_csv, "h.csv"), (write_xlsx, "h.xlsx")])
def test_a_table_that_nobody_filled_in_says_nothing(tmp_path, write, name):
    write(tmp_path / name, handout())
    assert verdicts(tmp_path / name, handout()) == ([], [])


def test_no_cell_of_a_csv_runs_in_a_spreadsheet(tmp_path):
    write_csv(tmp_path / "h.csv", handout())
    with (tmp_path / "h.csv").open(encoding="utf-8-sig", newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert not [cell for cell in cells if re.match(r"\s*[=+\-@＝＋－＠]|[\t\r\n]", cell)]
    assert [line.fields["prompt"] for line in read_csv(tmp_path / "h.csv")] == NASTY


@pytest.mark.parametrize("text", [*NASTY, "''=1", "'", "", "''x", "\r", "'\t1"])
def test_a_defused_text_can_be_restored(text):
    assert restored(defused(text)) == text


def test_no_cell_of_a_workbook_is_a_formula_and_ids_stay_text(tmp_path):
    write_xlsx(tmp_path / "h.xlsx", handout())
    sheet = openpyxl.load_workbook(tmp_path / "h.xlsx")["review"]
    cells = [cell for row in sheet.iter_rows(min_row=2) for cell in row if cell.value is not None]
    assert {cell.data_type for cell in cells} == {"s"}
    assert all(cell.quotePrefix for cell in cells)
    assert sheet["A2"].value == "00000"
    assert {cell.number_format for cell in cells} == {"@"}
    assert all(len(cell.value) <= 32_767 for cell in cells)


def test_a_workbook_offers_the_verdicts_and_yes_and_no(tmp_path):
    write_xlsx(tmp_path / "h.xlsx", handout(["a", "b"]))
    sheet = openpyxl.load_workbook(tmp_path / "h.xlsx")["review"]
    offered = {str(rule.sqref): rule.formula1 for rule in sheet.data_validations.dataValidation}
    column = {name: openpyxl.utils.get_column_letter(COLUMNS.index(name) + 1) for name in COLUMNS}
    assert offered[f"{column['verdict']}2:{column['verdict']}3"] == '"accept,reject,fix"'
    [yes_no] = [cells for cells, choices in offered.items() if choices == '"yes,no"']
    assert set(yes_no.split()) == {f"{column[name]}2:{column[name]}3" for name in ("correct", "complete", "tone", "private")} or yes_no == (
        f"{column['correct']}2:{column['private']}3"
    )


def test_characters_that_no_workbook_holds_are_replaced_and_the_row_still_counts(tmp_path):
    rows = handout(["bell \x07 and \x00"])
    write_xlsx(tmp_path / "h.xlsx", rows)
    fill_xlsx(tmp_path / "h.xlsx", {0: {"verdict": "accept", "by": "Kim"}})
    [found], refused = verdicts(tmp_path / "h.xlsx", rows)
    assert (found.content, refused) == (rows[0]["content"], [])


def test_ids_that_excel_made_numbers_of_are_known_by_their_content(tmp_path):
    rows = handout(["a", "b"])
    write_xlsx(tmp_path / "h.xlsx", rows)
    fill_xlsx(tmp_path / "h.xlsx", {0: {"id": 0, "verdict": "accept", "by": "Kim"}, 1: {"id": 1, "verdict": True, "by": "Kim"}})
    found, refused = verdicts(tmp_path / "h.xlsx", rows)
    assert [one.id for one in found] == ["00000"]
    assert [row.reason for row in refused] == ["unknown_verdict"]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"id": "00001"}, "edited_id"),
        ({"id": "made up"}, "edited_id"),
        ({"content": "c0000000000000000"}, "unknown_content"),
        ({"completion": "mended in the wrong cell"}, "edited_answer"),
    ],
)
@pytest.mark.parametrize(("write", "fill", "name"), [(write_csv, fill_csv, "h.csv"), (write_xlsx, fill_xlsx, "h.xlsx")])
def test_a_row_that_was_edited_where_it_must_not_be_is_refused(tmp_path, write, fill, name, edit, reason):
    rows = handout(["a", "b"])
    write(tmp_path / name, rows)
    fill(tmp_path / name, {0: {"verdict": "accept", "by": "Kim", **edit}})
    found, [row] = verdicts(tmp_path / name, rows)
    assert (found, row.reason) == ([], reason)
    assert row.detail.startswith(f"{name}:2: ")


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8"), ("\t", "utf-16"), (",", "utf-8-sig")])
def test_a_csv_is_read_however_a_spreadsheet_saved_it(tmp_path, delimiter, encoding):
    rows = handout(["a"])
    text = delimiter.join(["ID", "By", "Verdict"]) + "\r\n" + delimiter.join(["00000", "Kim", "accept"]) + "\r\n\r\n"
    (tmp_path / "v.csv").write_bytes(text.encode(encoding))
    [found], refused = verdicts(tmp_path / "v.csv", rows)
    assert (found.verdict, refused) == ("accept", [])


def test_a_csv_row_with_other_cells_than_the_header_is_refused(tmp_path):
    (tmp_path / "v.csv").write_text("id,by,verdict\n00000,Kim,accept,more\n", encoding="utf-8")
    found, [row] = verdicts(tmp_path / "v.csv", handout(["a"]))
    assert (found, row.reason) == ([], "broken_line")
    assert "4 cells where the header has 3" in row.detail


def test_formulas_of_a_workbook_are_read_by_their_value(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["id", "by", "verdict"])
    book.active.append(["00000", "Kim", '=IF(1,"accept","")'])
    book.save(tmp_path / "v.xlsx")
    # A formula that no spreadsheet has computed has no value: the row says nothing, and is told so.
    _, [row] = verdicts(tmp_path / "v.xlsx", handout(["a"]))
    assert row.reason == "unknown_verdict"


class _Page(HTMLParser):
    """The parts of a page: its elements with attributes, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.now = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.now = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_data(self, data):
        if self.now is not None:
            self.texts.append((*self.now, data))
            self.now = None


@pytest.fixture(scope="module")
def page():
    return _Page(form(handout(), use_case="fruit <& co>"))


def test_the_form_holds_its_rows_whatever_they_say(page):
    [data] = [text for tag, attributes, text in page.texts if attributes.get("id") == "handout"]
    inside = json.loads(data)
    assert [row["prompt"] for row in inside["rows"]] == NASTY
    assert [row["content"] for row in inside["rows"]] == [row["content"] for row in handout()]
    assert not re.search("[<>&\u2028\u2029]", data)
    assert sum(tag == "script" for tag, _ in page.elements) == 2


def test_the_form_loads_nothing_and_may_run_its_own_script_only(page):
    [policy] = [attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    [script] = [text for tag, attributes, text in page.texts if tag == "script" and not attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (rules["default-src"], rules["connect-src"]) == ("'none'", "'none'")
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert not [attributes for _, attributes in page.elements if attributes.keys() & {"src", "href", "action", "onclick", "style"}]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|https?://|fetch\(|XMLHttp", script)


def test_every_field_of_the_form_has_a_name_for_those_who_cannot_see_it(page):
    labelled = {attributes["for"] for tag, attributes in page.elements if tag == "label" and "for" in attributes}
    assert {attributes["id"] for tag, attributes in page.elements if tag == "textarea"} <= labelled
    assert ("html", {"lang": "en"}) in page.elements


CASES = [
    {}, {"verdict": "accept"}, {"verdict": "reject"}, {"verdict": "fix"}, {"verdict": "fix", "corrected": "new"}, {"corrected": "new"},
    {"corrected": "shown"}, {"private": "no"}, {"verdict": "accept", "private": "no"}, {"verdict": "accept", "correct": "no"},
    {"verdict": "accept", "corrected": "new"}, {"tone": "no"}, {"correct": "no", "corrected": "new"}, {"correct": "yes", "tone": "yes"},
    {"correct": "yes", "complete": "yes", "tone": "yes", "private": "yes"}, {"note": "hm"}, {"verdict": "accept", "note": "hm"},
]  # fmt: skip


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the script of the form")
def test_the_form_decides_as_the_pipeline_does(page):
    """The script's own rule, run by node on all cases, beside `read_verdicts` on the same answers."""
    [script] = [text for tag, attributes, text in page.texts if tag == "script" and not attributes]
    rule = re.search(r"function decided\(.*?\n}\n", script, re.DOTALL)[0]
    program = (
        'const handout = {questions: {correct: "", complete: "", tone: "", private: ""}};\n'
        f"{rule}\nconst cases = {json.dumps(CASES)};\n"
        'console.log(JSON.stringify(cases.map((given) => decided({completion: "shown"}, given).verdict || null)));'
    )
    said = json.loads(subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True, timeout=60).stdout)
    assert said == [_pipeline(given) for given in CASES]


def _pipeline(given):
    rows = [{"id": "a", "content": content("p", "shown"), "prompt": "p", "completion": "shown"}]
    line = {"id": "a", "content": rows[0]["content"], "by": "Kim", **given}
    found, _ = read_verdicts([Line("x", line)], known(shown(rows), []), OPEN)
    return found[0].verdict if found else None


def export(rows, *annotations):
    """What Label Studio exports as JSON after tasks were imported as they were handed out."""
    return [
        {"id": number, "data": row, "annotations": [given for place, given in annotations if place == number], "predictions": []}
        for number, row in enumerate(rows)
    ]


def annotation(by, at="2026-11-27T10:00:00Z", cancelled=False, **given):
    kinds = {"corrected": ("textarea", "text"), "note": ("textarea", "text")}
    result = []
    for name, value in given.items():
        kind, key = kinds.get(name, ("choices", "choices"))
        result.append({"from_name": name, "to_name": "completion", "type": kind, "value": {key: [value]}})
    return {"id": 7, "completed_by": by, "result": result, "was_cancelled": cancelled, "created_at": at, "updated_at": at}


def test_label_studio_takes_tasks_and_gives_annotations_back(tmp_path):
    rows = handout()
    written = write_formats(tmp_path, rows, formats=["label_studio"], use_case="fruit")
    tasks = json.loads(written["label_studio"].read_text(encoding="utf-8"))
    assert [task["data"]["prompt"] for task in tasks] == NASTY
    given = export(
        [task["data"] for task in tasks],
        (0, annotation({"email": "kim@fruit.example"}, verdict="accept")),
        (1, annotation(3, correct="no", corrected="another", note="so")),
        (2, annotation(3, cancelled=True)),
        (4, annotation(3, "2026-11-27T12:00:00Z", verdict="reject")),
        (3, annotation(3, "2026-11-27T11:00:00Z", correct="yes", complete="yes", tone="yes", private="yes")),
        (4, annotation(3, "2026-11-27T10:00:00Z", verdict="accept")),
    )
    (tmp_path / "export.json").write_text(json.dumps(given), encoding="utf-8")
    found, refused = verdicts(tmp_path / "export.json", rows)
    assert refused == []
    assert [(one.id, one.verdict, one.by) for one in found] == [
        ("00000", "accept", "kim@fruit.example"), ("00001", "fix", "label_studio user 3"), ("00004", "accept", "label_studio user 3"),
        ("00003", "accept", "label_studio user 3"), ("00004", "reject", "label_studio user 3"),
    ]  # fmt: skip
    assert (found[1].completion, found[1].note) == ("another", "so")


def test_the_interface_names_the_columns_of_the_tasks_and_asks_all_questions(tmp_path):
    write_formats(tmp_path, handout(["a"]), formats=["label_studio"], use_case="fruit")
    view = ElementTree.parse(tmp_path / "label_studio_interface.xml").getroot()
    [task] = json.loads((tmp_path / "label_studio_tasks.json").read_text(encoding="utf-8"))
    named = {element.get("value")[1:] for element in view.iter() if (element.get("value") or "").startswith("$")}
    assert named <= task["data"].keys()
    assert [element.get("name") for element in view.iter("Choices")] == ["verdict", "correct", "complete", "tone", "private"]
    texts = {element.get("name") for element in view.iter("Text")}
    assert {element.get("toName") for element in view.iter() if element.get("toName")} <= texts


def test_all_formats_are_written_and_nothing_is_left_beside_them(tmp_path):
    written = write_formats(tmp_path, handout(), formats=["jsonl", "csv", "xlsx", "html", "label_studio", "mlflow"], use_case="fruit")
    assert {path.name for path in tmp_path.iterdir()} == {*(path.name for path in written.values()), "label_studio_interface.xml"}
    assert len(read_xlsx(written["xlsx"])) == len(NASTY)
