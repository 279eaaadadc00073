"""How many rows may still hold personal data that no detector found, judged by the rows that people looked at."""

from dataclasses import dataclass

from fine_tune_pipeline.guide.objective.shares import exact_share_bounds

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """Of rows drawn at random and looked at by people: how many held personal data that was left. Rows chosen for a reason do not count."""

    looked_at: int
    with_personal_data: int

    @property
    def share(self) -> float:
        """The share that was seen; 0 where nobody looked."""
        return self.with_personal_data / self.looked_at if self.looked_at else 0.0

    @property
    def upper(self) -> float:
        """The share that the true one is not above, with 95 % confidence; 1 where nobody looked.

        Exact, so never too low, also for none among few rows.
        """
        return exact_share_bounds(self.with_personal_data, self.looked_at, level=LEVEL)[1]

    def said(self, rows: int) -> str:
        """The estimate in words, for a dataset of so many rows."""
        if not self.looked_at:
            return "Nobody looked at a random sample for personal data: what detectors missed is unknown, and their recall is never 1."
        most = int(self.upper * rows)
        return (
            f"People found personal data that was left in {self.with_personal_data:,} of {self.looked_at:,} rows drawn at random "
            f"({self.share:.1%}): with {LEVEL:.0%} confidence at most {self.upper:.1%} of the rows hold some, {most:,} of {rows:,}. "
            "People miss some too: the recall of detectors and reviewers is never 1."
        )
