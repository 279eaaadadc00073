"""How long each asset that has to be built will take, in which memory, at which cost, before anything is run.

In this order: what the plan of the training says, with what earlier trainings have taught it; how long the asset took the last time; what a
row of it took on two CPU cores. Each figure says which of them it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.base_model.candidates import UNANSWERED, demands, first_passing, judge
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.hosted import hosted_base
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.base_model.price import Cost, cost, price_of
from fine_tune_pipeline.guide.objective.held_out import count_rows
from fine_tune_pipeline.guide.technique.comparisons import work_of
from fine_tune_pipeline.guide.technique.hosted_plan import hosted_epochs, hosted_plan, training_cost
from fine_tune_pipeline.guide.technique.place import learned, place_of
from fine_tune_pipeline.guide.technique.plan import Job, Plan, make_plan
from fine_tune_pipeline.guide.technique.search.space import trained_shares
from fine_tune_pipeline.guide.technique.together import speedup
from fine_tune_pipeline.guide.technique.workload import LIKELY_BYTES_PER_TOKEN, SPARE_TOKENS, Workload
from fine_tune_pipeline.rehearsal import Does, Step
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.hosted import ApiModel
from fine_tune_pipeline.spec.sources import Source
from fine_tune_pipeline.spec.use_case import UseCaseSpec

GIB = 1 << 30

ANSWER_SHARE = 0.25
"""Of the bytes of a source, taken for answers while no row was read."""

LONGEST_OVER_MEAN = 4
"""The longest row over the mean one, as in the built-in use case."""

ROW_SECONDS = {
    "raw_examples": 0.0002,
    "clean_examples": 0.006,
    "scrubbed_examples": 0.0025,
    "reviewed_examples": 0.0001,
    "dataset": 0.001,
    # MiniLM's embedding of a short message, by itself: 0.033 CPU seconds.
    "retrieval_index": 0.017,
}
"""Of one row, on two CPU cores, while fewer than 20,000 are judged: measured with `bench/dataset_scale.py`, starting times included."""

TRAINING_SHARES = {"baselines": 0.2, "predictions": 0.3, "safety": 0.1}
"""Of the predicted time of the training, what else computes with the model takes where it never ran: as in the built-in use case."""

PREFLIGHT_STEPS, PREFLIGHT_SECONDS = 8, 30
"""Optimizer steps that preflight takes in all, and what it takes to start and to read the rows."""

WITH_THE_MODEL = ("environment", "baselines", "predictions", "safety")


@dataclass(frozen=True)
class Forecast:
    """`minutes`, `gib` and `cost` are None where nothing is known of them; `basis` says where they are from."""

    minutes: float | None
    gib: float | None
    cost: Cost | None
    basis: str


@dataclass(frozen=True)
class Prospect:
    """What is known of the training before it is run; `same` says of which assets the last time tells something of this one."""

    plan: Plan | None
    rows: int | None
    same: frozenset[str]


def forecasts(
    spec: UseCaseSpec, steps: Sequence[Step], store: Store, inventory: Inventory, *, supposed: bool = False
) -> dict[str, Forecast]:
    """A forecast for each asset that would be built.

    Args:
        steps: of the rehearsal; only those that would be built are looked at.
        inventory: where it would run.
        supposed: nothing has ever run there.
    """
    does = {step.asset: step.does for step in steps}
    if "build" not in does.values():
        return {}
    known = does.get("base_model") != "stop"
    hosted = _hosted(spec, steps, store, inventory) if known else None
    plan = _plan(spec, steps, store, inventory) if known and hosted is None else None
    prospect = Prospect(plan, known_rows(spec), _same(does, supposed=supposed))
    found = {name: _priced(_forecast(spec, name, store, prospect), spec, inventory) for name, do in does.items() if do == "build"}
    if hosted is not None and "adapter" in found:
        found["adapter"] = _at_provider(spec, hosted, found["adapter"], store.peek(spec.name, "dataset"))
    return found


def _same(does: Mapping[str, Does], *, supposed: bool) -> frozenset[str]:
    """Assets that work on what they worked on the last time, there where they worked the last time."""
    rows = () if does.get("raw_examples") == "build" else ROW_SECONDS
    model = () if supposed or does.get("base_model") == "build" or does.get("raw_examples") == "build" else WITH_THE_MODEL
    others = does.keys() - {*ROW_SECONDS, *WITH_THE_MODEL}
    return frozenset({*rows, *model, *others})


def known_rows(spec: UseCaseSpec) -> int | None:
    """Rows of all sources of examples; None when one of them cannot be counted without reading it."""
    counts = [count_rows(source, spec) for source in spec.dataset.sources]
    return None if any(not isinstance(count, int) for count in counts) else sum(count for count in counts if isinstance(count, int))


def first_look(spec: UseCaseSpec) -> Workload | None:
    """What there is to learn, by the sizes of local files, before any row is read; names of columns count too, so it is rather too much."""
    rows = known_rows(spec)
    if not rows:
        return None
    size = sum(_bytes(source, spec) for source in spec.dataset.sources)
    tokens = int(size / LIKELY_BYTES_PER_TOKEN)
    longest = LONGEST_OVER_MEAN * tokens // rows
    return Workload(
        rows=rows,
        tokens=tokens,
        labelled_tokens=int(ANSWER_SHARE * tokens),
        longest_tokens=longest,
        longest_bound=2 * longest + SPARE_TOKENS,
    )


def _bytes(source: Source, spec: UseCaseSpec) -> float:
    """Of what is taken of a source whose rows could be counted."""
    assert not hasattr(source, "query")
    path = Path(spec.place(source.path))
    taken, whole = count_rows(source, spec), count_rows(source.model_copy(update={"sample": None}), spec)
    assert isinstance(taken, int)
    assert isinstance(whole, int)
    return path.stat().st_size * taken / max(1, whole)


def _hosted(spec: UseCaseSpec, steps: Sequence[Step], store: Store, inventory: Inventory) -> ApiModel | None:
    """The hosted model that was chosen, or would be; None for one with weights."""
    reused = next((step.artifact for step in steps if step.asset == "base_model" and step.artifact is not None), None)
    base = reused or store.peek(spec.name, "base_model")
    if base is not None:
        found = hosted_base(spec, base)
        return None if found is None else found.entry
    chosen = first_passing(judge(spec, demands(spec, inventory)))
    return None if chosen is None else chosen.hosted


def _at_provider(spec: UseCaseSpec, entry: ApiModel, found: Forecast, dataset: Artifact | None) -> Forecast:
    """What the provider asks for the training, by its own prices; the queue there decides how long it takes."""
    if dataset is not None:
        plan = hosted_plan(read_examples(dataset.file("train.jsonl")), spec=spec, entry=entry)
        tokens = plan.tokens_per_epoch * plan.job.epochs
    else:
        work = first_look(spec)
        tokens = 0 if work is None else work.tokens * hosted_epochs(spec, rows=work.rows)
    amount = training_cost(entry, tokens=tokens) if tokens else None
    if amount is None or entry.prices is None:
        return replace(found, basis=f"{found.basis}; the provider's price is not written")
    return replace(found, cost=Cost(amount, entry.prices.currency), basis=f"{tokens:,} tokens at the provider's price")


def _plan(spec: UseCaseSpec, steps: Sequence[Step], store: Store, inventory: Inventory) -> Plan | None:
    """The plan of the training: the one that would be reused, or one made of base model and data as they would be."""
    taken: Mapping[str, Artifact] = {step.asset: step.artifact for step in steps if step.artifact is not None}
    if "training_plan" in taken:
        return Plan.read(taken["training_plan"].file("plan.json"))
    model, work = _model(spec, taken, inventory), _work(spec, taken, store)
    if model is None or work is None:
        return None
    place = place_of(spec, inventory)
    place = learned(place, store, base=taken["base_model"]) if "base_model" in taken else place
    return make_plan(Job(*model, work, technique=spec.technique, training=spec.training), place)[0]


def _model(spec: UseCaseSpec, taken: Mapping[str, Artifact], inventory: Inventory) -> tuple[Architecture, int] | None:
    """The architecture of the base model and the tokens that it can read; by the catalogue's numbers where no machine was asked."""
    if "base_model" in taken:
        found = read_model_folder(taken["base_model"].file("model"))
        return found.architecture, found.context
    candidates = judge(spec, demands(spec, inventory))
    unseen = (one for one in candidates if all(rule == UNANSWERED for rule, _ in one.refusals))
    chosen = first_passing(candidates) or next(unseen, None)
    return None if chosen is None or chosen.facts is None else (chosen.facts.architecture, chosen.facts.context)


