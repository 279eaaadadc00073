"""Which examples people look at: those where a look is worth most first, and some at random, by which the rest is judged."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import CLUSTER
from fine_tune_pipeline.guide.dataset.review.verdicts import Settled, content
from fine_tune_pipeline.guide.dataset.sources.production import FEEDBACK
from fine_tune_pipeline.guide.dataset.steps import MARK
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.dataset import ReviewSpec


class Part(NamedTuple):
    """A reason to be looked at. Rows of a part that `must` be seen do not go on unseen: the quarantine takes those above the limit."""

    name: str
    why: str
    must: bool


PERSONAL_DATA = Part("personal_data", "the detectors are unsure, or disagree, about personal data", must=True)
CORRECTION = Part("correction", "correction from production", must=True)
DOUBT = Part("doubt", "a step doubts the answer", must=True)
RANDOM = Part("random", "random sample", must=False)
COVERAGE = Part("coverage", "so that enough of its class are seen", must=False)

PARTS = (PERSONAL_DATA, CORRECTION, DOUBT, RANDOM, COVERAGE)
"""The most urgent first; a row counts for the first one that it belongs to.

Marks come before the random part, since far more of them are wrong: of 114 labels that the classifier doubted in a set with planted
errors 18 were wrong, 16 %, against 4 % of all rows.
"""


RESERVED = 0.2
"""Share of the limit that the random part keeps: without any, nothing can be said about the rows that nobody saw."""


@dataclass(frozen=True)
class Sample:
    """The examples that people get, in the order of the data, and why each is among them.

    `random` are the ids of the random part, whatever else they belong to: by them alone the rest may be judged. `twice` are the ids that
    two people judge. `left_out` are rows above the limit, by part; `held_back` are the ids among them that may not go on unseen.
    """

    rows: list[Example]
    part: dict[str, Part] = field(default_factory=dict)
    random: frozenset[str] = frozenset()
    twice: frozenset[str] = frozenset()
    left_out: dict[str, int] = field(default_factory=dict)
    held_back: frozenset[str] = frozenset()

    @property
    def ids(self) -> set[str]:
        return {example.id for example in self.rows}

    def why(self, example: Example) -> str:
        """Why people look at this example, in words: what the steps said of it, else the part."""
        reason = example.metadata.get(MARK) or self.part[example.id].why
        return reason if example.rejected is None else f"{reason}; the answer that is to be liked less: {example.rejected}"

    def table(self) -> list[dict[str, Any]]:
        """Part -> why, how many were chosen, how many were left out by the limit; parts without rows are left away."""
        counts = Counter(self.part[example.id].name for example in self.rows)
        return [
            {"part": part.name, "why": part.why, "rows": counts[part.name], "left_out": self.left_out.get(part.name, 0)}
            for part in PARTS
            if counts[part.name] or self.left_out.get(part.name)
        ]


class ResidueSample(NamedTuple):
    """Of rows looked at in the random part: how many were judged for personal data, and how many still held some."""

    looked_at: int
    still_private: int


def choose(examples: Sequence[Example], spec: ReviewSpec, *, task: Task, seed: int) -> Sample:
    """The sample for people: all marked rows and corrections, a random share of all rows, and some of each class, up to `spec.most`.

    Who is in the random part depends on seed and content only, so that it stays the same when ids change or other rows come and go.
    """
    if spec.policy == "auto_accept":
        return Sample([])
    rank = _ranks(examples, seed)
    random = _lowest(examples, spec.share, rank, least=1)
    part = {example.id: found for example in examples if (found := _part(example, random)) is not None}
    part |= dict.fromkeys(_coverage(examples, part, task=task, each=spec.per_class, rank=rank), COVERAGE)
    chosen, over = _limited(part, random, spec.most, rank)
    rows = [example for example in examples if example.id in chosen]
    again = _ranks(rows, seed, purpose="two people")
    return Sample(
        rows=rows,
        part=part,
        random=frozenset(_unbiased(random, chosen, rank)),
        twice=frozenset(_lowest(rows, spec.double_share, again)),
        left_out=dict(Counter(part[id_].name for id_ in over)),
        held_back=frozenset(id_ for id_ in over if part[id_].must),
    )


def residue_sample(verdicts: Mapping[str, Settled], sample: Sample) -> ResidueSample:
    """What the random part says about personal data that is left, for an estimate over all rows.

    Args:
        verdicts: content -> what people say, as `settled` gives it.
        sample: what they were given. Rows that were chosen for a reason do not count: they are not like the others.
    """
    answers = [
        found.verdict.private
        for example in sample.rows
        if example.id in sample.random
        and (found := verdicts.get(content_of(example))) is not None
        and found.verdict is not None
        and found.verdict.private is not None
    ]
    return ResidueSample(len(answers), answers.count(False))


def shown_prompt(example: Example) -> str:
    """What the model is given, as people see it: the turns of a conversation with who said them."""
    if not example.history:
        return example.prompt
    turns = [f"{message.get('role', '?')}: {message.get('content') or message.get('tool_calls') or ''}" for message in example.history]
    return "\n".join([*turns, f"{example.role}: {example.prompt}"])


def content_of(example: Example) -> str:
    """The hash of what people are shown of an example."""
    return content(shown_prompt(example), example.completion, example.rejected)


def _part(example: Example, random: set[str]) -> Part | None:
    mark = example.metadata.get(MARK, "")
    if "personal_data" in mark:
        return PERSONAL_DATA
    if example.source == FEEDBACK:
        return CORRECTION
    if mark:
        return DOUBT
    return RANDOM if example.id in random else None


def _coverage(examples: Sequence[Example], part: Mapping[str, Part], *, task: Task, each: int, rank: Mapping[str, bytes]) -> list[str]:
    """Ids of further examples, one of each cluster of like prompts, until every class has `each` that people see."""
    seen = Counter(task.class_of(example.completion) for example in examples if example.id in part)
    clusters = {_cluster(example) for example in examples if example.id in part}
    more = []
    for example in sorted(examples, key=lambda example: rank[example.id]):
        name = task.class_of(example.completion)
        if example.id not in part and seen[name] < each and _cluster(example) not in clusters:
            seen[name] += 1
            clusters.add(_cluster(example))
            more.append(example.id)
    return more


def _cluster(example: Example) -> str:
    return example.metadata.get(CLUSTER, example.id)


def _limited(part: Mapping[str, Part], random: set[str], most: int | None, rank: Mapping[str, bytes]) -> tuple[set[str], list[str]]:
    """The ids within the limit, the most urgent parts first but for the reserve, and those above it."""
    order = sorted(part, key=lambda id_: (PARTS.index(part[id_]), rank[id_]))
    if most is None:
        return set(order), []
    reserved = sorted(random, key=lambda id_: rank[id_])[: round(RESERVED * most)]
    chosen = set(list(dict.fromkeys([*reserved, *order]))[:most])
    return chosen, [id_ for id_ in order if id_ not in chosen]


def _unbiased(random: set[str], chosen: set[str], rank: Mapping[str, bytes]) -> set[str]:
    """The random rows up to the first one above the limit: of those behind it only marked ones are left, which are not like the others."""
    end = min((rank[id_] for id_ in random - chosen), default=None)
    return {id_ for id_ in random if end is None or rank[id_] < end}


def _ranks(examples: Sequence[Example], seed: int, purpose: str = "sample") -> dict[str, bytes]:
    return {example.id: hashlib.sha256(f"{seed}:{purpose}:{content_of(example)}".encode()).digest() for example in examples}


def _lowest(examples: Sequence[Example], share: float, rank: Mapping[str, bytes], *, least: int = 0) -> set[str]:
    count = max(least, round(share * len(examples)))
    return set(sorted((example.id for example in examples), key=lambda id_: rank[id_])[:count])
