"""`auto` becomes a number here, each by a stated rule that is shown beside it."""

from dataclasses import dataclass, replace
from typing import Any

from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.chosen import expert_rank, own_technique
from fine_tune_pipeline.guide.technique.data_size import data_factor
from fine_tune_pipeline.guide.technique.preference_rules import RATE_SHARES, Rule, preference_of, preference_rule
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.requests import EarlyStopping, Hyperparameters, Technique
from fine_tune_pipeline.spec.technique import LowRank, TechniqueSpec
from fine_tune_pipeline.spec.training import TrainingSpec

SMALL_MODEL = 4_100_000_000
"""Parameters of what is sold as 4 B: up to here adapters want the higher rate."""

RANKS = (16, 32, 64, 128)

ENOUGH_STEPS = 100
"""Optimizer steps below which a smaller batch serves better: adapters suffer from large batches, and a short schedule from few steps."""

AS_WRITTEN = ("warmup_share", "schedule", "weight_decay", "max_grad_norm", "loss_on", "seed", "neftune_alpha", "label_smoothing")
"""Settings that no rule changes."""

TINY_STEPS = 30
"""Optimizer steps below which it is made smaller once more: the rate would rise and fall before anything is learned."""


@dataclass(frozen=True)
class Resolved:
    """Hyper-parameters of one technique, and the rule behind each."""

    hyperparameters: Hyperparameters
    rules: tuple[Rule, ...]


def techniques(spec: TechniqueSpec, model: Architecture, work: Workload) -> tuple[Technique, ...]:
    """What there is to choose from, each under another label; the user's own replaces ours of that label.

    Raises:
        NotInTheModel: the use case wants parts trained that the model does not have, or a rank that it has no room for.
    """
    rank = capacity_rank(model, work)
    offered = [Technique(type=name, rank=rank) for name in ("full", "lora", "qlora")]
    offered += [Technique(type="lora", rank=rank, use_dora=True), Technique(type="lora", rank=rank, use_rslora=True)]
    if model.experts:
        offered.append(Technique(type="lora", rank=rank, expert_rank=expert_rank(rank, model)))
    own = own_technique(spec, model)
    named = {technique.label: technique for technique in [*offered, *([own] if own else [])]}
    return tuple(named.values())


def capacity_rank(model: Architecture, work: Workload) -> int:
    """16, or as much more as gives the adapter a number for every labelled token, up to 128 and to the smallest matrix."""
    enough = next((rank for rank in RANKS if model.lora_parameters(rank) >= work.labelled_tokens), RANKS[-1])
    return min(enough, model.hidden, model.key_width)


def resolve(spec: TrainingSpec, technique: Technique, model: Architecture, work: Workload, *, context: int) -> Resolved:
    """Every hyper-parameter as a number.

    Args:
        context: tokens that the base model can read.
    """
    epochs = _epochs(spec, work)
    batch = _effective_batch(spec, work, epochs=epochs.value)
    rate = _learning_rate(spec, technique, model)
    if isinstance(spec.learning_rate, str):
        rate = _fitted(rate, technique, rows=epochs.value * work.rows, batch=batch.value)
    length = _max_length(spec, work, context=context)
    fixed = {name: getattr(spec, name) for name in AS_WRITTEN}
    range_test = _range_test(spec, rate)
    fixed["early_stopping"] = None if spec.early_stopping is None else EarlyStopping(**spec.early_stopping.model_dump())
    hyperparameters = Hyperparameters(
        learning_rate=rate.value,
        epochs=epochs.value,
        effective_batch=batch.value,
        max_length=length.value,
        range_test=range_test.value,
        preference=preference_of(spec, work),
        **fixed,
    )
    written = (Rule(name, value, "as written, or the default") for name, value in fixed.items())
    rules = (rate, range_test, epochs, batch, length, *written, preference_rule(hyperparameters.preference))
    return Resolved(hyperparameters, rules)


