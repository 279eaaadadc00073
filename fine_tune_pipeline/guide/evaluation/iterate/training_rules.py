"""Rules about how long, how hard and with how much room the model was trained.

Losses come from one run on the validation rows, so they have no interval; the thresholds leave room for what another seed would change.
"""

from collections.abc import Iterator

from fine_tune_pipeline.guide.evaluation.iterate.findings import Findings
from fine_tune_pipeline.guide.evaluation.iterate.steps import Change, NextStep
from fine_tune_pipeline.spec.fields import has_field, value_at

RISE = 1.05
"""Of the lowest validation loss: less than 5 % is what another seed or order of rows changes."""

FALL = 0.95
"""Of the look before: a last look that is 5 % lower was not the last that would have been."""

GAP, LEAST_GAP = 2.0, 0.05
"""Validation loss over training loss, and their difference in nats: a small ratio of two tiny losses is no memorising."""

LITTLE = 0.7
"""Of the first training loss: a task that is learned at all soon halves it."""

LARGEST_RANK, MOST_EPOCHS = 128, 20


def overfit(found: Findings) -> Iterator[NextStep]:
    """The validation loss turned, or the training rows are known far better than the others; said only if the best was not kept."""
    losses = found.training["validation_losses"]
    if len(losses) < 2 or found.training["best_step"] is not None:
        return
    (last_step, last), (best_step, lowest), final = losses[-1], min(losses, key=lambda look: look[1]), found.training["final_loss"]
    one = f"one run on {found.training['rows']:,} training rows, so there is no interval"
    if last > RISE * lowest:
        yield NextStep(
            "overfit", "Train for less long",
            f"validation loss rose from {lowest:.3f} at step {best_step} to {last:.3f} at step {last_step} ({one})",
            _shorter(found, best_step=best_step),
            f"the validation loss of the best look, {lowest:.3f}", _trained(found, best_step / max(1, last_step)),
        )  # fmt: skip
    elif final is not None and last > GAP * final and last - final > LEAST_GAP:
        rank = found.low_rank()
        yield NextStep(
            "overfit", "Give it less room to learn rows by heart, or more rows",
            f"validation loss {last:.3f} is far above training loss {final:.3f} ({one})",
            found.rank_change(rank // 2) if rank and rank > 4 else (),
            "a smaller gap between the two losses", _trained(found, 1),
        )  # fmt: skip


def underfit(found: Findings) -> Iterator[NextStep]:
    """The validation loss still fell when training ended, or the training loss hardly fell at all."""
    losses, epochs = found.training["validation_losses"], found.epochs
    first, final = found.training["first_loss"], found.training["final_loss"]
    one = f"{found.training['steps']:,} steps, one run, so there is no interval"
    if len(losses) > 2 and losses[-1][1] < FALL * losses[-2][1]:
        longer = None if epochs is None else min(MOST_EPOCHS, round(3 * epochs) / 2 or 0.5)
        yield NextStep(
            "underfit", "Train longer",
            f"validation loss still fell at the end, from {losses[-2][1]:.3f} to {losses[-1][1]:.3f} ({one})",
            () if longer is None or longer <= (epochs or 0) else (found.change("training.epochs", longer),),
            "a lower validation loss, and answers that are right more often", _trained(found, 1.5),
        )  # fmt: skip
    elif first is not None and final is not None and final > LITTLE * first:
        yield NextStep(
            "underfit", "Look for a learning rate that learns",
            f"training loss fell from {first:.3f} to {final:.3f} only ({one})",
            () if found.spec.training.learning_rate == "range_test" else (found.change("training.learning_rate", "range_test"),),
            "a training loss that falls by more than a third", _trained(found, 1.2),
        )  # fmt: skip


def rank_too_small(found: Findings) -> Iterator[NextStep]:
    """An adapter holds about one labelled token per parameter; below, it is full. No advice where a larger one would only memorise more."""
    rank, epochs = found.low_rank(), found.epochs
    parameters, labelled = found.training["trainable_parameters"], found.training["labelled_tokens"]
    if rank is None or not epochs or not parameters or found.met or rank >= LARGEST_RANK or any(overfit(found)):
        return
    distinct = labelled / epochs
    if parameters < distinct:
        yield NextStep(
            "rank_too_small", "Give the adapter a larger rank",
            f"{parameters:,} trained parameters for {distinct:,.0f} labelled tokens of {found.training['rows']:,} rows (both counted)",
            found.rank_change(min(LARGEST_RANK, 2 * rank)),
            "a lower training loss, if the rows hold more than the adapter could", _trained(found, 1.1),
        )  # fmt: skip


def search(found: Findings) -> Iterator[NextStep]:
    """Settings that nobody has searched, where the objective is missed though tuning helps: its gain over the base is surely above 0."""
    path = "training.search"
    if not found.missed or not has_field(path) or value_at(found.spec, path) is not None:
        return
    gain = found.gain(found.report["compared_base"])
    if gain is not None and gain["low"] is not None and gain["low"] > 0:
        yield NextStep(
            "search", "Search learning rate, rank and epochs",
            f"tuning gains {gain['estimate']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}] over {gain['over']} on {found.report['n']} rows, "
            "and the objective is not met",
            (found.change(path, {"trials": 8}),),
            "never worse than now on validation rows", _trained(found, 4),
        )  # fmt: skip


def _shorter(found: Findings, *, best_step: int) -> tuple[Change, ...]:
    """Epochs until the best look, in quarters; where they are not known, early stopping. A loss that only rose asks for another rate."""
    if best_step == 0:
        return () if found.spec.training.learning_rate == "range_test" else (found.change("training.learning_rate", "range_test"),)
    if not found.epochs:
        return (found.change("training.early_stopping", {"patience": 2}),)
    shorter = max(1, int(4 * found.epochs * best_step / found.training["steps"])) / 4
    return (found.change("training.epochs", shorter),) if shorter < found.epochs else ()


def _trained(found: Findings, times: float) -> str:
    return f"a training of about {max(found.minutes * times, 0.1):.3g} minutes (the last took {found.minutes:.3g})"
