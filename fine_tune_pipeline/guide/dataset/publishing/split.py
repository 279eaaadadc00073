"""Training, validation and test examples: like prompts on one side, and an example keeps its side when data grows."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from sys import intern

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.sequences import Chosen, Joined, chosen, each
from fine_tune_pipeline.guide.dataset.likeness.contamination import Benchmark, benchmarks_in_training, held_out_in_training, written
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import CLUSTER
from fine_tune_pipeline.guide.dataset.likeness.duplicates import LEAK_JACCARD, LEAK_MISSED, groups, near_pairs
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap, links, runs_of
from fine_tune_pipeline.guide.dataset.sources.production import PRODUCTION, asked_of
from fine_tune_pipeline.guide.dataset.sources.shape import CONVERSATION
from fine_tune_pipeline.guide.dataset.steps import out
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
    """The three parts, each in the order the examples came, and training rows that turned out too like a held-out one.

    `fresh` are rows of production that no training may see: a second test set, so that the first one stays what it was.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    quarantine: Sequence[Quarantined]
    by_held_out: bool
    fresh: Sequence[Example] = ()

    def parts(self) -> dict[str, Sequence[Example]]:
        """Name of the part -> its examples."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def together(self) -> Sequence[Example]:
        """The examples of all parts."""
        return Joined(*self.parts().values(), self.fresh)


def split(
    examples: Sequence[Example],
    *,
    spec: SplitSpec,
    task: Task,
    template: tuple[str, ...] = (),
    benchmarks: Sequence[Benchmark] = (),
    fresh: float = 0.0,
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

    Rows of production are never in the test: of groups that hold nothing else a share is `fresh`, and so is what is like a test row. Their
    question decides, not their id, since an answer may be corrected later.

    Args:
        template: literals of the prompt templates, see `own_words.literals`.
        fresh: share of production's rows that no training sees.
    """
    overlap = Overlap(spec.shared_words, template)
    held_out = np.array([example.held_out for example in examples], dtype=bool)
    pairs = near_pairs((example.question for example in examples), LEAK_JACCARD, missed=LEAK_MISSED)
    runs = runs_of(each(examples, written), overlap)
    gone = benchmarks_in_training(examples, benchmarks, overlap=overlap)
    gone |= held_out_in_training(examples, pairs, runs, overlap=overlap)
    free = ~held_out
    free[list(gone)] = False
    alike = np.concatenate([np.stack([pairs.first, pairs.second], axis=1), links(runs.where(free[runs.owner])), *_named(examples, free)])
    root = groups(len(examples), alike[free[alike].all(axis=1)])
    shares = {"validation": spec.validation} if held_out.any() else {"test": spec.test, "validation": spec.validation}
    ours = np.array([example.source in PRODUCTION for example in examples], dtype=bool)
    alone = ~np.isin(root, root[free & ~ours])
    of_production = {"test": fresh, "validation": spec.validation}
    side = _sides(examples, root, free & ~alone, shares=shares, seed=spec.seed, task=task)
    side[alone] = _sides(examples, root, free & alone, shares=of_production, seed=spec.seed, task=task)[alone]
    parts = {
        name: chosen(examples, np.flatnonzero(free & (side == number) & ~(ours & (name == "test")))) for number, name in enumerate(PARTS)
    }
    newest = chosen(examples, np.flatnonzero(free & (side == PARTS.index("test")) & ours))
    test = chosen(examples, np.flatnonzero(held_out)) if held_out.any() else parts["test"]
    quarantine = Chosen(examples, sorted(gone), lambda place, example: out(example, *gone[place]))
    return Split(parts["train"], parts["validation"], test, quarantine, by_held_out=bool(held_out.any()), fresh=newest)


def _named(examples: Sequence[Example], free: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """Pairs of places, in two columns, that connect the free examples of one cluster, and those of one conversation."""
    # Hashes: a million names would be a quarter of a gigabyte. Two that are equal by chance put two more rows on one side.
    columns = {name: np.zeros(len(examples), dtype=np.int64) for name in (CLUSTER, CONVERSATION)}
    for place, example in enumerate(examples):
        for name, column in columns.items():
            if (value := example.metadata.get(name)) is not None:
                column[place] = hash(value) or 1
    for column in columns.values():
        places = np.flatnonzero(free & (column != 0))
        _, first, which = np.unique(column[places], return_index=True, return_inverse=True)
        yield np.stack([places[first[which]], places], axis=1)


def _sides(
    examples: Sequence[Example], root: NDArray[np.int64], free: NDArray[np.bool_], *, shares: Mapping[str, float], seed: int, task: Task
) -> NDArray[np.int64]:
    """Place -> number of its part. A group's first example speaks for it; it is the group's root, since only free ones are joined."""
    leaders, sizes = np.unique(root[free], return_counts=True)
    said = [(_rank(asked_of(example), seed), intern(task.class_of(example.completion))) for example in chosen(examples, leaders)]
    order = sorted(range(len(leaders)), key=lambda number: said[number][0])
    rows = [int(sizes[number]) for number in order]
    large = max(LARGE_ROWS, LARGE_SHARE * sum(rows))
    part = ["train" if count > large else _part(said[number][0], shares) for count, number in zip(rows, order, strict=True)]
    classes: dict[str, list[int]] = defaultdict(list)
    for turn, number in enumerate(order):
        if rows[turn] <= large:
            classes[said[number][1]].append(turn)
    for turns in classes.values():
        for name, share in shares.items():
            for turn in _missing(turns, rows, part, name=name, share=share):
                part[turn] = name
    of_leader = np.zeros(len(examples), dtype=np.int64)
    of_leader[leaders[order]] = [PARTS.index(name) for name in part]
    return of_leader[root]


def _missing(numbers: Sequence[int], sizes: Sequence[int], part: Sequence[str], *, name: str, share: float) -> list[int]:
    """The next groups of a class, by rank, that a part needs to hold `LEAST` of the class's share; one stays in training."""
    rows = sum(sizes[number] for number in numbers)
    least = max(min(1, round(share * rows)), math.floor(LEAST * share * rows + 1e-9))
    lacking = least - sum(sizes[number] for number in numbers if part[number] == name)
    free = [number for number in numbers if part[number] == "train"]
    taken = []
    for number in free[:-1]:
        if lacking <= 0:
            break
        taken.append(number)
        lacking -= sizes[number]
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
