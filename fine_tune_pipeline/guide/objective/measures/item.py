"""What a score looks at, and what a metric of all rows together is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.objective.task import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class NotMeasured(ValueError):
    """A score needs a number, or a row, that nobody gave for this answer."""


@dataclass(frozen=True)
class Item:
    """One answer to score.

    `example` is the row that was answered, None where only texts are at hand, as while training. `measured` are numbers that a program
    found for this answer, such as its similarity to the reference.
    """

    prediction: str
    reference: str
    task: Task
    example: Example | None = None
    measured: Mapping[str, float] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """What a program measured.

        Raises:
            NotMeasured: it measured no such number for this answer.
        """
        if name not in self.measured:
            raise NotMeasured(
                f"row {self.row.id}: no {name} was measured for this answer; it comes from the program that answers or embeds"
            )
        return self.measured[name]

    @property
    def answered(self) -> Example:
        """The row that was answered; where only texts are at hand, a row that holds the reference alone."""
        return Example(id="", prompt="", completion=self.reference) if self.example is None else self.example

    @property
    def row(self) -> Example:
        """The row that was answered.

        Raises:
            NotMeasured: only the texts are at hand.
        """
        if self.example is None:
            raise NotMeasured("the score looks at the whole row, and only the answer and its reference are at hand; score in step 7")
        return self.example


Score = Callable[[Item], float]
"""One answer -> a number in the metric's range, never NaN."""


@dataclass(frozen=True)
class Corpus:
    """A metric of all rows together: numbers of each row, all as many, and what becomes of the rows.

    `value` takes an array [rows, numbers], at least one row; rows may be repeated, as a bootstrap does.
    """

    row: Callable[[Item], tuple[float, ...]]
    value: Callable[["NDArray[np.float64]"], float]
