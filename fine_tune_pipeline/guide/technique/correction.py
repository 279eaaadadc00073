"""Factors between the formulas and what runs on a place have measured."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from fine_tune_pipeline.guide.base_model.memory import Memory
from fine_tune_pipeline.guide.technique.workload import Workload


class Kind(NamedTuple):
    """Trainings that are corrected alike: by the technique's label, the number format, and what is learned from."""

    technique: str
    dtype: str
    method: str = "supervised"


@dataclass(frozen=True)
class Correction:
    """Of one kind of training on one place. `fixed_bytes` is memory beside model and text, None where the formula's is kept."""

    runs: int = 0
    memory: float = 1.0
    seconds: float = 1.0
    tokens: float = 1.0
    fixed_bytes: int | None = None

    def bytes(self, predicted: Memory) -> int:
        """The peak."""
        fixed = predicted.fixed if self.fixed_bytes is None else self.fixed_bytes
        return int(fixed + self.memory * predicted.proportional)

    def work(self, likely: Workload) -> Workload:
        """The text in the tokens of this base model; the careful bound stays as it is, since settings are taken from it."""
        return replace(
            likely,
            tokens=round(self.tokens * likely.tokens),
            labelled_tokens=round(self.tokens * likely.labelled_tokens),
            longest_tokens=round(self.tokens * likely.longest_tokens),
            validation_tokens=round(self.tokens * likely.validation_tokens),
        )

    def __str__(self) -> str:
        if not self.runs:
            return "formulas alone; the first training here will correct them"
        return (
            f"corrected by {self.runs} earlier run{'s' if self.runs > 1 else ''} here: memory x {self.memory:.2f}, "
            f"seconds x {self.seconds:.2f}, tokens x {self.tokens:.2f}"
        )


NONE = Correction()
