"""The plan of a training at the provider: settings that it takes, and what they cost by its own prices. No memory, no placement."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example, read_examples
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.hosted import HostedBase, worries_of
from fine_tune_pipeline.guide.technique.plan import FILE
from fine_tune_pipeline.guide.technique.systems import trained_format
from fine_tune_pipeline.programs.hosted.chat_rows import FEWEST_ROWS, likely_tokens, training_row
from fine_tune_pipeline.programs.hosted.requests import HostedJob
from fine_tune_pipeline.programs.requests import Contract
from fine_tune_pipeline.spec.hosted import ApiModel
from fine_tune_pipeline.spec.training import HOW_IT_IS_KEPT
from fine_tune_pipeline.spec.use_case import UseCaseSpec

TECHNIQUE = "hosted"

SHOWN_EPOCHS = (1, 2, 3, 4)
"""Epochs whose cost stands side by side."""

MILLION = 1_000_000


class HostedPlan(Contract):
    """What `environment` and `adapter` read: `plan.json`. `cost` is of the training, None when no price is written."""

    job: HostedJob
    rows: int
    tokens_per_epoch: int
    cost: float | None
    currency: str | None


def hosted_content(spec: UseCaseSpec, base: HostedBase) -> dict[str, Any]:
    """What decides the plan: neither hardware nor place."""
    return {
        "technique": spec.technique,
        "training": spec.training.model_dump(mode="json", exclude=HOW_IT_IS_KEPT),
        "dataset.format.style": spec.dataset.format.style,
        "learning_rate_multiplier": base.entry.learning_rate_multiplier,
        "prices": base.entry.prices,
    }


def build_hosted_plan(folder: Path, *, spec: UseCaseSpec, base: HostedBase, dataset: Artifact, today: date) -> Built:
    """Write `plan.json` into `folder`, and show what each number of epochs costs."""
    train = read_examples(dataset.file("train.jsonl"))
    plan = hosted_plan(train, spec=spec, entry=base.entry)
    plan.write(folder / FILE)
    metadata = {
        "technique": TECHNIQUE,
        "reason": f"{base.entry.id} stays at its provider, so nothing but its own fine-tuning can change it",
        "options": [_option(plan, base.entry, epochs) for epochs in sorted({*SHOWN_EPOCHS, plan.job.epochs})],
        "hyperparameters": _settings(plan, spec),
        "training_rows": plan.rows,
        "predicted_tokens_per_epoch": plan.tokens_per_epoch,
        "predicted_cost": plan.cost,
        "currency": plan.currency,
        "cost_per_1000_answers": _answers_cost(train, base.entry),
        "worries": "; ".join(worries_of(base.entry, today=today)) or "none",
    }
    return Built(metadata=metadata, checks=[_fits(plan, base.entry)])


def hosted_plan(train: Sequence[Example], *, spec: UseCaseSpec, entry: ApiModel) -> HostedPlan:
    """Every setting that the provider takes, and the predicted cost."""
    format = trained_format(spec)
    tokens = sum(likely_tokens(training_row(row.row(), format=format)["messages"]) for row in train)
    training = spec.training
    job = HostedJob(
        format=format,
        epochs=hosted_epochs(spec, rows=len(train)),
        batch_size=training.effective_batch,
        learning_rate_multiplier=entry.learning_rate_multiplier,
        seed=training.seed,
    )
    return HostedPlan(
        job=job,
        rows=len(train),
        tokens_per_epoch=tokens,
        cost=training_cost(entry, tokens=tokens * job.epochs),
        currency=None if entry.prices is None else entry.prices.currency,
    )


def read_hosted_plan(artifact: Artifact) -> HostedPlan:
    """The plan of an artifact of `training_plan`."""
    return HostedPlan.read(artifact.file(FILE))


def training_cost(entry: ApiModel, *, tokens: int) -> float | None:
    """In the currency of the prices; None when the price is not written."""
    if entry.prices is None or entry.prices.train is None:
        return None
    return tokens * entry.prices.train / MILLION


def hosted_epochs(spec: UseCaseSpec, *, rows: int) -> int:
    """As written; else as for weights of our own: small sets are seen more often. `auto` at the provider would leave the cost open."""
    if spec.training.epochs != "auto":
        return int(spec.training.epochs)
    return 3 if rows < 300 else 2 if rows < 2000 else 1


def _option(plan: HostedPlan, entry: ApiModel, epochs: int) -> dict[str, Any]:
    cost = training_cost(entry, tokens=plan.tokens_per_epoch * epochs)
    return {
        "technique": TECHNIQUE,
        "epochs": epochs,
        "training tokens": plan.tokens_per_epoch * epochs,
        "predicted cost": "price not written" if cost is None else f"{cost:.2f} {plan.currency}",
        "chosen": epochs == plan.job.epochs,
    }


def _settings(plan: HostedPlan, spec: UseCaseSpec) -> list[dict[str, str]]:
    epochs = f"{plan.rows} rows" if spec.training.epochs == "auto" else "as written"
    rules = {
        "epochs": epochs,
        "batch_size": "auto: the provider's",
        "learning_rate_multiplier": "auto: the provider's",
        "seed": "as written",
    }
    return [{"setting": name, "value": str(getattr(plan.job, name)), "rule": rule} for name, rule in rules.items()]


def _answers_cost(train: Sequence[Example], entry: ApiModel) -> float | None:
    """Of 1,000 answers of the tuned model, by the lengths of the training rows."""
    prices = entry.prices
    if prices is None or prices.input is None or prices.output is None or not train:
        return None
    given = sum(likely_tokens([{"role": "user", "content": row.question}]) for row in train) / len(train)
    answered = sum(likely_tokens([{"role": "assistant", "content": row.completion}]) for row in train) / len(train)
    return 1000 * (given * prices.input + answered * prices.output) / MILLION


def _fits(plan: HostedPlan, entry: ApiModel) -> Check:
    enough = plan.rows >= FEWEST_ROWS
    cost = "its cost is not known: write the prices of the candidate" if plan.cost is None else f"about {plan.cost:.2f} {plan.currency}"
    said = f"{plan.rows} rows of {plan.tokens_per_epoch:,} tokens, {plan.job.epochs} epochs at {entry.base_url}: {cost}"
    if not enough:
        said = f"{plan.rows} training rows, the provider wants at least {FEWEST_ROWS}: give more in dataset.sources"
    return Check(name="fits", passed=enough, description=said, metadata={} if plan.cost is None else {"predicted_cost": plan.cost})
