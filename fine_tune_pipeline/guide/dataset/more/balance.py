"""Small and large classes brought nearer to each other: variants of rows of small ones, or fewer rows of large ones."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from sys import intern

import numpy as np

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.sequences import Chosen, chosen
from fine_tune_pipeline.guide.dataset.chance import by_hash
from fine_tune_pipeline.guide.dataset.more.augment import Plain, Plan
from fine_tune_pipeline.guide.dataset.more.made_rows import is_made
from fine_tune_pipeline.guide.dataset.steps import Sifted, out
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.more import BalanceSpec, Paraphrases, Typos

_FIRST_NUMBER = 1000
"""Of variants for balance, so that they differ from those that `augment` asks for."""


class NoClasses(ValueError):
    """Classes cannot be balanced, or given to `augment`, where the task has none or not these."""


def balancing(
    rows: Sequence[Example], planned: Sequence[Plan], spec: BalanceSpec, *, task: Task, by: Sequence[Plain | Paraphrases]
) -> list[Plan]:
    """Further variants, so that each class has `ratio` of the rows of the largest, spread evenly over the rows of the class.

    Args:
        rows: those that variants may be made of.
        planned: variants that are made anyway.
        by: the declared ways; those by a model are not used here.

    Raises:
        NoClasses: the task is open.
    """
    if not task.classes:
        raise NoClasses(f"dataset.more.balance: the task {task.type} has no classes to balance; leave it out")
    ways: list[Plain] = [how for how in by if not isinstance(how, Paraphrases)] or [Typos(type="typos")]
    of_class: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        of_class[task.class_of(row.completion)].append(row)
    made = Counter(task.class_of(plan.origin.completion) for plan in planned)
    wanted = math.ceil(spec.ratio * max((len(own) for own in of_class.values()), default=0))
    plans = []
    for name, own in of_class.items():
        ranked = sorted(own, key=lambda row: by_hash(row.id))
        for number in range(wanted - len(own) - made[name]):
            turn = number // len(ranked)
            plans.append(Plan(ranked[number % len(ranked)], ways[turn % len(ways)], _FIRST_NUMBER + turn))
    return plans


def capped(train: Sequence[Example], *, ratio: float, task: Task) -> Sifted:
    """Training rows of which no class has more than the smallest over `ratio`; which go is decided by hash, made rows first.

    Raises:
        NoClasses: the task is open.
    """
    if not task.classes:
        raise NoClasses(f"dataset.more.balance: the task {task.type} has no classes to balance; leave it out")
    of_class = [intern(task.class_of(row.completion)) for row in train]
    counts = Counter(of_class)
    most = math.floor(min(counts.values(), default=0) / ratio + 1e-9)
    ranked = sorted((is_made(row), by_hash(row.id), place) for place, row in enumerate(train))
    taken: Counter[str] = Counter()
    gone = []
    for *_, place in ranked:
        taken[of_class[place]] += 1
        if taken[of_class[place]] > most:
            gone.append(place)
    stay = np.setdiff1d(np.arange(len(train)), gone)
    refused = Chosen(train, gone, lambda place, row: out(row, "over_class_cap", _said(of_class[place], counts, most, ratio)))
    return Sifted(chosen(train, stay), refused)


def _said(name: str, counts: Mapping[str, int], most: int, ratio: float) -> str:
    return f"{name} has {counts[name]} training rows, at most {most} may be: the smallest class over {ratio:g} (dataset.more.balance)"
