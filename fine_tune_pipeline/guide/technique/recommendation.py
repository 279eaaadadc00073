"""Prompt, retrieve, classify or tune? One rule with its numbers, for step 4 (validation rows) and step 7 (test rows).

The cheapest system that meets every criterion is taken, unless the fine-tuned model may lead it by what matters. If none does, the rule
says which is best and what is missing, or that more rows would tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fine_tune_pipeline.guide.technique.systems import CLASSIFIER, FEW_SHOT, RETRIEVAL, WORD_CLASSIFIER, ZERO_SHOT
from fine_tune_pipeline.spec.evaluation import Choice, OverrideSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

MAJORITY = "majority"
TUNED = "fine_tuned"

KINDS: dict[str, Choice] = {
    MAJORITY: "classifier",
    WORD_CLASSIFIER: "classifier",
    CLASSIFIER: "classifier",
    ZERO_SHOT: "prompt",
    FEW_SHOT: "prompt",
    RETRIEVAL: "retrieve",
}
"""Systems that need no fine-tuning, those first that are usually cheaper, and what it is called to take one."""

NAMES = {
    MAJORITY: "always the most frequent answer",
    WORD_CLASSIFIER: "the plain classifier on words",
    CLASSIFIER: "the plain classifier",
    ZERO_SHOT: "the base model without examples",
    FEW_SHOT: "the base model with examples in its prompt",
    RETRIEVAL: "the base model with what was looked up in its prompt",
    TUNED: "the fine-tuned model",
}

_HEADS: dict[Choice, str] = {
    "prompt": "Prompting is enough",
    "retrieve": "Retrieval is enough",
    "classifier": "A plain classifier is the better buy",
    "fine_tune": "Fine-tuning pays",
    "hybrid": "Fine-tuning with retrieval pays",
    "more_data": "More data first",
    "cannot_tell": "The test set cannot tell",
}


@dataclass(frozen=True)
class Missed:
    """A criterion that a system is not shown to meet: `open` when the rows cannot tell, else it is missed."""

    criterion: str
    reason: str
    open: bool


@dataclass(frozen=True)
class Seen:
    """One system on the same rows as the others.

    `estimate`, `lower` and `upper` are of the first metric. `missed` is None when nothing can be asked of it. `lead` is the most by which
    the fine-tuned model may be better, one-sided; None before there is one. Costs are of 1,000 requests, `prompt_tokens` of one.
    """

    system: str
    estimate: float
    lower: float | None = None
    upper: float | None = None
    seconds: float = 0.0
    cost: float | None = None
    currency: str = ""
    prompt_tokens: float | None = None
    missed: tuple[Missed, ...] | None = ()
    lead: float | None = None

    @property
    def meets(self) -> bool:
        return self.missed == ()

    def row(self) -> dict[str, Any]:
        """A line of a table."""
        missing = ["nothing can be asked of it"] if self.missed is None else [miss.criterion for miss in self.missed]
        return {
            "system": self.system, "estimate": self.estimate, "low": self.lower, "high": self.upper, "seconds per 1,000": self.seconds,
            "cost per 1,000": self.cost, "currency": self.currency, "prompt tokens per request": self.prompt_tokens,
            "meets": self.meets, "missing": missing, "fine-tuning leads by at most": self.lead,
        }  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """What the plain classifier gained when its training rows were doubled to `rows`: an estimate and its one-sided bounds."""

    rows: int
    gain: float
    lower: float | None
    upper: float | None

    @property
    def goes_on(self) -> bool:
        """Whether a gain is shown."""
        return self.lower is not None and self.lower > 0

    def __str__(self) -> str:
        bounds = f", at least {self.lower:.3f}" if self.lower is not None else ""
        return f"the plain classifier gained {self.gain:.3f}{bounds} when its training rows were doubled to {self.rows}"


@dataclass(frozen=True)
class Question:
    """What the rule is asked beside the systems.

    `tuned_as` is what it is called to take the fine-tuned model. `share`: the metric is a share of right answers. `detectable` is the
    smallest gain that the rows would show; `worn` says why the rows can show nothing any more.
    """

    metric: str
    rows: int
    smallest_gain: float
    higher_is_better: bool = True
    share: bool = False
    tuned_as: Choice = "fine_tune"
    detectable: float | None = None
    growth: Growth | None = None
    worn: str = ""


@dataclass(frozen=True)
class Recommendation:
    """`choice` for machines, `sentence` for whoever decides; `system` is meant, and `meets` says whether it meets every criterion.

    `override` is what the use case decided instead: the choice stays what the rule says.
    """

    choice: Choice
    sentence: str
    system: str
    meets: bool
    seen: Sequence[dict[str, Any]] = field(default_factory=list)
    override: dict[str, str] | None = None


def tuned_as(spec: UseCaseSpec) -> Choice:
    """What it is called to take this use case's fine-tuned model."""
    return "hybrid" if spec.dataset.format.context == "retrieved" else "fine_tune"


