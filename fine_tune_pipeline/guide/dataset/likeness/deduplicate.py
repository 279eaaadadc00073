"""One example for one question: exact and near duplicates, contradictions, and training rows that the test set holds already."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.likeness.duplicates import (
    LEAK_JACCARD,
    Pair,
    Pairs,
    groups,
    jaccard,
    near_pairs,
    plain_text,
    shingles,
)
from fine_tune_pipeline.guide.dataset.sources.collect import FEEDBACK
from fine_tune_pipeline.guide.dataset.steps import marked, out
from fine_tune_pipeline.guide.objective.task import Task, parsed

CLUSTER = "cluster"
"""Metadata: the id of the first example that this one resembles; its own id if it resembles none."""


@dataclass(frozen=True)
class Deduplicated:
    """What is left, in the order it came, and what was taken out."""

    kept: list[Example]
    quarantine: list[Quarantined]


def deduplicate(examples: Sequence[Example], *, task: Task, threshold: float) -> Deduplicated:
    """Keep the best example of each cluster of like ones.

    Two things are compared. The question, all that was said before the answer: it decides what a test may not hold, what the split keeps
    together, and which rows may be one. And the record, question and answer: of like questions only those go whose answer says the same,
    in an open task those whose record is a near duplicate too. Like answers alone are no reason: other words for the same question are
    what training is there to learn.

    The best is kept: a correction from production, which people made, before all others; then what most say; of an open task then the
    longest answer; then what came first. The same question with contradictory answers goes out whole, unless more than half of at least
    three agree. Like (not equal) questions with different answers stay, with a mark. Held-out rows are treated alike among themselves, and
    win over training rows.

    Args:
        threshold: Jaccard similarity from which two are near duplicates.
    """
    answers = Answers(task, threshold)
    quarantine: list[Quarantined] = []
    settled = [example for side in (True, False) for example in _settled(examples, held_out=side, answers=answers, quarantine=quarantine)]
    settled = _without_held_out_prompts(settled, quarantine)
    pairs = near_pairs([example.question for example in settled], min(threshold, LEAK_JACCARD))
    kept = _first_of_each(settled, pairs, answers=answers, marks=bool(task.classes), quarantine=quarantine)
    place = {example.id: number for number, example in enumerate(examples)}
    return Deduplicated(sorted(kept, key=lambda example: place[example.id]), sorted(quarantine, key=lambda row: place[row.id]))


@dataclass(frozen=True)
class Answers:
    """How the answers of a task are compared."""

    task: Task
    threshold: float

    @property
    def free(self) -> bool:
        """Whether answers are free text: then there are several ways to say the same."""
        return self.task.type in ("question_answering", "generation")

    def said(self, example: Example) -> str:
        """What an answer says: JSON by value, else without what makes no difference to a reader."""
        if self.task.type == "extraction":
            return json.dumps(parsed(example.completion), sort_keys=True)
        return self.task.class_of(example.completion) or plain_text(example.completion)

    def same(self, left: Example, right: Example) -> bool:
        """Whether two rows with like questions say the same."""
        return self.said(left) == self.said(right) or (self.free and jaccard(_record(left), _record(right)) >= self.threshold)

    def worth(self, example: Example) -> int:
        """Of rows that say the same, the one worth most is kept: the longest free answer; else they are worth the same."""
        return len(plain_text(example.completion)) if self.free else 0


def _record(example: Example) -> set[str]:
    return shingles(plain_text(f"{example.question}\n{example.completion}"))


def _settled(examples: Sequence[Example], *, held_out: bool, answers: Answers, quarantine: list[Quarantined]) -> list[Example]:
    """One example of each question, the best first; the others go to the quarantine."""
    same: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.held_out == held_out:
            same[plain_text(example.question)].append(example)
    kept = []
    for group in same.values():
        winner = group[0] if len(group) == 1 else _winner(group, answers)
        if winner is not None:
            kept.append(winner)
        quarantine += [_loser(example, winner, group, answers) for example in group if example is not winner]
    return sorted(kept, key=lambda example: (example.source != FEEDBACK, -answers.worth(example)))


def _winner(group: Sequence[Example], answers: Answers) -> Example | None:
    corrected = [example for example in group if example.source == FEEDBACK]
    if corrected:
        return corrected[-1]
    voice = [next(number for number, other in enumerate(group) if answers.same(other, example)) for example in group]
    best, count = Counter(voice).most_common(1)[0]
    if len(set(voice)) > 1 and 2 * count <= len(group):
        return None
    return max((example for example, number in zip(group, voice, strict=True) if number == best), key=answers.worth)


def _loser(example: Example, winner: Example | None, group: Sequence[Example], answers: Answers) -> Quarantined:
    if winner is None:
        others = ", ".join(other.id for other in group if not answers.same(other, example))
        return out(example, "contradictory_labels", f"same prompt, other answer: {others}; no answer has a majority, so none is kept")
    if answers.said(example) == answers.said(winner):
        return out(example, "exact_duplicate", f"same prompt and answer as {winner.id}, but for case, punctuation or gaps")
    if answers.same(example, winner):
        return out(example, "near_duplicate", f"same prompt as {winner.id}, and nearly the same answer")
    why = "a correction from production" if winner.source == FEEDBACK else "what most rows with this prompt say"
    return out(example, "contradictory_labels", f"same prompt as {winner.id} with another answer; {winner.id} is {why}")


def _without_held_out_prompts(settled: Sequence[Example], quarantine: list[Quarantined]) -> list[Example]:
    tested = {plain_text(example.question): example.id for example in settled if example.held_out}
    kept = []
    for example in settled:
        twin = None if example.held_out else tested.get(plain_text(example.question))
        if twin is None:
            kept.append(example)
        else:
            quarantine.append(out(example, "duplicate_of_held_out", f"same prompt as {twin}, which is kept apart for the test"))
    return kept


def _first_of_each(
    settled: Sequence[Example], pairs: Pairs, *, answers: Answers, marks: bool, quarantine: list[Quarantined]
) -> list[Example]:
    """Walk through the examples, held-out ones and the best first, and keep those that resemble none kept before."""
    order = np.argsort(pairs.second, kind="stable")
    by_second = pairs.where(order)
    begin = np.searchsorted(by_second.second, np.arange(len(settled) + 1)).tolist()
    kept: dict[int, Example] = {}
    for place, example in enumerate(settled):
        before = [pair for pair in by_second.where(np.arange(begin[place], begin[place + 1])) if pair.first in kept]
        gone = _near_duplicate(example, before, kept, answers)
        if gone is not None:
            quarantine.append(gone)
            continue
        kept[place] = example
        for pair in before if marks else []:
            first = kept[pair.first]
            if pair.jaccard >= answers.threshold and first.held_out == example.held_out:
                kept[pair.first] = marked(first, f"near_duplicate_with_other_answer: {example.id}")
                kept[place] = marked(kept[place], f"near_duplicate_with_other_answer: {first.id}")
    roots = groups(len(settled), [pair[:2] for pair in pairs if pair.first in kept and pair.second in kept])
    return [replace(example, metadata={**example.metadata, CLUSTER: settled[roots[place]].id}) for place, example in kept.items()]


def _near_duplicate(example: Example, before: Sequence[Pair], kept: dict[int, Example], answers: Answers) -> Quarantined | None:
    for pair in sorted(before, key=lambda pair: -pair.jaccard):
        first = kept[pair.first]
        said = f"{pair.jaccard:.2f} like {first.id}"
        if first.held_out and not example.held_out:
            return out(example, "duplicate_of_held_out", f"{said}, which is kept apart for the test")
        if pair.jaccard >= answers.threshold and first.held_out == example.held_out and answers.same(first, example):
            return out(example, "near_duplicate", f"{said} (5-character shingles), with the same answer")
    return None
