"""Labels by vote: rules that may abstain, each weighted by how often it is right, and rows without a winner left unlabelled."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.more.made_rows import LABEL_PROBABILITY, LABELLED_BY
from fine_tune_pipeline.guide.dataset.steps import out
from fine_tune_pipeline.guide.objective.task import Task, as_text, parsed

ASSUMED_ACCURACY = 0.7
"""Of a rule that met fewer than `FEWEST_ROWS` labelled rows, and whose accuracy nobody gave."""

FEWEST_ROWS = 5


@dataclass(frozen=True)
class Voter:
    """A rule: `vote` gives a label of `field`, or None when it does not know."""

    name: str
    field: str
    vote: Callable[[Example], str | None]
    accuracy: float | None = None


@dataclass(frozen=True)
class Weighed:
    """A voter with its accuracy, on how many labelled rows that was seen (0: given or assumed), and the weight that follows."""

    voter: Voter
    accuracy: float
    seen: int
    weight: float


@dataclass(frozen=True)
class Labelled:
    """Rows with an answer by vote, those without, and a table of what each rule did."""

    examples: list[Example]
    quarantine: list[Quarantined]
    table: list[dict[str, Any]]


def is_unlabelled(example: Example) -> bool:
    """A row of a training source without an answer."""
    return not example.completion.strip() and not example.held_out


def label(
    unlabelled: Sequence[Example],
    labelled: Sequence[Example],
    *,
    voters: Sequence[Voter],
    task: Task,
    fields: Mapping[str, Sequence[str]],
    sure: float,
) -> Labelled:
    """Give each row the answer that the rules vote for.

    Args:
        labelled: rows with answers, on which the accuracy of the rules is estimated; none of a held-out source.
        fields: field -> its values, as text; each needs a winner.
        sure: probability of a winner below which a row stays unlabelled.
    """
    weighed = [_weighed(voter, labelled, task, classes=len(fields[voter.field])) for voter in voters]
    votes = [[voter.vote(example) for voter in voters] for example in unlabelled]
    kept, quarantine = [], []
    for example, given in zip(unlabelled, votes, strict=True):
        result = _decided(example, given, weighed, task=task, fields=fields, sure=sure)
        if isinstance(result, Example):
            kept.append(result)
        else:
            quarantine.append(result)
    return Labelled(kept, quarantine, [_line(number, one, votes, weighed) for number, one in enumerate(weighed)])


def _decided(
    example: Example,
    given: Sequence[str | None],
    weighed: Sequence[Weighed],
    *,
    task: Task,
    fields: Mapping[str, Sequence[str]],
    sure: float,
) -> Example | Quarantined:
    answer, probability = {}, 1.0
    for field, values in fields.items():
        scores = dict.fromkeys(values, 0.0)
        for one, value in zip(weighed, given, strict=True):
            if value is not None and one.voter.field == field:
                scores[value] += one.weight
        winner, share = _winner(scores)
        said = ", ".join(
            f"{one.voter.name}: {value}"
            for one, value in zip(weighed, given, strict=True)
            if value is not None and one.voter.field == field
        )
        if not any(scores.values()) or share < sure:
            why = (
                f"the winner of {field}, {winner}, has probability {share:.2f}, want at least {sure} ({said})"
                if said
                else f"no rule says anything of {field}"
            )
            return out(example, "unlabelled", why)
        answer[field], probability = winner, min(probability, share)
    completion = _completion(answer, task)
    problem = task.problem(completion)
    if problem is not None:
        return out(example, "unlabelled", f"the rules do not give a whole answer: {problem}")
    by = ", ".join(one.voter.name for one, value in zip(weighed, given, strict=True) if value == answer.get(one.voter.field))
    return replace(example, completion=completion, metadata={**example.metadata, LABELLED_BY: by, LABEL_PROBABILITY: f"{probability:.3f}"})


def _winner(scores: Mapping[str, float]) -> tuple[str, float]:
    """The label with the largest sum of weights, and its probability if rules err independently and all labels are alike likely."""
    best = max(scores, key=lambda value: scores[value])
    return best, 1 / sum(math.exp(score - scores[best]) for score in scores.values())


def _weighed(voter: Voter, labelled: Sequence[Example], task: Task, *, classes: int) -> Weighed:
    if voter.accuracy is not None:
        return Weighed(voter, voter.accuracy, 0, _weight(voter.accuracy, classes))
    right = [given == _value(example, voter.field, task) for example in labelled if (given := voter.vote(example)) is not None]
    enough = len(right) >= FEWEST_ROWS
    # Laplace's estimate: a rule that was always right on five rows is not sure for ever.
    accuracy = (sum(right) + 1) / (len(right) + 2) if enough else ASSUMED_ACCURACY
    return Weighed(voter, accuracy, len(right) if enough else 0, _weight(accuracy, classes))


def _weight(accuracy: float, classes: int) -> float:
    """Log odds that a rule which errs evenly over the other labels is right; one that is no better than chance has no say."""
    return max(0.0, math.log(accuracy * max(1, classes - 1) / (1 - accuracy)))


def _value(example: Example, field: str, task: Task) -> str:
    if task.type == "classification":
        return task.class_of(example.completion)
    answer = parsed(example.completion)
    return as_text(answer[field]) if isinstance(answer, dict) and field in answer else ""


def _completion(answer: Mapping[str, str], task: Task) -> str:
    """The answer in the task's form; values of a schema keep their type."""
    if task.type == "classification":
        return answer["label"]
    properties = (task.schema or {})["properties"]
    typed = {field: next(value for value in properties[field]["enum"] if as_text(value) == text) for field, text in answer.items()}
    return json.dumps(typed, ensure_ascii=False)


def _line(number: int, one: Weighed, votes: Sequence[Sequence[str | None]], weighed: Sequence[Weighed]) -> dict[str, Any]:
    """Coverage, overlap and conflict as shares of the unlabelled rows: it votes; another on the same field does too; and differs."""
    others = [place for place, other in enumerate(weighed) if place != number and other.voter.field == one.voter.field]
    counts: dict[str, int] = defaultdict(int)
    for given in votes:
        if given[number] is None:
            continue
        also = [given[place] for place in others if given[place] is not None]
        counts["coverage"] += 1
        counts["overlap"] += bool(also)
        counts["conflict"] += any(value != given[number] for value in also)
    shares = {name: counts[name] / len(votes) if votes else 0.0 for name in ("coverage", "overlap", "conflict")}
    return {"rule": one.voter.name, "field": one.voter.field, **shares, "accuracy": one.accuracy, "seen_on": one.seen, "weight": one.weight}