def can_pay(found: Recommendation) -> bool:
    """Whether fine-tuning may be worth its price: nothing without it is recommended."""
    return found.choice not in KINDS.values()


def by_cost(seen: Sequence[Seen]) -> list[Seen]:
    """The cheapest first: by money where all have a price in one currency, else by seconds; of equals in the usual order."""
    usual = [*KINDS, TUNED]
    priced = all(one.cost is not None for one in seen) and len({one.currency for one in seen}) == 1
    return sorted(seen, key=lambda one: (one.cost if priced and one.cost is not None else one.seconds, usual.index(one.system)))


def recommend(seen: Sequence[Seen], asked: Question) -> Recommendation:
    """The verdict on systems of which one is the fine-tuned model."""
    ordered = by_cost([one for one in seen if one.system != MAJORITY])
    tuned = next(one for one in ordered if one.system == TUNED)
    enough = None if asked.worn else next((one for one in ordered if _is_enough(one, asked)), None)
    choice: Choice
    if asked.worn:
        choice, said, meant = "cannot_tell", f"{says(tuned, asked)}, but {asked.worn}", tuned
    elif enough is not None:
        choice, said, meant = KINDS[enough.system], _buys(enough, tuned, asked), enough
    elif tuned.meets:
        choice, meant = asked.tuned_as, tuned
        said = f"{says(tuned, asked)} and meets every criterion of the objective; {_rivals(ordered, asked)}"
    else:
        return _unmet(ordered, tuned, asked)
    mind = "" if choice == "classifier" else _mind(ordered, tuned, asked)
    return Recommendation(choice, f"{_HEADS[choice]}: {said}.{mind}", meant.system, meant.meets and not asked.worn, _rows(ordered, asked))


def overridden(found: Recommendation, override: OverrideSpec | None) -> Recommendation:
    """The recommendation with what the use case decided instead, said with its reason."""
    if override is None:
        return found
    said = f" The use case decides for {override.recommendation} instead of {found.choice}: {override.reason.strip().rstrip('.')}."
    if override.recommendation == found.choice:
        said = f" The use case decides for it too: {override.reason.strip().rstrip('.')}."
    return Recommendation(found.choice, found.sentence + said, found.system, found.meets, found.seen, override=override.model_dump())


def says(one: Seen, asked: Question) -> str:
    """A system's figure with its interval, in words."""
    ends = "" if one.lower is None or one.upper is None else f"95 % interval {_figure(one.lower, asked)} to {_figure(one.upper, asked)}, "
    where = f"({asked.metric}, {ends}{asked.rows} rows)"
    if asked.share:
        return f"{NAMES[one.system]} is right in {one.estimate:.1%} of the cases {where}"
    return f"{NAMES[one.system]} reaches {one.estimate:.3f} {where}"


def _unmet(ordered: Sequence[Seen], tuned: Seen, asked: Question) -> Recommendation:
    """No system is shown to meet everything: more rows would tell or help, nothing can be told, or the best with what it misses."""
    missed = [miss for miss in tuned.missed or () if not miss.open]
    why = _listed(missed or tuned.missed or (), "is not met" if missed else "is open")
    small = asked.detectable is not None and asked.detectable > asked.smallest_gain
    choice: Choice
    if missed and asked.growth is not None and asked.growth.goes_on:
        choice, meant, head = "more_data", tuned, _HEADS["more_data"]
        said = f"{says(tuned, asked)}, and {why}; {asked.growth}"
    elif not missed and small:
        choice, meant, head = "more_data", tuned, _HEADS["more_data"]
        gains = f"these rows would show a gain of {asked.detectable:.3f}, and one of {asked.smallest_gain:g} matters"
        said = f"the test set is too small to tell: {says(tuned, asked)}, but {why}; {gains}"
    elif not missed:
        choice, meant, head = "cannot_tell", tuned, _HEADS["cannot_tell"]
        said = f"{says(tuned, asked)}, but {why}"
    else:
        meant = _best(ordered, tuned, asked)
        choice, head = asked.tuned_as if meant is tuned else KINDS[meant.system], "Not yet"
        own = "" if meant is tuned else f" {says(meant, asked)}, and misses {_listed(meant.missed or ())};"
        said = f"{says(tuned, asked)}, and {why};{own} nearest to the objective is {NAMES[meant.system]}"
    mind = _mind(ordered, tuned, asked)
    return Recommendation(choice, f"{head}: {said}; {_rivals(ordered, asked)}.{mind}", meant.system, False, _rows(ordered, asked))


def _is_enough(one: Seen, asked: Question) -> bool:
    """Whether it meets everything and the fine-tuned model is shown to lead it by less than what matters."""
    return one.system in KINDS and one.meets and one.lead is not None and one.lead < asked.smallest_gain


