"""Variants by a model: the prompt in other words, refused where something is lost."""

from collections.abc import Sequence

import regex

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.cleaning.rules import refusal_in
from fine_tune_pipeline.guide.dataset.more.augment import made_of
from fine_tune_pipeline.guide.dataset.more.chat_model import Chat, NoAnswer, Question

KIND = "paraphrases"

SYSTEM = (
    "You rewrite one message of a customer in other words. Keep its meaning, its language, all numbers, and everything in angle brackets "
    "such as <PERSON> exactly as it is. Do not answer the message. Reply with the rewritten message only."
)

_PLACEHOLDER = regex.compile(r"<[A-Z_]+(?::\w+)?>|\p{N}+")


def paraphrased(rows: Sequence[tuple[Example, int]], chat: Chat) -> tuple[list[Example], list[Quarantined]]:
    """Variants of rows, and those that could not be used.

    Args:
        rows: scrubbed rows, each with the number of the variant.
    """
    answers = chat.answers([Question(SYSTEM, row.prompt, number) for row, number in rows])
    made, refused = [], []
    for (row, _), answer in zip(rows, answers, strict=True):
        problem = answer if isinstance(answer, NoAnswer) else _problem(row.prompt, answer)
        new = made_of(row, answer if isinstance(answer, str) else row.prompt, KIND)
        if problem is None:
            made.append(new)
        else:
            refused.append(Quarantined(new.id, problem.reason, problem.detail, new.row()))
    return made, refused


def _problem(prompt: str, answer: str) -> NoAnswer | None:
    lost = sorted(set(_PLACEHOLDER.findall(prompt)) - set(_PLACEHOLDER.findall(answer)))
    if lost:
        return NoAnswer("lost_in_paraphrase", f"the model left out {', '.join(lost[:3])}")
    if (said := refusal_in(answer)) is not None:
        return NoAnswer("model_refused", f"the model refuses: {said!r}")
    return NoAnswer("nothing_changed", "the model gave the prompt back") if answer.strip() == prompt.strip() else None
