"""What is written where personal data stood, by the operator that the use case chose for its kind."""

import os
from dataclasses import dataclass, field

from fine_tune_pipeline.programs.pii.pseudonyms import hashed, pseudonym
from fine_tune_pipeline.spec.dataset import PiiSpec

KEY_VARIABLE = "FINE_TUNE_PIPELINE_PII_KEY"

SHORTEST_KEY = 16
"""Characters; a shorter key could be guessed, and with it every value."""


class NoKey(ValueError):
    """The use case asks for hashes or pseudonyms, and the key for them is missing or too short."""


@dataclass(frozen=True)
class StandIns:
    """Called with an entity and a value, gives what stands for it.

    `issued` holds every pseudonym that it gave; `given` what it gave for which value, (stand-in, value) -> entity, where a key decided.
    """

    pii: PiiSpec = field(default_factory=PiiSpec)
    key: str = field(default="", repr=False)
    issued: set[str] = field(default_factory=set)
    given: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self._keyed:
            checked_key(self.key, f"dataset.pii: operator {' and '.join(self._keyed)}")

    def fresh(self) -> "StandIns":
        """The same without any memory."""
        return StandIns(self.pii, key=self.key)

    @classmethod
    def from_environment(cls, pii: PiiSpec, *, variable: str = KEY_VARIABLE) -> "StandIns":
        """With the key that a variable of this process's environment holds.

        Raises:
            NoKey: one is needed and there is none.
        """
        return cls(pii, key=os.environ.get(variable, ""))

    @property
    def key_id(self) -> str | None:
        """Tells keys apart without telling them; None where none is needed."""
        return hashed(self.key, "key", "") if self._keyed else None

    @property
    def _keyed(self) -> list[str]:
        return sorted({self.pii.operator, *self.pii.operators.values()} & {"hash", "pseudonym"})

    def __call__(self, entity: str, value: str) -> str:
        operator = self.pii.operators.get(entity, self.pii.operator)
        if operator == "mask":
            return "".join("*" if sign.isalnum() else sign for sign in value)
        if operator == "hash":
            return self._given(f"<{entity}:{hashed(self.key, entity, value)}>", entity, value)
        if operator == "pseudonym" and (made := pseudonym(self.key, entity, value)) is not None:
            self.issued.add(made)
            return self._given(made, entity, value)
        return f"<{entity}>"

    def _given(self, stand_in: str, entity: str, value: str) -> str:
        self.given[stand_in, value] = entity
        return stand_in


def checked_key(key: str, what: str) -> str:
    """The key, if it is one.

    Raises:
        NoKey: it is too short; says what needs it and how to give it.
    """
    if len(key) < SHORTEST_KEY:
        raise NoKey(f"{what}: a key is needed; export {KEY_VARIABLE} with at least {SHORTEST_KEY} characters, got {len(key)}")
    return key
