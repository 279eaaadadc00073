"""One example for one question: exact and near duplicates, contradictions, and training rows that the test set holds already."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.sequences import Chosen, chosen
from fine_tune_pipeline.guide.dataset.likeness.duplicates import (
    LEAK_JACCARD,
    Pair,
    Pairs,
    groups,
    jaccard,
    near_plain,
    plain_text,
    shingles,
)
from fine_tune_pipeline.guide.dataset.sources.production import FEEDBACK, REQUEST
from fine_tune_pipeline.guide.dataset.sources.shape import CONVERSATION
from fine_tune_pipeline.guide.dataset.steps import Sifted, Why, marked, out
from fine_tune_pipeline.guide.objective.task import OPEN, Task, parsed

CLUSTER = "cluster"
"""Metadata: the id of the first example that this one resembles; its own id if it resembles none."""

_NO_CORRECTION = 2**40
"""More than any answer has characters."""


def deduplicate(examples: Sequence[Example], *, task: Task, threshold: float) -> Sifted:
    """Keep the best example of each cluster of like ones.

    Two things are compared. The question, all that was said before the answer: it decides what a test may not hold, what the split keeps
    together, and which rows may be one. And the record, question and answer: of like questions only those go whose answer says the same,
    in an open task those whose record is a near duplicate too. Like answers alone are no reason: other words for the same question are
    what training is there to learn.

    The best is kept: a correction from production, which people made, before all others; then what most say; of an open task then the
    longest answer; then what came first. A request of production whose answer nobody has judged comes after all others. The same question
    with contradictory answers goes out whole, unless more than half of at least three agree. Like (not equal) questions with different
    answers stay, with a mark. Held-out rows are treated alike among themselves, and win over training rows.

    Args:
        threshold: Jaccard similarity from which two are near duplicates.
    """
    answers = Answers(task, threshold)
    plain = [plain_text(example.question) for example in examples]
    gone: dict[int, Why] = {}
    held_out = np.array([example.held_out for example in examples], dtype=bool)
    order = np.concatenate([_settled(examples, plain, np.flatnonzero(side), answers, gone) for side in (held_out, ~held_out)])
    order = _without_held_out_prompts(examples, plain, order, held_out, gone)
    pairs = near_plain([plain[place] for place in order.tolist()], min(threshold, LEAK_JACCARD))
    first = _first_of_each(chosen(examples, order), pairs, answers=answers, marks=bool(task.classes))
    gone |= {int(order[place]): why for place, why in first.gone.items()}
    root = np.zeros(len(examples), dtype=np.int64)
    root[order] = order[first.root]
    marks = {int(order[place]): said for place, said in first.marks.items()}

    def kept(place: int, example: Example) -> Example:
        cluster = example.id if root[place] == place else examples[int(root[place])].id
        for said in marks.get(place, ()):
            example = marked(example, said)
        return replace(example, metadata={**example.metadata, CLUSTER: cluster})

    return Sifted(
        Chosen(examples, np.sort(order[first.kept]), kept),
        Chosen(examples, sorted(gone), lambda place, example: out(example, *gone[place])),
    )


@dataclass(frozen=True)
class Answers:
    """How the answers of a task are compared."""

    task: Task
    threshold: float

    @property
    def free(self) -> bool:
        """Whether answers are free text: then there are several ways to say the same."""
        return self.task.type in OPEN

    def said(self, example: Example) -> str:
        """What an answer says: JSON by value, else without what makes no difference to a reader."""
        if self.task.type == "extraction":
            return json.dumps(parsed(example.completion), sort_keys=True)
        return self.task.class_of(example.completion) or plain_text(example.completion)

    def same(self, left: Example, right: Example) -> bool:
        """Whether two rows with like questions say the same."""
        return self.said(left) == self.said(right) or (self.free and self._like_records(left, right))

    def _like_records(self, left: Example, right: Example) -> bool:
        """Question and answer of both, and the last turns alone: earlier turns that both have would outweigh any answer."""
        records = [_record] if not (left.history or right.history) else [_record, _last_turn]
        return all(jaccard(pieces(left), pieces(right)) >= self.threshold for pieces in records)

    def same_turn(self, left: Example, right: Example) -> bool:
        """Whether rows with like questions ask the same, whatever was said before: two turns of one conversation never do."""
        if of_one_conversation(left, right):
            return False
        if not (left.history or right.history):
            return True
        return jaccard(*(shingles(plain_text(example.prompt)) for example in (left, right))) >= self.threshold

    def worth(self, example: Example) -> int:
        """Of rows that say the same, the one worth most is kept: the longest free answer; else they are worth the same."""
        return len(plain_text(example.completion)) if self.free else 0


def of_one_conversation(left: Example, right: Example) -> bool:
    """Whether both are answers of the same conversation: what was said before is mostly the same then."""
    conversation = left.metadata.get(CONVERSATION)
    return conversation is not None and conversation == right.metadata.get(CONVERSATION)


def _record(example: Example) -> set[str]:
    return shingles(plain_text(f"{example.question}\n{example.completion}"))


def _last_turn(example: Example) -> set[str]:
    return shingles(plain_text(f"{example.prompt}\n{example.completion}"))


def _settled(
    examples: Sequence[Example], plain: Sequence[str], places: NDArray[np.int64], answers: Answers, gone: dict[int, Why]
) -> NDArray[np.int64]:
    """Places of one example of each question, the best first; the others are `gone`."""
    first: dict[str, int] = {}
    several: dict[int, list[int]] = {}
    for place in places.tolist():
        if (before := first.setdefault(plain[place], place)) != place:
            several.setdefault(before, [before]).append(place)
    winners = list(first.values())
    for number, place in enumerate(winners):
        if place in several:
            winners[number] = _best(examples, several[place], answers, gone)
    kept = np.array([place for place in winners if place >= 0], dtype=np.int64)
    rank = np.array([_rank(examples[place], answers) for place in kept.tolist()], dtype=np.int64)
    return kept[np.argsort(rank, kind="stable")]


def _rank(example: Example, answers: Answers) -> int:
    """Low is good: corrections first, then by worth; what is in doubt last."""
    return {FEEDBACK: 0, REQUEST: 2 * _NO_CORRECTION}.get(example.source, _NO_CORRECTION) - answers.worth(example)


def _best(examples: Sequence[Example], places: Sequence[int], answers: Answers, gone: dict[int, Why]) -> int:
    """The place of the best of several examples of one question, -1 if none is kept; the others are `gone`."""
    group = [examples[place] for place in places]
    best = _winner(group, answers)
    winner = None if best is None else group[best]
    gone |= {place: _lost(group[number], winner, group, answers) for number, place in enumerate(places) if number != best}
    return -1 if best is None else places[best]


def _winner(group: Sequence[Example], answers: Answers) -> int | None:
    """Which of them is kept."""
    corrected = [number for number, example in enumerate(group) if example.source == FEEDBACK]
    if corrected:
        return corrected[-1]
    sure = [number for number, example in enumerate(group) if example.source != REQUEST]
    if not sure:
        return len(group) - 1
    if len(sure) < len(group):
        best_sure = _winner([group[number] for number in sure], answers)
        return None if best_sure is None else sure[best_sure]
    voice = [next(number for number, other in enumerate(group) if answers.same(other, example)) for example in group]
    best, count = Counter(voice).most_common(1)[0]
    if len(set(voice)) > 1 and 2 * count <= len(group):
        return None
    return max((number for number, said in enumerate(voice) if said == best), key=lambda number: answers.worth(group[number]))


def _lost(example: Example, winner: Example | None, group: Sequence[Example], answers: Answers) -> Why:
    if winner is None:
        others = ", ".join(other.id for other in group if not answers.same(other, example))
        return Why("contradictory_labels", f"same prompt, other answer: {others}; no answer has a majority, so none is kept")
    if answers.said(example) == answers.said(winner):
        return Why("exact_duplicate", f"same prompt and answer as {winner.id}, but for case, punctuation or gaps")
    if answers.same(example, winner):
        return Why("near_duplicate", f"same prompt as {winner.id}, and nearly the same answer")
    why = "a correction from production" if winner.source == FEEDBACK else "what most rows with this prompt say"
    return Why("contradictory_labels", f"same prompt as {winner.id} with another answer; {winner.id} is {why}")


def _without_held_out_prompts(
    examples: Sequence[Example], plain: Sequence[str], order: NDArray[np.int64], held_out: NDArray[np.bool_], gone: dict[int, Why]
) -> NDArray[np.int64]:
    tested = {plain[place]: place for place in order[held_out[order]].tolist()}
    twins = [-1 if held_out[place] else tested.get(plain[place], -1) for place in order.tolist()]
    for place, twin in zip(order.tolist(), twins, strict=True):
        if twin >= 0:
            gone[place] = Why("duplicate_of_held_out", f"same prompt as {examples[twin].id}, which is kept apart for the test")
    return order[np.array(twins, dtype=np.int64) < 0]


class _First(NamedTuple):
    """Of examples in order: which are kept, why the others are not, marks, and the first one of each one's cluster."""

    kept: NDArray[np.bool_]
    gone: dict[int, Why]
    marks: dict[int, list[str]]
    root: NDArray[np.int64]