def _learning_rate(spec: TrainingSpec, technique: Technique, model: Architecture) -> Rule:
    if not isinstance(spec.learning_rate, str):
        return _written("learning_rate", spec.learning_rate)
    small = model.parameters <= SMALL_MODEL
    adapters = 1e-3 if small else 3e-4
    size = "up to 4 B parameters" if small else "above 4 B parameters"
    if spec.preference is not None:
        share, why = RATE_SHARES[spec.preference.type]
        rate = share * adapters / (10 if technique.type == "full" else 1)
        return Rule("learning_rate", rate, f"{technique.type}, {size}: {share:g} of the rate of supervised learning: {why}")
    if technique.type == "full":
        return Rule("learning_rate", adapters / 10, f"all weights, {size}: a tenth of the {adapters:g} that adapters want")
    if technique.lora_plus_ratio:
        faster = f"their second halves learn {technique.lora_plus_ratio:g} times as fast"
        return Rule("learning_rate", adapters / 2, f"adapters, {size}: half of {adapters:g}, since {faster} (LoRA+)")
    return Rule("learning_rate", adapters, f"adapters, {size}: {adapters:g}, nearly whatever the rank")


def _fitted(rate: Rule, technique: Technique, *, rows: float, batch: int) -> Rule:
    """The rate for so many rows, to two digits."""
    factor, why = data_factor(adapters=technique.type != "full", steps=rows / batch, rows=rows)
    return replace(rate, value=float(f"{factor * rate.value:.2g}"), rule=f"{rate.rule}; {why}" if why else rate.rule)


def _range_test(spec: TrainingSpec, rate: Rule) -> Rule:
    wanted = spec.learning_rate == "range_test"
    low, high = rate.value / 3, rate.value * 3
    why = (
        f"looks for the rate between {low:.2g} and {high:.2g} before the training; the asset adapter shows it"
        if wanted
        else "not asked for"
    )
    return Rule("range_test", wanted, why)


def _epochs(spec: TrainingSpec, work: Workload) -> Rule:
    if spec.epochs != "auto":
        return _written("epochs", float(spec.epochs))
    for below, epochs in ((300, 3.0), (2000, 2.0)):
        if work.rows < below:
            return Rule("epochs", epochs, f"{work.rows} rows, below {below}: {epochs:g} passes")
    return Rule("epochs", 1.0, f"{work.rows} rows, 2000 or more: one pass")


def _effective_batch(spec: TrainingSpec, work: Workload, *, epochs: float) -> Rule:
    if spec.effective_batch != "auto":
        return _written("effective_batch", spec.effective_batch)
    steps = work.rows * epochs / 16
    if steps >= ENOUGH_STEPS:
        return Rule("effective_batch", 16, f"16 gives {steps:.0f} steps")
    if 2 * steps >= TINY_STEPS:
        return Rule("effective_batch", 8, f"16 would give only {steps:.0f} steps, below {ENOUGH_STEPS}")
    return Rule("effective_batch", 4, f"8 would give only {2 * steps:.0f} steps, below {TINY_STEPS}")


def technique_rules(technique: Technique, *, written: TechniqueSpec, model: Architecture, work: Workload) -> tuple[Rule, ...]:
    """Why the adapters are as large and as strong as they are; nothing where all weights learn."""
    if technique.type == "full":
        return ()
    count = len(technique.added_tokens)
    tokens = (Rule("added_tokens", count, "of base_model: their rows of embedding and head learn beside the adapters"),) if count else ()
    return (*_rank_rules(technique, written=written, model=model, work=work), *tokens)


def _rank_rules(technique: Technique, *, written: TechniqueSpec, model: Architecture, work: Workload) -> tuple[Rule, ...]:
    if isinstance(written, LowRank):
        return (Rule("rank", technique.rank, "as written, or the default"), Rule("alpha", technique.alpha, "as written, or the default"))
    numbers, tokens = model.lora_parameters(technique.rank), work.labelled_tokens
    if numbers >= tokens:
        why = f"{numbers:,} numbers, one for each of {tokens:,} labelled tokens; {RANKS[0]} at least"
    else:
        why = f"the most; {numbers:,} numbers are fewer than the {tokens:,} labelled tokens"
    return (Rule("rank", technique.rank, why), Rule("alpha", technique.alpha, "the same for every rank, so that the rate need not change"))


def _max_length(spec: TrainingSpec, work: Workload, *, context: int) -> Rule:
    if spec.max_length != "auto":
        return _written("max_length", spec.max_length)
    bound = -(-work.longest_bound // 16) * 16
    if bound > context:
        return Rule("max_length", context, f"the longest row may take {bound} tokens; the base model reads {context}")
    return Rule("max_length", bound, "the longest row at two bytes a token (a digit is one), and 32 more, rounded up to 16")


def _written(setting: str, value: Any) -> Rule:
    return Rule(setting, value, "as written")
