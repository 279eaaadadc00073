"""What each rule of cleaning did: one line a rule for the web UI, and with texts for the artifact."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    *, quarantine: Sequence[Quarantined], repaired: Mapping[str, Sequence[str]], kept: Sequence[Example]
) -> list[dict[str, Any]]:
    """One line for each rule that did something: its kind, what it is for, how many rows, and the ids of two.

    Ids only: personal data is still in the texts here. `with_texts` has them, for the artifact.

    Args:
        repaired: id of a kept row -> names of the repairs that changed it.
    """
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for gone in quarantine:
        rows["refuses", gone.reason].append(gone.id)
    for id_, names in repaired.items():
        for name in names:
            rows["mends", name].append(id_)
    for example in kept:
        for mark in {mark.split(":")[0] for mark in example.metadata.get(MARK, "").split("; ") if mark}:
            rows["marks", mark].append(example.id)
    lines = [_line(rule, kind, ids) for (kind, rule), ids in rows.items()]
    return sorted(lines, key=lambda line: (["refuses", "mends", "marks"].index(line["kind"]), -line["rows"], line["rule"]))


def with_texts(table: Sequence[Mapping[str, Any]], before: Sequence[Example]) -> list[dict[str, Any]]:
    """The same lines with what the examples said before cleaning, shortened."""
    prompt = {example.id: example.prompt for example in before}
    return [{**line, "examples": [_short(prompt[id_]) for id_ in line["ids"]]} for line in table]


def _line(rule: str, kind: str, ids: Sequence[str]) -> dict[str, Any]:
    return {"rule": rule, "kind": kind, "reason": SAID.get(rule, ""), "rows": len(ids), "ids": list(ids[:_EXAMPLES])}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CHARACTERS else line[:_CHARACTERS] + "…"
