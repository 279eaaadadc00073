"""What to try when the chosen base model does not do: the next larger, cheaper and smaller one that the rules allow."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fine_tune_pipeline.guide.base_model.candidates import Candidate
from fine_tune_pipeline.guide.base_model.price import Cost
from fine_tune_pipeline.guide.base_model.running_costs import money

STEP = 1.5
"""Times the parameters: a smaller step changes less than another seed does."""

Kind = Literal["larger", "cheaper", "smaller", "passes"]


@dataclass(frozen=True)
class Alternative:
    """Another base model, why it is worth a try, and whether the use case names it already."""

    id: str
    kind: Kind
    reason: str
    candidate: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """A model that passes every rule. `listed`: the use case names it; `answers`: what a thousand cost, None when it is not known."""

    judged: Candidate
    listed: bool
    answers: Cost | None

    @property
    def parameters(self) -> int:
        assert self.judged.facts is not None
        return self.judged.facts.parameters


def try_next(chosen: Choice | None, others: Sequence[Choice]) -> list[Alternative]:
    """The ranked alternatives: the larger first, since a model that misses its objective is seldom too large.

    Args:
        chosen: None when every candidate is refused: then the smallest other that passes.
        others: that pass; those that the use case lists are preferred to others of the catalogue.
    """
    if chosen is None:
        smallest = _first(others, key=lambda other: other.parameters)
        return [] if smallest is None else [_named(smallest, "passes", "the smallest that passes")]
    larger = _first((o for o in others if o.parameters >= STEP * chosen.parameters), key=lambda other: other.parameters)
    smaller = _first((o for o in others if STEP * o.parameters <= chosen.parameters), key=lambda other: -other.parameters)
    cheaper = _first((o for o in others if _is_cheaper(o, chosen)), key=lambda other: other.answers.amount if other.answers else 0.0)
    found: list[Alternative] = []
    if larger is not None:
        found.append(_named(larger, "larger", f"{larger.parameters / chosen.parameters:.1f} times the parameters"))
    if cheaper is not None:
        found.append(_named(cheaper, "cheaper", f"1,000 answers cost {money(cheaper.answers)} in the place of {money(chosen.answers)}"))
    if smaller is not None:
        share = f"{smaller.parameters / chosen.parameters:.2f} times the parameters"
        found.append(_named(smaller, "smaller", f"{share}: faster, if it still meets the objective"))
    return list({alternative.id: alternative for alternative in reversed(found)}.values())[::-1]


def _named(choice: Choice, kind: Kind, why: str) -> Alternative:
    return Alternative(choice.judged.id, kind, f"{why}; {_facts(choice)}", choice.listed)


def _first(choices: Iterable[Choice], *, key: Callable[[Choice], float]) -> Choice | None:
    return min(choices, key=lambda choice: (not choice.listed, key(choice)), default=None)


def _is_cheaper(other: Choice, chosen: Choice) -> bool:
    if other.answers is None or chosen.answers is None or other.answers.currency != chosen.answers.currency:
        return False
    return STEP * other.answers.amount <= chosen.answers.amount


def _facts(choice: Choice) -> str:
    technique, size = min(choice.judged.memory_bytes.items(), key=lambda item: item[1])
    return (
        f"{choice.parameters / 1e9:.3g} billion parameters, {technique} in {size / (1 << 30):.1f} GiB, licence {choice.judged.licence.id}"
    )