def _work(spec: UseCaseSpec, taken: Mapping[str, Artifact], store: Store) -> Workload | None:
    """What there is to learn: of the dataset, of the one before if the rows are the same, or by a first look at the files."""
    before = store.peek(spec.name, "dataset")
    dataset = taken.get("dataset") or (before if "raw_examples" in taken or known_rows(spec) is None else None)
    if dataset is None:
        return first_look(spec)
    train, validation = (read_examples(dataset.file(f"{name}.jsonl")) for name in ("train", "validation"))
    return work_of(train, validation, training=spec.training)


def _forecast(spec: UseCaseSpec, asset: str, store: Store, prospect: Prospect) -> Forecast:
    plan, rows = prospect.plan, prospect.rows
    gib = plan.predicted_peak_bytes / GIB if plan is not None and asset in ("adapter", "environment") else None
    history = store.history(spec.name, asset)
    if asset == "adapter" and plan is not None:
        return Forecast(plan.predicted_seconds / 60, gib, None, "predicted")
    if asset == "search" and plan is not None and spec.training.search is not None:
        shares = trained_shares(spec.training.search)
        return Forecast(
            shares * _on_one(plan) * plan.predicted_seconds / 60, gib, None, f"{shares:.3g} times the training, at most its budget"
        )
    if history and asset in prospect.same:
        return Forecast(history[-1].seconds / 60, gib, None, "as the last time")
    if asset in ROW_SECONDS and rows is not None:
        return Forecast(rows * ROW_SECONDS[asset] / 60, gib, None, f"{rows} rows, each as on two CPU cores")
    if asset == "environment" and plan is not None and rows:
        steps = max(1, rows * plan.hyperparameters.epochs / plan.hyperparameters.effective_batch)
        if plan.parts > 1:
            return Forecast(PREFLIGHT_SECONDS / 60, gib, None, "no step of the training")
        seconds = PREFLIGHT_SECONDS + PREFLIGHT_STEPS * _on_one(plan) * plan.chosen.loop_seconds / steps
        return Forecast(seconds / 60, gib, None, f"{PREFLIGHT_STEPS} steps of the training")
    if asset in TRAINING_SHARES and plan is not None:
        minutes = TRAINING_SHARES[asset] * _on_one(plan) * plan.predicted_seconds / 60
        return Forecast(minutes, gib, None, "a share of the training, as in the built-in use case")
    return Forecast(None, gib, None, "not known before the first run")


