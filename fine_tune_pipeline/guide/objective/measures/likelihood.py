"""Which of two given answers a model holds for likelier; nothing is generated.

The first is the ranking accuracy of preference learning: log p(preferred | prompt) > log p(rejected | prompt), summed over the tokens
(Chen et al. 2024, "Preference Learning Algorithms Do Not Learn Preference Rankings", arXiv 2405.19534). A sum favours the shorter answer
whatever it says, so the second compares the mean per token, which is what SimPO and ORPO train on (Meng et al. 2024, arXiv 2405.14734;
Hong et al. 2024, arXiv 2403.07691). DPO's implicit reward, the gain over the reference, is no measure of a system here: for the base model
it is 0 always.
"""

from fine_tune_pipeline.guide.objective.measures.item import Item

PREFERRED, REJECTED = "preferred_logprob", "rejected_logprob"
"""Measured by the program that weighs answers: log-probabilities of the whole answers, end token included, in nats."""

PREFERRED_TOKENS, REJECTED_TOKENS = "preferred_tokens", "rejected_tokens"

NO_LIKELIHOOD = 0.5
"""Of a system that gives no probabilities, as of one that holds both answers for equally likely: it cannot tell them apart."""


def likelier(item: Item) -> float:
    """1 if the preferred answer is the likelier one as a whole, 0 if the rejected one is."""
    return _ranked(item.measured.get(PREFERRED), item.measured.get(REJECTED))


def likelier_per_token(item: Item) -> float:
    """The same by the mean over each answer's tokens."""
    found = item.measured
    if PREFERRED not in found:
        return NO_LIKELIHOOD
    return _ranked(found[PREFERRED] / found[PREFERRED_TOKENS], found[REJECTED] / found[REJECTED_TOKENS])


def _ranked(preferred: float | None, rejected: float | None) -> float:
    if preferred is None or rejected is None or preferred == rejected:
        return NO_LIKELIHOOD
    return float(preferred > rejected)
