"""What each rule of cleaning did: one line a rule for the web UI, and with texts for the artifact."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.steps import MARK

FILE = "rules.jsonl"

SAID = {
    "empty_prompt": "the prompt is empty",
    "empty_completion": "the answer is empty",
    "no_words": "the prompt holds neither letters nor digits",
    "too_short": "the prompt is shorter than clean.min_characters",
    "too_long": "prompt or answer is longer than clean.max_characters",
    "repetition": "one word makes up half of the text",
    "refusal": "the answer refuses to answer",
    "invalid_answer": "the task does not allow the answer",
    "no_preference": "the answer that is to be liked less is empty, or the preferred one",
    "other_language": "the prompt is in none of clean.languages",
    "exact_duplicate": "same prompt and answer as another row, but for case, punctuation and gaps",
    "near_duplicate": "nearly the prompt of another row, with the same answer",
    "contradictory_labels": "same prompt as another row, with another answer",
    "duplicate_of_held_out": "too like a row that is kept apart for the test",
    "origin_quarantined": "made from a row that was taken out",
    "mojibake": "characters that were read in the wrong encoding",
    "unicode_form": "one way to write a character (NFC)",
    "invisible_characters": "control characters and those of no width",
    "html": "tags and entities",
    "mail_footer": "signature, notice of confidentiality",
    "whitespace": "gaps, ends of lines, empty lines",
    "boilerplate": "lines at the ends of prompts that stand in many rows",
    "label_disagrees": "the other rows make another label likelier",
    "near_duplicate_with_other_answer": "nearly the prompt of another row, with another answer",
}

_EXAMPLES = 2
_CHARACTERS = 80


def rule_table(
    *, quarantine: Iterable[Quarantined], repaired: Mapping[str, Sequence[str]], kept: Iterable[Example]
) -> list[dict[str, Any]]:
    """One line for each rule that did something: its kind, what it is for, how many rows, and the ids of two.

    Ids only: personal data is still in the texts here. `with_texts` has them, for the artifact.

    Args:
        repaired: id of a kept row -> names of the repairs that changed it.
    """
    rows: Counter[tuple[str, str]] = Counter()
    ids: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, rule, id_ in _done(quarantine, repaired, kept):
        rows[kind, rule] += 1
        if len(ids[kind, rule]) < _EXAMPLES:
            ids[kind, rule].append(id_)
    lines = [
        {"rule": rule, "kind": kind, "reason": SAID.get(rule, ""), "rows": count, "ids": ids[kind, rule]}
        for (kind, rule), count in rows.items()
    ]
    return sorted(lines, key=lambda line: (["refuses", "mends", "marks"].index(line["kind"]), -line["rows"], line["rule"]))


def with_texts(table: Sequence[Mapping[str, Any]], before: Iterable[Example]) -> list[dict[str, Any]]:
    """The same lines with what the examples said before cleaning, shortened."""
    wanted = {id_ for line in table for id_ in line["ids"]}
    prompt = {example.id: example.prompt for example in before if example.id in wanted}
    return [{**line, "examples": [_short(prompt[id_]) for id_ in line["ids"]]} for line in table]


def _done(
    quarantine: Iterable[Quarantined], repaired: Mapping[str, Sequence[str]], kept: Iterable[Example]
) -> Iterator[tuple[str, str, str]]:
    """Kind, rule and row of each thing that a rule did."""
    for gone in quarantine:
        yield "refuses", gone.reason, gone.id
    for id_, names in repaired.items():
        yield from (("mends", name, id_) for name in names)
    for example in kept:
        marks = example.metadata.get(MARK, "").split("; ")
        yield from (("marks", name, example.id) for name in dict.fromkeys(mark.split(":")[0] for mark in marks if mark))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CHARACTERS else line[:_CHARACTERS] + "…"
