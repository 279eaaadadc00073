"""How far two people who judged the same rows agree, by chance and beyond it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fine_tune_pipeline.guide.dataset.review.verdicts import QUESTIONS, VERDICTS, Verdict
from fine_tune_pipeline.guide.objective.shares import share_bounds
from fine_tune_pipeline.people.agreement import LEVEL, BeyondChance, Floats, alpha_of, beyond_chance, kappas, nominal


@dataclass(frozen=True)
class Agreement:
    """Of `rows` that at least two people judged, all said the same of `agree`; `lower` and `upper` bound the share.

    `beyond_chance` is None where it cannot be known: nothing was judged twice, or all verdicts are alike. `questions` says the same of
    each question, of the rows on which two people answered it.
    """

    rows: int
    agree: int
    lower: float
    upper: float
    beyond_chance: BeyondChance | None
    questions: dict[str, tuple[int, int]]

    def metadata(self) -> dict[str, Any]:
        """Numbers for plots; absent while nothing was judged twice."""
        if not self.rows:
            return {"judged_twice": 0}
        numbers = {
            "judged_twice": self.rows,
            "agreement": self.agree / self.rows,
            "agreement_low": self.lower,
            "agreement_high": self.upper,
        }
        if self.beyond_chance is None:
            return numbers
        name = self.beyond_chance.name.split()[-1]
        return numbers | {name: self.beyond_chance.value, f"{name}_low": self.beyond_chance.lower, f"{name}_high": self.beyond_chance.upper}

    def table(self) -> dict[str, Any]:
        """Measure -> value, for the data card; empty while nothing was judged twice."""
        if not self.rows:
            return {}
        return self.metadata() | {f"{name} (alike)": f"{alike} of {both}" for name, (both, alike) in self.questions.items() if both}

    @property
    def said(self) -> str:
        """A sentence for the report."""
        if not self.rows:
            return "Agreement between reviewers was not measured: no row was judged by two people."
        text = (
            f"On {self.rows} rows that two people judged they agree on {self.agree} ({self.agree / self.rows:.0%}; "
            f"95 % interval {self.lower:.0%} to {self.upper:.0%})"
        )
        beyond = self.beyond_chance
        if beyond is None:
            return f"{text}; as all verdicts are alike, agreement beyond chance cannot be told."
        return f"{text}; {beyond.name} {beyond.value:.2f} ({beyond.lower:.2f} to {beyond.upper:.2f})."


def agreement(verdicts: Sequence[Verdict], *, seed: int) -> Agreement:
    """The agreement of the first verdict of each person on each text: what they said before they could talk about it.

    Args:
        verdicts: of all people, oldest first.
    """
    first: dict[str, dict[str, Verdict]] = {}
    for verdict in verdicts:
        first.setdefault(verdict.content, {}).setdefault(verdict.person, verdict)
    twice = [sorted(people.values(), key=lambda verdict: verdict.person) for people in first.values() if len(people) > 1]
    agree = sum(len({(verdict.verdict, verdict.completion) for verdict in row}) == 1 for row in twice)
    if not twice:
        return Agreement(0, 0, 0.0, 1.0, None, {})
    bounds = share_bounds(agree / len(twice), len(twice), level=LEVEL)
    return Agreement(len(twice), agree, *bounds, _beyond_chance(twice, seed), _questions(twice))


def _questions(rows: Sequence[Sequence[Verdict]]) -> dict[str, tuple[int, int]]:
    """Question -> on how many rows two people answered it, and on how many of these alike."""
    found = {}
    for name in QUESTIONS:
        answers = [[answer for verdict in row if (answer := getattr(verdict, name)) is not None] for row in rows]
        both = [given for given in answers if len(given) > 1]
        found[name] = (len(both), sum(len(set(given)) == 1 for given in both))
    return found


def _beyond_chance(rows: Sequence[Sequence[Verdict]], seed: int) -> BeyondChance | None:
    """Cohen's kappa where the same two people judged all rows, else Krippendorff's alpha, which takes any number of people."""
    pair = {tuple(verdict.person for verdict in row) for row in rows}
    if len(pair) == 1 and len(next(iter(pair))) == 2:
        first, second = _chosen(rows, 0), _chosen(rows, 1)
        return beyond_chance("Cohen's kappa", lambda weights: kappas(first, second, weights), len(rows), seed=seed)
    kinds = [[VERDICTS.index(verdict.verdict) for verdict in row] for row in rows]
    return alpha_of(kinds, distances=nominal(len(VERDICTS)), seed=seed)


def _chosen(rows: Sequence[Sequence[Verdict]], place: int) -> Floats:
    """One person's verdicts as ones and zeros (U x V)."""
    return np.array([[float(row[place].verdict == kind) for kind in VERDICTS] for row in rows])
