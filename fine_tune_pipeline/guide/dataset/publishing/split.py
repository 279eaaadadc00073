"""Training, validation and test examples: like prompts on one side, and an example keeps its side when data grows."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.likeness.contamination import Benchmark, benchmarks_in_training, held_out_in_training, written
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import CLUSTER
from fine_tune_pipeline.guide.dataset.likeness.duplicates import LEAK_JACCARD, LEAK_MISSED, groups, near_pairs
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap, links, runs_of
from fine_tune_pipeline.guide.dataset.sources.shape import CONVERSATION
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.dataset import SplitSpec

LEAST = 2 / 3
"""Of its share in validation and test each class gets at least so much."""

LARGE_SHARE = 0.01
LARGE_ROWS = 50
"""A group with more rows than both is training's: in one domain enough rows are connected through others that no part could hold them."""

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The three parts, each in the order the examples came, and training rows that turned out too like a held-out one."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    quarantine: list[Quarantined]
    by_held_out: bool

    def parts(self) -> dict[str, list[Example]]:
        """Name of the part -> its examples."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def split(
    examples: Sequence[Example], *, spec: SplitSpec, task: Task, template: tuple[str, ...] = (), benchmarks: Sequence[Benchmark] = ()
) -> Split:
    """Divide examples by the hash of the id of the first of each group of like prompts.

    Prompts are alike if they are near duplicates, lie in one cluster, belong to one conversation, or share a run of `spec.shared_words`
    words that are the user's own. Held-out examples are the test; only without any, a test is split off. What resembles one of them, or a
    benchmark, is quarantined.
    A share holds for the whole and, in expectation, for each class.

    The one exception to the hash: where it gives a class less than two thirds of its share in a part, the class's next groups go there.
    Only such groups can move back when data grows. (Exact quotas per class would move others with every new row.) A new row that is like
    rows of two sides joins their groups, which then are on one side.

    The id decides, not the text: it is the hash of the row's content unless the source names its rows, and then the name outlives a
    correction of the text. A row whose typo is mended must not go from the training set into the test of the model that learned it.

    Args:
        template: literals of the prompt templates, see `own_words.literals`.
    """
    overlap = Overlap(spec.shared_words, template)
    held_out = [example for example in examples if example.held_out]
    pairs = near_pairs([example.question for example in examples], LEAK_JACCARD, missed=LEAK_MISSED)
    runs = runs_of(list(map(written, examples)), overlap)
    gone = benchmarks_in_training(examples, benchmarks, overlap=overlap)
    gone |= held_out_in_training(examples, pairs, runs, overlap=overlap)
    rest = [number for number, example in enumerate(examples) if not example.held_out and number not in gone]
    alike = chain((pair[:2] for pair in pairs), links(runs.where(np.isin(runs.owner, rest))))
    shares = {"validation": spec.validation} if held_out else {"test": spec.test, "validation": spec.validation}
    side = _sides(_grouped(examples, rest, alike), shares=shares, seed=spec.seed, task=task)
    parts: dict[str, list[Example]] = {name: [examples[number] for number in rest if side[number] == name] for name in PARTS}
    quarantine = [row for _, row in sorted(gone.items())]
    return Split(parts["train"], parts["validation"], held_out or parts["test"], quarantine, by_held_out=bool(held_out))


def _grouped(examples: Sequence[Example], places: Sequence[int], alike: Iterable[tuple[int, int]]) -> list[list[tuple[int, Example]]]:
    """Examples that must stay together: those that are alike, lie in one cluster, or are answers of one conversation."""
    allowed = set(places)
    joined = [(first, second) for first, second in alike if first in allowed and second in allowed]
    first_of: dict[tuple[str, str], int] = {}
    for place in places:
        for name in (CLUSTER, CONVERSATION):
            value = examples[place].metadata.get(name)
            if value is not None and (first := first_of.setdefault((name, value), place)) != place:
                joined.append((first, place))
    root = groups(len(examples), joined)
    members: dict[int, list[tuple[int, Example]]] = defaultdict(list)
    for place in places:
        members[root[place]].append((place, examples[place]))
    return list(members.values())


def _sides(grouped: Sequence[Sequence[tuple[int, Example]]], *, shares: Mapping[str, float], seed: int, task: Task) -> dict[int, str]:
    """Place -> name of its part."""
    ranked = sorted(grouped, key=lambda group: _rank(group[0][1].id, seed))
    large = max(LARGE_ROWS, LARGE_SHARE * sum(map(len, grouped)))
    part = ["train" if len(group) > large else _part(_rank(group[0][1].id, seed), shares) for group in ranked]
    classes: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(ranked):
        if len(group) <= large:
            classes[task.class_of(group[0][1].completion)].append(number)
    for numbers in classes.values():
        for name, share in shares.items():
            for number in _missing(numbers, ranked, part, name=name, share=share):
                part[number] = name
    return {place: part[number] for number, group in enumerate(ranked) for place, _ in group}


def _missing(numbers: Sequence[int], ranked: Sequence[Sequence[object]], part: Sequence[str], *, name: str, share: float) -> list[int]:
    """The next groups of a class, by rank, that a part needs to hold `LEAST` of the class's share; one stays in training."""
    rows = sum(len(ranked[number]) for number in numbers)
    least = max(min(1, round(share * rows)), math.floor(LEAST * share * rows + 1e-9))
    lacking = least - sum(len(ranked[number]) for number in numbers if part[number] == name)
    free = [number for number in numbers if part[number] == "train"]
    taken = []
    for number in free[:-1]:
        if lacking <= 0:
            break
        taken.append(number)
        lacking -= len(ranked[number])
    return taken


def _rank(id_: str, seed: int) -> float:
    """A number in 0 to 1 that only seed and id decide."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{id_}".encode()).digest()[:8]) / 2**64


def _part(rank: float, shares: Mapping[str, float]) -> str:
    end = 0.0
    for name, share in shares.items():
        end += share
        if rank < end:
            return name
    return "train"
