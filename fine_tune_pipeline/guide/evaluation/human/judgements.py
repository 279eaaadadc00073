"""What people said about the pairs, read with care: a line is a judgement, or it is kept aside with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fine_tune_pipeline.artifacts.fingerprint import fingerprint
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.review.verdicts import Line
from fine_tune_pipeline.guide.evaluation.human.pairs import Secret
from fine_tune_pipeline.guide.evaluation.human.rubric import ANSWERS, CHOICES, Choice, contradiction
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.people.review_queue import ASKED_OF


@dataclass(frozen=True)
class Judgement:
    """One person's answer to one pair; `answers` are those to the questions of the rubric, as far as they were given."""

    pair: str
    choice: Choice
    by: str
    answers: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class Asked(NamedTuple):
    """What was asked: the ids of the pairs, the names of the rubric's questions, and the name of the hand-out."""

    pairs: Sequence[str]
    questions: Sequence[str] = ()
    handout: str = ""


def person(name: str) -> str:
    """Who it is, however the name is written."""
    return name.strip().casefold()


def read_judgements(lines: Sequence[Line], asked: Asked) -> tuple[list[Judgement], list[Quarantined]]:
    """Valid judgements, the last one of each person for each pair, and every line that is none, with the reason.

    Args:
        lines: id, choice, by, perhaps answers to the questions and a note, the oldest first.
    """
    kept: dict[tuple[str, str], tuple[Judgement, Line]] = {}
    refused = []
    for line in lines:
        problem = _problem(line, asked)
        if problem is not None:
            refused.append(Quarantined(line.where, *problem, line.fields))
            continue
        judgement = _judgement(line.fields, asked)
        place = (judgement.pair, judgement.by)
        before, earlier = kept.pop(place, (judgement, line))
        # Who hands in a file twice has not changed their mind.
        if before != judgement:
            detail = f"{judgement.by} judged {judgement.pair} again in {line.where}"
            refused.append(Quarantined(earlier.where, "superseded", detail, earlier.fields))
        kept[place] = (judgement, line)
    return [judgement for judgement, _ in kept.values()], refused


def digest(judgements: Sequence[Judgement], refused: Sequence[Quarantined]) -> str | None:
    """A hash of all that was said, None if nothing was."""
    if not judgements and not refused:
        return None
    said = [vars(judgement) | {"answers": dict(judgement.answers)} for judgement in judgements]
    return fingerprint({"judgements": said, "refused": [[row.id, row.reason, row.detail] for row in refused]})


def points_of(judgement: Judgement, key: Mapping[str, Secret]) -> float:
    """1 when the fine-tuned model's answer was chosen, 0 when the other was, one half for neither."""
    if judgement.choice not in ("A", "B"):
        return 0.5
    return float(getattr(key[judgement.pair], judgement.choice) == FINE_TUNED)


def _judgement(fields: Mapping[str, Any], asked: Asked) -> Judgement:
    answers = {name: fields[name] for name in asked.questions if fields.get(name) not in (None, "")}
    return Judgement(fields["id"], fields["choice"], person(fields["by"]), answers, str(fields.get("note") or "").strip())


def _problem(line: Line, asked: Asked) -> tuple[str, str] | None:
    """(reason, detail) if a line is not a valid judgement."""
    if line.broken is not None:
        return "not_json", f"{line.broken}; want one object a line, with id, choice and by"
    fields = line.fields
    return _wrong_pair(fields, asked) or _wrong_choice(fields) or _wrong_person(fields) or _wrong_answers(fields, asked)


def _wrong_pair(fields: Mapping[str, Any], asked: Asked) -> tuple[str, str] | None:
    given = fields.get("handout")
    if given and given != asked.handout:
        return (
            "other_handout",
            f"these verdicts are on hand-out {given!r}, and this is {asked.handout!r}: other answers have the same ids there",
        )
    id_ = fields.get("id")
    if not isinstance(id_, str) or id_ not in asked.pairs:
        return "unknown_pair", f"id {id_!r} is not in this hand-out; want one of its ids, such as {next(iter(asked.pairs), '')!r}"
    return None


def _wrong_choice(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    choice = fields.get("choice")
    if choice is None or choice == "":
        return "unfinished", f"{fields['id']}: no choice yet; want one of {', '.join(CHOICES)}"
    if choice not in CHOICES:
        return "unknown_choice", f"{fields['id']}: choice {choice!r}; want one of {', '.join(CHOICES)}"
    return None


def _wrong_person(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    by, of = fields.get("by"), fields.get(ASKED_OF)
    if not isinstance(by, str) or not by.strip():
        return "nobody", f"{fields['id']}: by {by!r}; want the name of the person who judged"
    if of is not None and person(by) != person(str(of)):
        return "stranger", (
            f"{fields['id']}: {by!r} answered in the queue of {of!r}. A server without login takes everybody for `default`: "
            "start it with --app-name basic-auth, or leave evaluation.human.reviewers out"
        )
    return None


def _wrong_answers(fields: Mapping[str, Any], asked: Asked) -> tuple[str, str] | None:
    for name in asked.questions:
        if fields.get(name) not in (None, "", *ANSWERS):
            return "unknown_answer", f"{fields['id']}: {name} is {fields[name]!r}; want one of {', '.join(ANSWERS)}"
    said = _judgement(fields, asked)
    why = contradiction(said.choice, said.answers, asked.questions)
    return None if why is None else ("contradiction", f"{said.pair}: {why}; judge it again")