def _buys(enough: Seen, tuned: Seen, asked: Question) -> str:
    lead = enough.lead
    assert lead is not None
    matters = f"and a gain below {asked.smallest_gain:g} does not matter to you"
    leads = f"fine-tuning leads by at most {lead:.3f}, {matters}" if lead > 0 else "fine-tuning is behind"
    return f"{says(enough, asked)} and meets every target; {says(tuned, asked)}, so {leads}{_cheaper(enough, tuned)}"


def _cheaper(enough: Seen, tuned: Seen) -> str:
    """What 1,000 requests cost with either; nothing where it was not measured."""
    if enough.cost is not None and tuned.cost is not None and enough.currency == tuned.currency:
        return f"; 1,000 requests cost {enough.cost:.3g} {enough.currency} against {tuned.cost:.3g} {tuned.currency}"
    return f"; 1,000 requests take {enough.seconds:.3g} s against {tuned.seconds:.3g} s" if tuned.seconds else ""


def _best(ordered: Sequence[Seen], tuned: Seen, asked: Question) -> Seen:
    """The best by its figure; of those that the fine-tuned model leads by less than what matters, and that miss nothing that it meets, the
    best of the others."""
    sign = 1 if asked.higher_is_better else -1
    best = max(ordered, key=lambda one: sign * one.estimate)
    own = {miss.criterion for miss in tuned.missed or ()}
    close = [
        one
        for one in ordered
        if one is not tuned
        and one.lead is not None
        and one.lead < asked.smallest_gain
        and {miss.criterion for miss in one.missed or ()} <= own
    ]
    return max(close, key=lambda one: sign * one.estimate) if best is tuned and close else best


def _mind(ordered: Sequence[Seen], tuned: Seen, asked: Question) -> str:
    """A sentence when a plain classifier is ahead; empty when none is."""
    sign = 1 if asked.higher_is_better else -1
    ahead = [one for one in ordered if one.system in (WORD_CLASSIFIER, CLASSIFIER) and sign * (one.estimate - tuned.estimate) > 0]
    if not ahead:
        return ""
    best = max(ahead, key=lambda one: sign * one.estimate)
    figures = f"{asked.metric} ({best.estimate:.3f} against {tuned.estimate:.3f})"
    return f" Mind that {NAMES[best.system]}, far cheaper to run, is ahead in {figures}."


def _rivals(ordered: Sequence[Seen], asked: Question) -> str:
    return ", ".join(says(one, asked) for one in sorted(ordered, key=lambda one: -one.estimate) if one.system != TUNED)


def _listed(missed: Sequence[Missed], state: str = "") -> str:
    """Criteria by name, how they stand, and what was seen of the first."""
    names = " and ".join(f"`{miss.criterion}`" for miss in missed)
    return f"{names} {state}".rstrip() + f" ({missed[0].reason})" if missed else "what was asked"


def _rows(ordered: Sequence[Seen], asked: Question) -> list[dict[str, Any]]:
    return [{**one.row(), "n": asked.rows} for one in ordered]


def _figure(value: float, asked: Question) -> str:
    return f"{value:.1%}" if asked.share else f"{value:.3f}"


def before_training(
    seen: Sequence[Seen], asked: Question, *, shown: Mapping[str, str], later: Sequence[str] = (), undecided: str = ""
) -> Recommendation:
    """The verdict while nothing has been trained: what is enough already, or that fine-tuning can pay.

    Args:
        seen: in the order of their nearness to the objective, the nearest first.
        shown: system -> what it shows of the criteria that can be asked of it, as text.
        later: criteria that only step 7 can judge; while there are such, nothing is said to meet everything.
        undecided: why these rows could not show even a faultless system, if so.
    """
    ordered = by_cost(seen)
    rest = f" Judged in step 7 only: {'; '.join(later)}." if later else ""
    enough = None if later else next((one for one in ordered if one.meets), None)
    if enough is not None:
        said = f"Fine-tuning is not needed: {enough.system} already meets every criterion on validation: {shown[enough.system]}."
        return Recommendation(KINDS[enough.system], said, enough.system, True, _rows(ordered, asked))
    best = seen[0]
    said = f"no system without training meets every criterion on validation. The nearest is {best.system}: {shown[best.system]}."
    grows = f" More rows would help too: {asked.growth}." if asked.growth is not None and asked.growth.goes_on else ""
    if undecided:
        told = f"Fine-tuning can pay, but the validation rows cannot tell: {undecided}; {said}{grows}{rest}"
        return Recommendation("cannot_tell", told, TUNED, False, _rows(ordered, asked))
    return Recommendation(asked.tuned_as, f"Fine-tuning can pay: {said}{grows}{rest}", TUNED, False, _rows(ordered, asked))
