"""The hand-out as tasks for Label Studio with a labelling interface, and annotations from its JSON export."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from fine_tune_pipeline.guide.dataset.review.files.unreadable import UnreadableHandIn
from fine_tune_pipeline.guide.dataset.review.verdicts import QUESTIONS, VERDICTS, Line

SHOWN = ("id", "content", "why", "look", "source", "prompt", "completion")
CHOSEN = ("verdict", *QUESTIONS)
WRITTEN = ("corrected", "note")


def write_tasks(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A list of tasks, as the import of a project takes it."""
    tasks = [{"data": {name: str(row.get(name) or "") for name in SHOWN}} for row in rows]
    path.write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")


def write_interface(path: Path) -> None:
    """The labelling interface, for Settings > Labeling Interface > Code."""
    view = Element("View")
    SubElement(view, "Header", value="$why")
    SubElement(view, "Header", value="$look", size="5")
    SubElement(view, "Text", name="prompt", value="$prompt")
    SubElement(view, "Header", value="The answer", size="4")
    SubElement(view, "Text", name="completion", value="$completion")
    _choices(view, "verdict", "Verdict (follows from the answers if left open)", VERDICTS)
    for name, question in QUESTIONS.items():
        _choices(view, name, question, ("yes", "no"))
    for name, said in (("corrected", "The right answer, for a fix"), ("note", "Note")):
        SubElement(view, "Header", value=said, size="5")
        SubElement(view, "TextArea", name=name, toName="completion", rows="3", editable="true", maxSubmissions="1")
    indent(view)
    path.write_text(tostring(view, encoding="unicode") + "\n", encoding="utf-8")


def read_export(path: Path) -> list[Line]:
    """Annotations of an export in the format JSON; skipped and empty ones say nothing.

    Raises:
        UnreadableHandIn: not JSON, or another format.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UnreadableHandIn(f"{path.name}: not JSON ({error}); export it from Label Studio as JSON") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UnreadableHandIn(f"{path.name}: want a list of tasks; export it from Label Studio as JSON")
    if any("annotations" not in task for task in tasks):
        raise UnreadableHandIn(f"{path.name}: a task has no `annotations`; export it as JSON, not as JSON-MIN")
    found = [(task, annotation) for task in tasks for annotation in task["annotations"] or [] if not annotation.get("was_cancelled")]
    # Somebody who changes their mind makes a second annotation.
    found.sort(key=lambda pair: str(pair[1].get("updated_at") or pair[1].get("created_at") or ""))
    return [_line(path, task, annotation) for task, annotation in found]


def _line(path: Path, task: Mapping[str, Any], annotation: Mapping[str, Any]) -> Line:
    data = task.get("data")
    where = f"{path.name}: task {task.get('id', '?')}, annotation {annotation.get('id', '?')}"
    if not isinstance(data, dict):
        return Line(where, {}, "the task has no `data`; import the tasks of the hand-out as they are")
    fields = {"id": data.get("id"), "content": data.get("content"), "by": _person(annotation.get("completed_by"))}
    return Line(where, fields | dict(_results(annotation.get("result") or [])))


def _results(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for result in results:
        name, value = str(result.get("from_name")), result.get("value") or {}
        given = value.get("choices" if name in CHOSEN else "text") if name in (*CHOSEN, *WRITTEN) else None
        if given:
            yield name, given if isinstance(given, str) else "\n".join(map(str, given))


def _person(value: Any) -> str:
    """The server writes a user's number, or, asked for more, their e-mail."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    return "" if value is None else value if isinstance(value, str) else f"label_studio user {value}"


def _choices(view: Element, name: str, said: str, values: Sequence[str]) -> None:
    SubElement(view, "Header", value=said, size="5")
    group = SubElement(view, "Choices", name=name, toName="completion", choice="single", showInline="true")
    for value in values:
        SubElement(group, "Choice", value=value)
