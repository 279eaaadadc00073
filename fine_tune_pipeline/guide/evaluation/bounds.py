"""What a gate decides by: an estimate between two bounds, and how they were found."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["exact", "wilson", "t", "mcnemar", "sign_flip", "bootstrap", "constant"]

FEW_CLUSTERS = 30
"""Below this Student's t passes too often (6.5 % instead of 5 % at n = 30, measured): exact tests there."""

FEW_DIFFERENCES = 10
"""Below this scores or differences are far from normal."""


@dataclass(frozen=True)
class Bounds:
    """An estimate between a lower and an upper bound, each of which holds with probability `level`.

    `rows` is what was looked at, `clusters` how many of them, or groups of them, are independent.
    """

    estimate: float
    lower: float
    upper: float
    level: float
    method: Method
    rows: int
    clusters: int

    @property
    def why(self) -> str:
        """The method in words, and why it was chosen."""
        return f"{_METHODS[self.method]} over {self.sample}"

    @property
    def sample(self) -> str:
        """How much was looked at, such as `200 rows in 50 groups`."""
        groups = "" if self.clusters == self.rows else f" in {_many(self.clusters, 'group')}"
        return _many(self.rows, "row") + groups


_METHODS: dict[Method, str] = {
    "exact": "exact bound of a share (Clopper-Pearson), which never passes more often than asked,",
    "wilson": "Wilson's interval of a share",
    "t": f"Student's t with clustered errors, held back for skew, since at least {FEW_DIFFERENCES} of the scores differ,",
    "mcnemar": f"McNemar's exact mid-p, since fewer than {FEW_DIFFERENCES} pairs or {FEW_CLUSTERS} rows differ,",
    "sign_flip": f"exact sign-flip test, since fewer than {FEW_CLUSTERS} groups or {FEW_DIFFERENCES} pairs differ,",
    "bootstrap": "paired bootstrap of whole groups, since the metric is one number for all rows,",
    "constant": "what may be unseen, since all scores are equal,",
}


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
