"""What is refused: rules as data, each with its reason."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import regex

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.sources.production import REQUEST
from fine_tune_pipeline.guide.dataset.steps import out
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.dataset import CleanSpec

_WORD = regex.compile(r"[\p{L}\p{N}]")


@dataclass(frozen=True)
class Rule:
    """A reason to refuse an example; `problem` says what is wrong with this one, None if nothing is."""

    reason: str
    problem: Callable[[Example, CleanSpec, Task], str | None]


RULES = (
    Rule("empty_prompt", lambda example, spec, task: None if example.prompt else "the prompt is empty"),
    Rule("empty_completion", lambda example, spec, task: None if example.completion else "the completion is empty"),
    Rule("no_words", lambda example, spec, task: None if _WORD.search(example.prompt) else "the prompt holds neither letters nor digits"),
    Rule("too_short", lambda example, spec, task: _below(len(example.question), spec.min_characters)),
    Rule("too_long", lambda example, spec, task: _above(_texts(example, example.question), spec.max_characters)),
    Rule("repetition", lambda example, spec, task: _repeated({"prompt": example.prompt, "completion": example.completion})),
    Rule("refusal", lambda example, spec, task: _refusal(example.completion)),
    Rule("invalid_answer", lambda example, spec, task: task.problem(example.completion)),
    Rule("no_preference", lambda example, spec, task: _not_compared(example)),
    Rule("other_language", lambda example, spec, task: _foreign(example.prompt, spec.languages)),
)
"""In this order: an example goes for the first reason that holds."""

REPEATED_WORDS = 20
REPEATED_SHARE = 0.5
"""From so many words on, one word that makes up this share of them is no message. Shorter ones repeat for good reasons: `no no no`."""

SURE_LANGUAGE = 0.9
"""Below this probability a prompt is not refused for its language: of 9,080 short English messages 161 were taken for another one, none
of them so surely, while whole sentences in German, French, Spanish, Turkish and Dutch were."""

_UNABLE = r"i (?:can(?:no|['’])t|am (?:not able|unable) to)"
_REFUSAL = regex.compile(
    r"(?i)\bas an ai\b|\bas a (?:large )?language model\b|"
    rf"^(?:i['’]?m |i am )?(?:very |so )?sorry,? (?:but )?{_UNABLE} (?:assist|help|do that|comply|answer that)|"
    rf"^{_UNABLE} (?:assist|help) with (?:that|this)"
)


ABOUT_ANSWERS = frozenset({"empty_completion", "refusal", "invalid_answer"})
"""Not asked of requests whose answer people have yet to judge: an answer that is none is one more reason to look."""


def refused(example: Example, spec: CleanSpec, task: Task) -> Quarantined | None:
    """The example as the quarantine keeps it, if a rule refuses it."""
    skipped = {*spec.skip, *(ABOUT_ANSWERS if example.source == REQUEST else ())}
    for rule in RULES:
        problem = None if rule.reason in skipped else rule.problem(example, spec, task)
        if problem is not None:
            return out(example, rule.reason, problem)
    return None


def _texts(example: Example, asked: str) -> dict[str, str]:
    found = {"prompt": asked, "completion": example.completion}
    return found if example.rejected is None else {**found, "rejected answer": example.rejected}


def _below(characters: int, least: int) -> str | None:
    return f"the prompt has {characters} characters, want at least {least}" if characters < least else None


def _above(texts: dict[str, str], most: int) -> str | None:
    for name, text in texts.items():
        if len(text) > most:
            return f"the {name} has {len(text):,} characters, want at most {most:,}"
    return None


def _repeated(texts: dict[str, str]) -> str | None:
    for name, text in texts.items():
        words = text.casefold().split()
        if len(words) < REPEATED_WORDS:
            continue
        word, times = Counter(words).most_common(1)[0]
        if times >= REPEATED_SHARE * len(words):
            return f"{times} of the {len(words)} words of the {name} are {word!r}"
    return None


def refusal_in(text: str) -> str | None:
    """The words by which a text refuses to answer, None if it does not."""
    found = _REFUSAL.search(text)
    return found.group() if found else None


def _not_compared(example: Example) -> str | None:
    """Repairs may have made two answers one."""
    if example.rejected is None:
        return None
    if not example.rejected:
        return "the rejected answer is empty"
    return "the rejected answer is the preferred one" if example.rejected == example.completion else None


def _refusal(completion: str) -> str | None:
    said = refusal_in(completion)
    return None if said is None else f"the completion refuses to answer: {said!r}"


def _foreign(prompt: str, languages: Sequence[str]) -> str | None:
    if not languages:
        return None
    language, probability = identified(prompt)
    # `zxx`: no language at all, such as a reference number.
    if language in (*languages, "zxx") or probability < SURE_LANGUAGE:
        return None
    return f"the prompt is in {language} (probability {probability:.2f}), want {' or '.join(languages)}"


def identified(text: str) -> tuple[str, float]:
    """The language of a text (ISO 639-1; `zxx`: none) and its probability."""
    language, probability = _identifier().classify(text)
    return language, float(probability)


@cache
def _identifier() -> Any:
    """py3langid's model of 97 languages; half a second to load."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
