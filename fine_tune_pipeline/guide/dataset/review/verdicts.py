"""What people say of examples: one verdict from one line of whatever they handed in, and what several people together decide."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isclose
from typing import Any, NamedTuple

from fine_tune_pipeline.artifacts.fingerprint import fingerprint
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.objective.task import Task

VERDICTS = ("accept", "reject", "fix")

QUESTIONS = {
    "correct": "Is the answer right?",
    "complete": "Does the answer leave nothing out?",
    "tone": "Is the tone right?",
    "private": "Is the row free of personal data?",
}
"""Each is answered by yes or no; no to `private` means that the row still holds personal data."""

FILLED = ("verdict", *QUESTIONS, "corrected", "note")
"""What people fill in, beside `by`: a row in which all of these are empty says nothing."""

_YES = {"yes", "y", "true", "1", "1.0"}
_NO = {"no", "n", "false", "0", "0.0"}
_LOOKS_LIKE_A_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Verdict:
    """What one person says of one example.

    `completion` is the right answer of a `fix`; an answer to a question is None where it was not given. `content` is the hash of the text
    that the person saw: a verdict holds for that text only, wherever it comes up again.
    """

    id: str
    verdict: str
    by: str
    completion: str | None = None
    note: str = ""
    correct: bool | None = None
    complete: bool | None = None
    tone: bool | None = None
    private: bool | None = None
    content: str = ""

    @property
    def person(self) -> str:
        """Who it is, however the name is written."""
        return self.by.strip().casefold()

    def row(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


_FIELDS = frozenset(field.name for field in fields(Verdict))


def remembered(entry: Mapping[str, Any]) -> Verdict:
    """A verdict that the ledger kept; what else it noted is not part of it."""
    return Verdict(**{name: value for name, value in entry.items() if name in _FIELDS})


def content(prompt: str, completion: str, rejected: str | None = None) -> str:
    """The hash of a row as people see it. A letter before the digits, since spreadsheets make numbers of `123e45`."""
    shown = [prompt, completion, *([] if rejected is None else [rejected])]
    return "c" + fingerprint({"shown": shown})


class Line(NamedTuple):
    """One row of a file that people handed in: where it stands, and its fields; `broken` says why it has none."""

    where: str
    fields: dict[str, Any]
    broken: str | None = None


class Shown(NamedTuple):
    """What people were shown."""

    id: str
    content: str
    prompt: str
    completion: str


class Refusal(NamedTuple):
    """Why a line is no verdict: a short fixed name, and a sentence."""

    reason: str
    detail: str


class Known(NamedTuple):
    """What was handed out: here by id, and in all hand-outs by content."""

    here: Mapping[str, Shown]
    everywhere: Mapping[str, Shown]


def shown(rows: Sequence[Mapping[str, Any]]) -> list[Shown]:
    """What hand-outs showed; those of an earlier layout do not name the content."""
    return [
        Shown(row["id"], row.get("content") or content(row["prompt"], row["completion"]), row["prompt"], row["completion"]) for row in rows
    ]


def known(here: Sequence[Shown], everywhere: Sequence[Shown]) -> Known:
    """An index over what was handed out; the later hand-out of an id counts."""
    return Known({row.id: row for row in here}, {row.content: row for row in (*everywhere, *here)})


def read_verdicts(lines: Sequence[Line], known: Known, task: Task) -> tuple[list[Verdict], list[Quarantined]]:
    """The verdicts in the order of the lines, and the lines that are none, with the reason. Rows that nobody filled in are neither."""
    verdicts, refused = [], []
    for line in lines:
        if line.broken is None and not filled(line.fields):
            continue
        found = Refusal("broken_line", line.broken) if line.broken is not None else _read(line.fields, known, task)
        if isinstance(found, Verdict):
            verdicts.append(found)
        else:
            refused.append(Quarantined(str(line.fields.get("id", "")), found.reason, f"{line.where}: {found.detail}", line.fields))
    return verdicts, refused


def filled(fields: Mapping[str, Any]) -> bool:
    """Whether somebody said something in this row. A name alone says nothing: people fill the column down."""
    if any(_text(fields.get(name)) for name in FILLED):
        return True
    # A line without any text of a hand-out was written by hand: then it must be a verdict, or it is told why it is none.
    return "prompt" not in fields


def _read(fields: Mapping[str, Any], known: Known, task: Task) -> Verdict | Refusal:
    row = _row(fields, known)
    if isinstance(row, Refusal):
        return row
    answers = {name: _answer(name, fields.get(name)) for name in QUESTIONS}
    wrong = next((answer for answer in answers.values() if isinstance(answer, Refusal)), None)
    if wrong is not None:
        return wrong._replace(detail=f"{row.id}: {wrong.detail}")
    given: dict[str, bool | None] = {name: answer for name, answer in answers.items() if not isinstance(answer, Refusal)}
    verdict = _verdict(fields, row, given)
    if isinstance(verdict, Refusal):
        return verdict
    by = fields.get("by")
    if not isinstance(by, str) or not by.strip():
        return Refusal("no_reviewer", f"{row.id}: `by` is {by!r}, want the name of who decided")
    completion = _corrected(fields, row) if verdict == "fix" else None
    problem = invalid_fix(completion, row.completion, task) if verdict == "fix" else None
    if problem is not None:
        return Refusal("invalid_fix", f"{row.id}: {problem}")
    return Verdict(row.id, verdict, by.strip(), completion, _text(fields.get("note")), **given, content=row.content)


def _row(fields: Mapping[str, Any], known: Known) -> Shown | Refusal:
    """Which row the line is about: the content decides, and an id that does not belong to it was edited or sorted apart."""
    id_, name = _text(fields.get("id")), _text(fields.get("content"))
    row = known.everywhere.get(name) if name else known.here.get(id_)
    if name and row is None:
        return Refusal("unknown_content", f"content {name!r} of id {id_!r} was not handed out; leave the column content as it is")
    if row is None:
        return _unknown(id_)
    if id_ not in (row.id, "") and not _same_number(id_, row.id):
        return Refusal("edited_id", f"id {id_!r} stands beside the content of {row.id!r}; copy both from the hand-out, row by row")
    shown = fields.get("completion")
    if "corrected" in fields and "prompt" in fields and isinstance(shown, str) and _plain(shown) != _plain(row.completion):
        return Refusal("edited_answer", f"{row.id}: completion was changed; leave it as it is and write the right answer into corrected")
    return row


def _unknown(id_: str) -> Refusal:
    if _is_number(id_) and not id_.isdigit():
        return Refusal("id_became_a_number", f"id {id_!r} looks like what a spreadsheet makes of one; hand the column content in too")
    return Refusal("unknown_id", f"id {id_!r} was not handed out; copy ids from the hand-out")


def _answer(name: str, value: Any) -> bool | Refusal | None:
    text = _text(value).casefold()
    if text in _YES | _NO:
        return text in _YES
    return None if not text else Refusal("unknown_answer", f"{name} is {value!r}, want yes or no")


def _verdict(fields: Mapping[str, Any], row: Shown, given: Mapping[str, bool | None]) -> str | Refusal:
    """The verdict that is given, or that follows from the answers. Personal data that is left outweighs all else."""
    value = fields.get("verdict")
    said = value.strip().casefold() if isinstance(value, str) else value
    if said not in (*VERDICTS, None, ""):
        return Refusal("unknown_verdict", f"{row.id}: verdict is {value!r}, want one of {', '.join(VERDICTS)}")
    if given["private"] is False:
        return "reject"
    bad = [name for name in ("correct", "complete", "tone") if given[name] is False]
    corrected = _text(fields.get("corrected"))
    if said == "accept" and (bad or (corrected and _plain(corrected) != _plain(row.completion))):
        why = f"{bad[0]} is no" if bad else "corrected is filled in"
        return Refusal("contradiction", f"{row.id}: verdict is accept, but {why}; write fix or reject, or change the other")
    if said:
        return str(said)
    if corrected and _plain(corrected) != _plain(row.completion):
        return "fix"
    if bad:
        return "reject"
    missing = [name for name in QUESTIONS if given[name] is None]
    if missing:
        want = f"want a verdict ({', '.join(VERDICTS)}), or an answer to {', '.join(missing)} too"
        return Refusal("unknown_verdict", f"{row.id}: verdict is {value!r}, {want}")
    return "accept"


def _corrected(fields: Mapping[str, Any], row: Shown) -> Any:
    """The right answer: `corrected`, or, in lines that people write themselves, `completion`."""
    corrected = fields.get("corrected")
    return corrected if _text(corrected) else fields.get("completion")


def invalid_fix(completion: Any, shown: str, task: Task) -> str | None:
    """Why a text is no correction of an answer; None if it is one."""
    if not isinstance(completion, str):
        return f"fix needs the right answer (`corrected`, or `completion`), a text; got {completion!r}"
    if completion == shown:
        return "fix gives the answer that was shown; write the right one into corrected, or accept it"
    return task.problem(completion)


class Settled(NamedTuple):
    """What people together say of one text: the verdict that counts, or None where they disagree. `people` are all who looked."""

    verdict: Verdict | None
    people: tuple[str, ...]

    @property
    def said(self) -> str:
        return ", ".join(self.people)


def settled(verdicts: Sequence[Verdict]) -> dict[str, Settled]:
    """Content -> what people say of it.

    The latest verdict of each person counts. One who still sees personal data is enough to take a row out; else more than half must
    say the same, so that two who disagree need a third.
    """
    by_content: dict[str, dict[str, Verdict]] = {}
    for verdict in verdicts:
        by_content.setdefault(verdict.content, {})[verdict.person] = verdict
    return {name: _settle(list(people.values())) for name, people in by_content.items()}


def _settle(latest: Sequence[Verdict]) -> Settled:
    people = tuple(verdict.by for verdict in latest)
    open_ = next((verdict for verdict in latest if verdict.private is False), None)
    if open_ is not None:
        return Settled(open_, people)
    votes = Counter((verdict.verdict, verdict.completion) for verdict in latest)
    [(most, count)] = votes.most_common(1)
    if 2 * count <= len(latest):
        return Settled(None, people)
    return Settled(next(verdict for verdict in latest if (verdict.verdict, verdict.completion) == most), people)


def _is_number(text: str) -> bool:
    return _LOOKS_LIKE_A_NUMBER.fullmatch(text) is not None


def _same_number(one: str, other: str) -> bool:
    """Whether a spreadsheet may have made one of the other: it drops leading zeros, and all but six digits."""
    return _is_number(one) and _is_number(other) and isclose(*(float(text.replace(",", ".")) for text in (one, other)), rel_tol=1e-5)


def _plain(text: str) -> str:
    """Without what spreadsheets change: gaps, line ends, odd characters, an apostrophe in front; and no more than a cell holds."""
    return " ".join("".join(sign if sign.isprintable() and sign != "\ufffd" else " " for sign in text[:30_000]).split()).lstrip("'")


def _text(value: Any) -> str:
    """A cell as text; spreadsheets give numbers and booleans too."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
