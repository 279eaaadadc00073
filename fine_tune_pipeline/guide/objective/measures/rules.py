"""Style rules of a use case, checked in one answer, and answers that refuse."""

import re

from fine_tune_pipeline.guide.objective.measures.item import Item, Score
from fine_tune_pipeline.spec.objective import StyleRule

_SENTENCE_END = re.compile(r"[.!?…。！？]+(?=\s|$)|\n{2,}")

_REFUSAL = re.compile(
    r"""
    \b(?:i|we)\s*(?:am|'m|are|'re)?\s*(?:sorry|afraid|unable)\b[^.!?]{0,80}
        \b(?:can(?:no|')t|can\ not|unable|not\ able|won'?t|not\ allowed)\b
    |\b(?:i|we)\s+(?:can(?:not|'t)|can\ not|won'?t|(?:am|are)\ (?:unable|not\ able)\ to|must\ decline\ to)\s+
        (?:help|assist|answer|provide|comply|discuss|share|give|do\ that|fulfil|support|advise|respond|engage|create|write)
    |\bi\s*(?:'m|\ am)\s+(?:unable|not\ able)\ to\b
    |\bas\ an?\ (?:ai|(?:large\ )?language\ model)\b
    |\bich\ kann\ (?:ihnen\ |dir\ )?(?:dabei|damit|das|hierbei|diese\ \w+)\ (?:leider\ )?nicht\b
    |\bje\ ne\ (?:peux|suis)\ pas\ (?:vous\ |t')?(?:aider|répondre|fournir|en\ mesure)
    |\bno\ puedo\ (?:ayudar|responder|proporcionar)
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""How models refuse, in four languages."""


def keeps(rule: StyleRule, text: str) -> bool:
    """Whether an answer keeps a rule."""
    folded, count = text.casefold(), len(text.split())
    return (
        not any(_says(folded, phrase) for phrase in rule.never)
        and all(_says(folded, phrase) for phrase in rule.always)
        and (not rule.one_of or any(_says(folded, phrase) for phrase in rule.one_of))
        and (rule.never_matches is None or re.search(rule.never_matches, text) is None)
        and (rule.always_matches is None or re.search(rule.always_matches, text) is not None)
        and (rule.fewest_words is None or count >= rule.fewest_words)
        and (rule.most_words is None or count <= rule.most_words)
        and (rule.most_sentences is None or sentences(text) <= rule.most_sentences)
    )


def rule_kept(rule: StyleRule) -> Score:
    """1 if the answer keeps the rule."""
    return lambda item: float(keeps(rule, item.prediction))


def follows_style(item: Item) -> float:
    """1 if the answer keeps every rule of the use case."""
    return float(all(keeps(rule, item.prediction) for rule in item.task.rules))


def refusal(item: Item) -> float:
    """1 if the answer refuses although the reference answers."""
    return float(refuses(item.prediction) and not refuses(item.reference))


def refuses(text: str) -> bool:
    """Whether a text says that it will not, or cannot, answer. Typographic apostrophes count as plain ones."""
    return _REFUSAL.search(text.replace("’", "'")) is not None


def sentences(text: str) -> int:
    """Sentences, by their ends; a last one without a full stop counts too."""
    parts = [part for part in _SENTENCE_END.split(text) if part.strip()]
    return len(parts)


def _says(folded: str, phrase: str) -> bool:
    """Whether the phrase stands there as whole words; its ends may be anything that is no letter."""
    wanted = phrase.casefold()
    head = r"(?<!\w)" if wanted[:1].isalnum() else ""
    tail = r"(?!\w)" if wanted[-1:].isalnum() else ""
    return re.search(f"{head}{re.escape(wanted)}{tail}", folded) is not None
