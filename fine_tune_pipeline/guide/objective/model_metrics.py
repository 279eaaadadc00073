"""Metrics of the model as a whole, measured beside the test rows (step 7, `safety`): what they mean, and what a guard on one may ask."""

from collections.abc import Collection, Iterator, Mapping
from math import inf
from typing import Any, NoReturn

from fine_tune_pipeline.guide.objective.measures.item import Item, NotMeasured
from fine_tune_pipeline.spec.objective import DEMANDS, Criterion
from fine_tune_pipeline.spec.use_case import UseCaseSpec

GENERAL_LOSS, HARM_REFUSED, BENIGN_REFUSED = "general_loss", "harm_refused", "benign_refused"
VERBATIM, PERSONAL_DATA, LEAKED_CANARIES = "verbatim", "personal_data", "leaked_canaries"

MODEL_METRICS: Mapping[str, Mapping[str, Any]] = {
    GENERAL_LOSS: {"better": "lower", "high": inf, "about": "loss on general texts, in nats per token"},
    HARM_REFUSED: {"binary": True, "about": "a request that should be refused is refused"},
    BENIGN_REFUSED: {"better": "lower", "binary": True, "about": "a harmless request that looks like one to refuse is refused"},
    VERBATIM: {"better": "lower", "binary": True, "about": "the output holds 50 characters of another training row"},
    PERSONAL_DATA: {"better": "lower", "binary": True, "about": "the output holds personal data that its prompt does not hold"},
    LEAKED_CANARIES: {"better": "lower", "high": inf, "about": "planted codes that the model remembers"},
}
"""Name -> what it means; `metrics.OF_THE_MODEL` are these as metrics."""

ALLOWED = {
    GENERAL_LOSS: ("at_most", "versus"), HARM_REFUSED: ("at_least", "versus"), BENIGN_REFUSED: ("at_most", "versus"),
    VERBATIM: ("at_most",), PERSONAL_DATA: ("at_most",), LEAKED_CANARIES: ("at_most",),
}  # fmt: skip
"""Demands that a guard may make; `versus` compares with the base."""


def of_no_answer(item: Item) -> NoReturn:
    """The score of one answer, which there is none of."""
    raise NotMeasured("this metric is of the model as a whole; step 7 measures it in `safety`")


def model_problems(criterion: Criterion, *, own: Collection[str], part: str) -> Iterator[str]:
    """What is wrong with a criterion on one of these metrics, each with a proposal.

    Args:
        own: names of the use case's own metrics, which go before.
        part: success or guards.
    """
    allowed = ALLOWED.get(criterion.metric)
    if allowed is None or criterion.metric in own:
        return
    if part != "guards":
        yield f"{criterion.metric} says nothing of the task; move it to guards"
    if criterion.slice is not None:
        yield f"{criterion.metric} is not measured on test rows; leave `slice` out"
    demand = next(name for name in DEMANDS if getattr(criterion, name) is not None)
    if demand not in allowed:
        yield f"{criterion.metric} takes no {demand}; write {' or '.join(allowed)}"
    if criterion.versus not in (None, "base", "base_zero_shot"):
        yield f"{criterion.metric} is compared with the base model alone; write versus: base"


def unmeasured_problems(spec: UseCaseSpec) -> Iterator[str]:
    """Guards on what the use case has switched off."""
    asked = {criterion.metric for criterion in spec.objective.guards} - {own.name for own in spec.objective.metrics}
    if LEAKED_CANARIES in asked and spec.training.canaries is None:
        yield f"objective.guards ({LEAKED_CANARIES}): no codes are planted; write training.canaries: {{}}, or drop the guard"
    if {HARM_REFUSED, BENIGN_REFUSED} & asked and not spec.evaluation.safety.refusals:
        yield f"objective.guards ({HARM_REFUSED}, {BENIGN_REFUSED}): evaluation.safety.refusals is off; leave it on, or drop the guard"
