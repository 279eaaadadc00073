"""How long a planned training takes: its loop, and what runs before it."""

from dataclasses import replace

from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.duration import Tokens, forward_seconds, training_seconds
from fine_tune_pipeline.guide.base_model.hardware import Speed
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.requests import Hyperparameters, Technique
from fine_tune_pipeline.programs.training.range_steps import range_steps, training_steps


def loop_seconds(
    model: Architecture,
    technique: Technique,
    tokens: Tokens,
    *,
    hyperparameters: Hyperparameters,
    epochs: float,
    at: Speed,
    checkpointing: bool = False,
) -> float:
    """Of so many epochs over `tokens`. kto looks at every step at the answers to other prompts too, about as many tokens once more."""
    trained = training_seconds(model, technique, tokens, epochs=epochs, at=at, checkpointing=checkpointing)
    if hyperparameters.method != "kto":
        return trained
    return trained + epochs * forward_seconds(model, technique, tokens, at=at)


def before_seconds(
    model: Architecture,
    technique: Technique,
    work: Workload,
    *,
    hyperparameters: Hyperparameters,
    micro_batch: int,
    loop: float,
    at: Speed,
) -> float:
    """Of the range test, counted to its last step (it may end sooner), and of what the untrained model makes of all answers.

    Args:
        loop: seconds of the whole training loop, of which the test is a share.
    """
    reference = _reference_seconds(model, technique, work, hyperparameters=hyperparameters, micro_batch=micro_batch, at=at)
    if not hyperparameters.range_test:
        return reference
    share = range_steps(hyperparameters, rows=work.rows) / training_steps(hyperparameters, rows=work.rows)
    # The test has a reference of its own.
    return share * loop + 2 * reference


def _reference_seconds(
    model: Architecture, technique: Technique, work: Workload, *, hyperparameters: Hyperparameters, micro_batch: int, at: Speed
) -> float:
    """One pass over training and validation rows: of dpo over both answers, of kto over each and the one to another prompt."""
    if hyperparameters.method not in ("dpo", "kto"):
        return 0.0
    more = (1 + work.validation_tokens / work.tokens) * (2 if hyperparameters.method == "kto" else 1)
    once = work.passed(rows=micro_batch)
    tokens = replace(
        once,
        all=more * once.all,
        labelled=more * once.labelled,
        per_row=once.per_row / hyperparameters.sequences,
        # A pass holds twice as many sequences as rows are trained on together.
        passes=once.passes * (1 + work.validation_tokens / work.tokens),
    )
    return forward_seconds(model, technique, tokens, at=at, untrained=True)
