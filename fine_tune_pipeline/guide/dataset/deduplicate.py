"""One example for one question: exact and near duplicates, contradictions, and training rows that the test set holds already."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.collect import FEEDBACK
from fine_tune_pipeline.guide.dataset.duplicates import LEAK_JACCARD, Pair, groups, near_pairs, plain_text
from fine_tune_pipeline.guide.dataset.steps import marked, out
from fine_tune_pipeline.guide.objective.task import Task, parsed

CLUSTER = "cluster"
"""Metadata: the id of the first example that this one resembles; its own id if it resembles none."""

Answer = Callable[[Example], str]


@dataclass(frozen=True)
class Deduplicated:
    """What is left, in the order it came, and what was taken out."""

    kept: list[Example]
    quarantine: list[Quarantined]


def deduplicate(examples: Sequence[Example], *, task: Task, threshold: float) -> Deduplicated:
    """Keep one example of each cluster of like prompts.

    A correction from production beats what was there before; else what most say, else what came first. The same prompt with
    contradictory answers goes out whole, unless more than half of at least three agree. Like (not equal) prompts with different answers
    stay, with a mark. Held-out rows are treated alike among themselves, and win over training rows.

    Args:
        threshold: Jaccard similarity of prompts from which two are near duplicates.
    """
    answer = _answers(task)
    quarantine: list[Quarantined] = []
    settled = [example for side in (True, False) for example in _settled(examples, held_out=side, answer=answer, quarantine=quarantine)]
    settled = _without_held_out_prompts(settled, quarantine)
    pairs = near_pairs([example.prompt for example in settled], min(threshold, LEAK_JACCARD))
    kept = _first_of_each(settled, pairs, answer=answer, threshold=threshold, marks=bool(task.classes), quarantine=quarantine)
    place = {example.id: number for number, example in enumerate(examples)}
    return Deduplicated(sorted(kept, key=lambda example: place[example.id]), sorted(quarantine, key=lambda row: place[row.id]))


def _answers(task: Task) -> Answer:
    """How answers are compared: JSON by value, else without what makes no difference to a reader."""
    if task.type == "extraction":
        return lambda example: json.dumps(parsed(example.completion), sort_keys=True)
    return lambda example: task.class_of(example.completion) or plain_text(example.completion)


def _settled(examples: Sequence[Example], *, held_out: bool, answer: Answer, quarantine: list[Quarantined]) -> list[Example]:
    """One example of each prompt, corrections first; the others go to the quarantine."""
    same: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.held_out == held_out:
            same[plain_text(example.prompt)].append(example)
    kept = []
    for group in same.values():
        winner = _winner(group, answer)
        if winner is not None:
            kept.append(winner)
        quarantine += [_loser(example, winner, group, answer) for example in group if example is not winner]
    return sorted(kept, key=lambda example: example.source != FEEDBACK)


def _winner(group: Sequence[Example], answer: Answer) -> Example | None:
    corrected = [example for example in group if example.source == FEEDBACK]
    if corrected:
        return corrected[-1]
    votes = Counter(map(answer, group))
    best, count = votes.most_common(1)[0]
    if len(votes) > 1 and 2 * count <= len(group):
        return None
    return next(example for example in group if answer(example) == best)


def _loser(example: Example, winner: Example | None, group: Sequence[Example], answer: Answer) -> Quarantined:
    if winner is None:
        others = ", ".join(other.id for other in group if answer(other) != answer(example))
        return out(example, "contradictory_labels", f"same prompt, other answer: {others}; no answer has a majority, so none is kept")
    if answer(example) == answer(winner):
        return out(example, "exact_duplicate", f"same prompt and answer as {winner.id}, but for case, punctuation or gaps")
    why = "a correction from production" if winner.source == FEEDBACK else "what most rows with this prompt say"
    return out(example, "contradictory_labels", f"same prompt as {winner.id} with another answer; {winner.id} is {why}")


def _without_held_out_prompts(settled: Sequence[Example], quarantine: list[Quarantined]) -> list[Example]:
    tested = {plain_text(example.prompt): example.id for example in settled if example.held_out}
    kept = []
    for example in settled:
        twin = None if example.held_out else tested.get(plain_text(example.prompt))
        if twin is None:
            kept.append(example)
        else:
            quarantine.append(out(example, "duplicate_of_held_out", f"same prompt as {twin}, which is kept apart for the test"))
    return kept


def _first_of_each(
    settled: Sequence[Example],
    pairs: Sequence[Pair],
    *,
    answer: Answer,
    threshold: float,
    marks: bool,
    quarantine: list[Quarantined],
) -> list[Example]:
    """Walk through the examples, held-out ones and corrections first, and keep those that resemble none kept before."""
    like: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        like[pair.second].append(pair)
    kept: dict[int, Example] = {}
    for place, example in enumerate(settled):
        before = [pair for pair in like[place] if pair.first in kept]
        gone = _near_duplicate(example, before, kept, answer=answer, threshold=threshold)
        if gone is not None:
            quarantine.append(gone)
            continue
        kept[place] = example
        for pair in before if marks else []:
            first = kept[pair.first]
            if pair.jaccard >= threshold and first.held_out == example.held_out:
                kept[pair.first] = marked(first, f"near_duplicate_with_other_answer: {example.id}")
                kept[place] = marked(kept[place], f"near_duplicate_with_other_answer: {first.id}")
    roots = groups(len(settled), [pair for pair in pairs if pair.first in kept and pair.second in kept])
    return [replace(example, metadata={**example.metadata, CLUSTER: settled[roots[place]].id}) for place, example in kept.items()]


def _near_duplicate(
    example: Example, before: Sequence[Pair], kept: dict[int, Example], *, answer: Answer, threshold: float
) -> Quarantined | None:
    for pair in sorted(before, key=lambda pair: -pair.jaccard):
        first = kept[pair.first]
        said = f"{pair.jaccard:.2f} like {first.id}"
        if first.held_out and not example.held_out:
            return out(example, "duplicate_of_held_out", f"{said}, which is kept apart for the test")
        if pair.jaccard >= threshold and first.held_out == example.held_out and answer(first) == answer(example):
            return out(example, "near_duplicate", f"{said} (5-character shingles), with the same answer")
    return None