def _on_one(plan: Plan) -> float:
    """How many times as long the training would take on one device, as everything else is run."""
    return speedup(plan.hyperparameters.effective_batch, plan.trained_on)


def _priced(found: Forecast, spec: UseCaseSpec, inventory: Inventory) -> Forecast:
    price = price_of(inventory.devices[0], spec.environment.prices)
    return found if found.minutes is None else replace(found, cost=cost(60 * found.minutes, price, devices=len(inventory.devices)))


def table(steps: Sequence[Step], forecast: Mapping[str, Forecast]) -> str:
    """For a terminal: a line for each asset, and the sum."""
    lines = [("asset", "", "minutes", "GiB", "cost", "why")]
    for step in steps:
        found = forecast.get(step.asset)
        shown = ("", "", "") if found is None else (_number(found.minutes), _number(found.gib), str(found.cost or ""))
        lines.append((step.asset, step.does, *shown, step.why if found is None else f"{step.why} ({found.basis})"))
    total = sum(found.minutes or 0 for found in forecast.values())
    costs = [found.cost for found in forecast.values() if found.cost is not None]
    unknown = [name for name, found in forecast.items() if found.minutes is None]
    spent = Cost(sum(one.amount for one in costs), costs[0].currency) if costs else ""
    lines.append(("in all", "", _number(total), "", str(spent), f"without {', '.join(unknown)}" if unknown else ""))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[5]]).rstrip() for line in lines
    )


def _number(value: float | None) -> str:
    return "" if value is None else "<0.1" if value < 0.05 else f"{value:.1f}"


def facts(steps: Sequence[Step], forecast: Mapping[str, Forecast]) -> list[dict[str, Any]]:
    """For machines."""
    return [
        {"asset": step.asset, "does": step.does, "why": step.why, **({} if found is None else _facts(found))}
        for step in steps
        for found in [forecast.get(step.asset)]
    ]


def _facts(found: Forecast) -> dict[str, Any]:
    spent = {} if found.cost is None else {"cost": round(found.cost.amount, 4), "currency": found.cost.currency}
    return {"minutes": found.minutes, "gib": found.gib, **spent, "basis": found.basis}
