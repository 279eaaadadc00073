"""Blind pairs for people: two answers to one prompt, without saying whose they are. The key stays in the artifact store."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.review.sample import shown_prompt
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.objective.clusters import cluster_names


@dataclass(frozen=True)
class Pair:
    """What a person sees. Nothing in it tells the systems apart, its number included."""

    id: str
    prompt: str
    A: str
    B: str


@dataclass(frozen=True)
class Secret:
    """Which test row a pair shows and who is A; `repeats` names the pair that it shows again, swapped; `cluster` what the row shares its
    fate with."""

    example: str
    A: str
    B: str
    repeats: str | None = None
    cluster: str | None = None


@dataclass(frozen=True)
class HandOut:
    """Pairs in the order in which people see them, and the key. `identical` counts test rows on which both systems say the same."""

    pairs: Sequence[Pair]
    key: Mapping[str, Secret]
    identical: int
    rows: int

    def key_json(self) -> str:
        """The key as it is kept apart."""
        return json.dumps({name: asdict(secret) for name, secret in self.key.items()}, indent=2)


def hand_out(
    rows: Sequence[Example],
    *,
    other: Sequence[str],
    fine_tuned: Sequence[str],
    other_name: str,
    count: int,
    repeated: float,
    seed: int,
    cluster_by: str | None = None,
) -> HandOut:
    """Draw pairs from the rows on which the two answers differ; each system is A in half of them.

    Args:
        rows: of the test set; answers are in the same order.
        count: pairs wanted, repeats not counted; fewer when fewer rows differ.
        repeated: share of them that is shown again with sides swapped: do people choose the answer, or the side?
        seed: draws rows, sides and order.
        cluster_by: column of metadata whose values rows share their fate by.
    """
    draw = random.Random(seed)
    differ = differing(other, fine_tuned)
    chosen = draw.sample(differ, min(count, len(differ)))
    sides = [number % 2 == 0 for number in range(len(chosen))]
    draw.shuffle(sides)
    shown = list(zip(chosen, sides, [False] * len(chosen), strict=True))
    repeats = [(place, not side, True) for place, side, _ in shown[: ceil(repeated * len(shown))]]
    order = [*shown, *repeats]
    draw.shuffle(order)
    names = {(place, again): f"p{number:03d}" for number, (place, _, again) in enumerate(order, start=1)}
    clusters = cluster_names(rows, cluster_by=cluster_by)
    pairs, key = [], {}
    for place, own_is_a, again in order:
        name = names[place, again]
        sides_of = [(FINE_TUNED, fine_tuned[place]), (other_name, other[place])]
        (a, a_text), (b, b_text) = sides_of if own_is_a else sides_of[::-1]
        pairs.append(Pair(name, shown_prompt(rows[place]), a_text, b_text))
        key[name] = Secret(rows[place].id, a, b, names[place, False] if again else None, clusters[place])
    return HandOut(pairs=pairs, key=key, identical=len(rows) - len(differ), rows=len(rows))


def differing(one: Sequence[str], other: Sequence[str]) -> list[int]:
    """Places at which two systems say something else."""
    return [place for place in range(len(one)) if one[place].strip() != other[place].strip()]
