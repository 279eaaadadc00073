"""The licence that a model card names, compared with the one that the user wrote."""

import re
from typing import Any

import yaml

_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---", re.DOTALL)

_NAMED_TERMS = {
    "gemma": "LicenseRef-Gemma-Terms",
    "llama2": "LicenseRef-Llama-2-Community",
    "llama3": "LicenseRef-Llama-3-Community",
    "llama3.1": "LicenseRef-Llama-3.1-Community",
    "llama3.2": "LicenseRef-Llama-3.2-Community",
    "llama3.3": "LicenseRef-Llama-3.3-Community",
    "llama4": "LicenseRef-Llama-4-Community",
}
"""Tags of the Hub for terms that have no SPDX id; all other tags are SPDX ids in lower case."""

_OTHER_TERMS = {"qwen-research": "LicenseRef-Qwen-Research"}
"""Terms for which the Hub has no tag, by the name that stands beside its tag `other`."""

_AGREED = frozenset({*_NAMED_TERMS.values(), *_OTHER_TERMS.values()})
_NOTHING_SAID = ("", "unknown")
_REF = "LicenseRef-"


def named_licence(card: str) -> str | None:
    """The licence in the front matter of a model card, by SPDX id or LicenseRef-…; None when it names none, or several."""
    match = _FRONT_MATTER.match(card)
    facts = _mapping(match[1]) if match else {}
    tag = facts.get("license")
    if tag == "other":
        # Followed by the name of the terms.
        name = str(facts.get("license_name") or "").lower()
        return {**_NAMED_TERMS, **_OTHER_TERMS}.get(name, f"{_REF}{name}") if name else None
    if not isinstance(tag, str) or tag in _NOTHING_SAID:
        return None
    return _NAMED_TERMS.get(tag.lower(), tag.lower())


def hub_tag(licence: str) -> str:
    """The Hub's tag for a licence; `other` for terms that have none there."""
    tags = {named: tag for tag, named in _NAMED_TERMS.items()}
    return tags.get(licence, "other" if licence.startswith(_REF) else licence.lower())


def contradiction(named: str | None, written: str) -> str | None:
    """A sentence, when the card names other terms than the user wrote. Names of terms that nobody has agreed on cannot contradict."""
    if named is None or named.lower() == written.lower() or (named.startswith(_REF) and written.startswith(_REF) and named not in _AGREED):
        return None
    return (
        f"its model card names the licence {named}, the use case says {written}: what the weights' owner says holds, so read it and "
        "correct the licence of this candidate"
    )


def _mapping(text: str) -> dict[str, Any]:
    """A card is written by hand: what cannot be read names nothing."""
    try:
        facts = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return facts if isinstance(facts, dict) else {}
