"""What is written where personal data stood, by the operator that the use case chose for its kind."""

import os
from dataclasses import dataclass, field

from fine_tune_pipeline.programs.pseudonyms import hashed, pseudonym
from fine_tune_pipeline.spec.dataset import PiiSpec

KEY_VARIABLE = "FINE_TUNE_PIPELINE_PII_KEY"

SHORTEST_KEY = 16
"""Characters; a shorter key could be guessed, and with it every value."""


class NoKey(ValueError):
    """The use case asks for hashes or pseudonyms, and the key for them is missing or too short."""


@dataclass(frozen=True)
class StandIns:
    """Called with an entity and a value, gives what stands for it; `issued` holds every pseudonym that it gave."""

    pii: PiiSpec = field(default_factory=PiiSpec)
    key: str = ""
    issued: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self._keyed and len(self.key) < SHORTEST_KEY:
            raise NoKey(
                f"dataset.pii: operator {' and '.join(self._keyed)}: a key is needed; export {KEY_VARIABLE} with at least "
                f"{SHORTEST_KEY} characters, got {len(self.key)}"
            )

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
            return f"<{entity}:{hashed(self.key, entity, value)}>"
        if operator == "pseudonym" and (made := pseudonym(self.key, entity, value)) is not None:
            self.issued.add(made)
            return made
        return f"<{entity}>"