def _first_of_each(settled: Sequence[Example], pairs: Pairs, *, answers: Answers, marks: bool) -> _First:
    """Walk through the examples, held-out ones and the best first, and keep those that resemble none kept before."""
    by_second = pairs.where(np.argsort(pairs.second, kind="stable"))
    kept = np.ones(len(settled), dtype=bool)
    gone: dict[int, Why] = {}
    said: dict[int, list[str]] = defaultdict(list)
    for place, like in groupby(by_second, key=lambda pair: pair.second):
        example = settled[place]
        before = [(settled[pair.first], pair) for pair in like if kept[pair.first]]
        why = _near_duplicate(example, before, answers)
        if why is not None:
            gone[place], kept[place] = why, False
            continue
        for first, pair in before if marks else []:
            if pair.jaccard >= answers.threshold and first.held_out == example.held_out and answers.same_turn(first, example):
                said[pair.first].append(f"near_duplicate_with_other_answer: {example.id}")
                said[place].append(f"near_duplicate_with_other_answer: {first.id}")
    both = pairs.where(kept[pairs.first] & kept[pairs.second])
    return _First(kept, gone, said, groups(len(settled), np.stack([both.first, both.second], axis=1)))


def _near_duplicate(example: Example, before: Sequence[tuple[Example, Pair]], answers: Answers) -> Why | None:
    for first, pair in sorted(before, key=lambda like: -like[1].jaccard):
        said = f"{pair.jaccard:.2f} like {first.id}"
        if first.held_out and not example.held_out:
            return Why("duplicate_of_held_out", f"{said}, which is kept apart for the test")
        alike = pair.jaccard >= answers.threshold and first.held_out == example.held_out and answers.same_turn(first, example)
        if alike and answers.same(first, example):
            return Why("near_duplicate", f"{said} (5-character shingles), with the same answer")
    return None
