"""Questions and answers about documents, written by a model, each with a quote that must stand in the document."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import regex

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.chance import by_hash
from fine_tune_pipeline.guide.dataset.more.augment import source_of
from fine_tune_pipeline.guide.dataset.more.chat_model import Chat, NoAnswer, Question
from fine_tune_pipeline.guide.dataset.more.made_rows import MADE_FROM, QUESTION, SYNTHETIC

SHORTEST_QUOTE = 12
"""Characters: shorter ones stand in any document."""

SYSTEM = (
    "You write training examples from a passage of a document. Write {count} questions that a reader could ask and the passage answers, "
    "each understandable without the passage. Reply with JSON only: a list of objects with the keys question, answer, quote. "
    "The quote is the part of the passage that proves the answer, copied character by character."
)

_KEYS = ("question", "answer", "quote")
_FENCE = regex.compile(r"(?s)^```(?:json)?\s*(.*?)\s*```$")


@dataclass(frozen=True)
class Passage:
    """A part of a document; `place` tells a reader where it stands."""

    id: str
    text: str
    place: str


def chosen_passages(passages: Sequence[Passage], count: int, *, seed: int) -> list[Passage]:
    """So many passages, by hash, in their own order."""
    taken = {passage.id for passage in sorted(passages, key=lambda one: by_hash(f"{seed}:{one.id}"))[:count]}
    return [passage for passage in passages if passage.id in taken]


def asked_about(passages: Sequence[Passage], chat: Chat, *, each: int) -> tuple[list[Example], list[Quarantined]]:
    """Examples about the passages, and what of the model's answers could not be used, with reasons.

    Args:
        passages: scrubbed, as the model sees them: quotes are looked up in these texts.
    """
    system = SYSTEM.format(count=each)
    answers = chat.answers([Question(system, passage.text) for passage in passages])
    made: list[Example] = []
    refused: list[Quarantined] = []
    for passage, answer in zip(passages, answers, strict=True):
        if isinstance(answer, NoAnswer):
            refused.append(Quarantined(f"{passage.id}~{QUESTION}", answer.reason, answer.detail, {"passage": passage.place}))
            continue
        for result in read_answer(answer, passage)[:each]:
            if isinstance(result, Example):
                made.append(result)
            else:
                refused.append(result)
    return made, refused


def read_answer(answer: str, passage: Passage) -> list[Example | Quarantined]:
    """Each example of an answer, or why it is none."""
    fenced = _FENCE.match(answer.strip())
    try:
        rows = json.loads(fenced.group(1) if fenced else answer)
    except ValueError as error:
        return [_refused(passage, "unreadable_answer", f"the answer is not JSON ({error})", {"answer": answer})]
    if not isinstance(rows, list):
        return [_refused(passage, "unreadable_answer", f"the answer is {type(rows).__name__}, want a list", {"answer": answer})]
    return [_example(row, passage) for row in rows]


def _example(row: Any, passage: Passage) -> Example | Quarantined:
    original = row if isinstance(row, dict) else {"answer": row}
    lacking = [key for key in _KEYS if not isinstance(original.get(key), str) or not original[key].strip()]
    if lacking:
        return _refused(passage, "unreadable_answer", f"{', '.join(lacking)} is missing, empty, or no text", original)
    quote = original["quote"].strip()
    if len(quote) < SHORTEST_QUOTE:
        return _refused(passage, "quote_too_short", f"the quote has {len(quote)} characters, want at least {SHORTEST_QUOTE}", original)
    # Ends of lines are the converter's, not the author's.
    if _one_line(quote) not in _one_line(passage.text):
        return _refused(passage, "quote_not_in_source", f"the quote does not stand in {passage.place}", original)
    metadata = {SYNTHETIC: QUESTION, MADE_FROM: passage.id, "quote": quote, "place": passage.place}
    question, reply = original["question"].strip(), original["answer"].strip()
    return Example(id=_id(passage, question), prompt=question, completion=reply, source=source_of(QUESTION), metadata=metadata)


def _refused(passage: Passage, reason: str, detail: str, original: dict[str, Any]) -> Quarantined:
    return Quarantined(_id(passage, json.dumps(original, sort_keys=True)), reason, detail, {**original, "passage": passage.place})


def _id(passage: Passage, text: str) -> str:
    return f"{passage.id}~{QUESTION}-{hashlib.sha256(text.encode('utf-8')).hexdigest()[:8]}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
