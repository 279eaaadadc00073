"""A base model at its provider: why it cannot be taken, what is kept of it, and whether it is still offered."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.catalogue import Licence
from fine_tune_pipeline.guide.base_model.catalogue_files import catalogue_of
from fine_tune_pipeline.guide.base_model.offers import completed
from fine_tune_pipeline.programs.hosted.requests import HostedModel, ReachRequest, ReachResult, write_hosted
from fine_tune_pipeline.spec.hosted import ApiModel
from fine_tune_pipeline.spec.training import TrainingSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.guide.base_model.candidates import Candidate
    from fine_tune_pipeline.resources.compute.base import Compute

MODEL, FILE = "model", "base_model.json"

CHECK = "still_offered"

KEPT = ("reason", "candidates", "compared_on", "try_next")
"""Of what is shown, what the evaluation report needs too."""

SOON_DAYS = 90
"""Before its last day, a model is warned about: a quarter is what moving to another one takes."""

FRESH_DAYS = 180
"""Prices that are older are warned about."""

AT_THE_PROVIDER = {
    "learning_rate": "the provider takes a multiple of its own rate: write learning_rate_multiplier in the candidate",
    "max_length": "the provider decides; context_tokens of the candidate says what it reads",
    "warmup_share": "the provider decides",
    "schedule": "the provider decides",
    "weight_decay": "the provider decides",
    "max_grad_norm": "the provider decides",
    "loss_on": "the provider learns from the answers only",
    "preference": "compared answers are learned from here only, not at a provider",
    "canaries": "whether a code is remembered cannot be seen without the likelihood of every answer",
    "dtype": "the provider decides",
    "neftune_alpha": "the provider decides",
    "label_smoothing": "the provider decides",
    "early_stopping": "the provider decides",
    "search": "trials are trained from here only, not at a provider",
}
"""Fields of `training` that a provider does not take, and what to do instead."""


def hosted_refusals(entry: ApiModel, spec: UseCaseSpec) -> list[tuple[str, str]]:
    """Settings of the use case that have no meaning at a provider: ignoring them silently would be worse."""
    default = TrainingSpec()
    written = [name for name in AT_THE_PROVIDER if getattr(spec.training, name) != getattr(default, name)]
    refusals = [("settings", f"training.{name} is set, but {AT_THE_PROVIDER[name]}; leave it out") for name in written]
    if spec.technique.type != "auto":
        refusals.append(("technique", f"technique {spec.technique.type} needs weights, which {entry.id} keeps; write {{type: auto}}"))
    if spec.base_model.added_tokens:
        said = f"base_model.added_tokens is set, and the vocabulary of {entry.id} stays at its provider; leave it out"
        refusals.append(("settings", said))
    if isinstance(spec.training.epochs, float) and spec.training.epochs % 1:
        refusals.append(("settings", f"training.epochs: got {spec.training.epochs:g}, want whole passes"))
    if find_spec("openai") is None:
        refusals.append(("weights", "the provider's client is not installed: pip install 'fine_tune_pipeline[openai]'"))
    return refusals


def still_offered(candidates: "Sequence[Candidate]", *, today: date) -> "list[Candidate]":
    """The candidates; hosted ones that have been shut down are refused."""
    return [_refused_if_past(candidate, today) for candidate in candidates]


def only_hosted(spec: UseCaseSpec) -> bool:
    """Whether no candidate has weights here: waiting for a provider, for hours perhaps, then holds no accelerator."""
    return len(_entries(spec)) == len(spec.base_model.candidates)


def offered_specs(spec: UseCaseSpec) -> dict[str, str]:
    """The advisory check of use cases that name a hosted model: its name, and what it asks."""
    return {CHECK: "Hosted candidates are offered for a while yet, and their prices are fresh."} if _entries(spec) else {}


def offered_checks(spec: UseCaseSpec, *, today: date) -> list[Check]:
    """Looked at anew each time, since nothing but the day changes: how long each hosted candidate lasts, and how old its prices are."""
    entries = _offers(spec)
    worries = [worry for entry in entries for worry in worries_of(entry, today=today)]
    advice = (
        "; docs/hosted.md says how to move a hosted fine-tune to open weights" if any(_ends_soon(entry, today) for entry in entries) else ""
    )
    said = "; ".join(worries) + advice or f"{', '.join(entry.id for entry in entries)}: nothing ends within {SOON_DAYS} days"
    return [Check(name=CHECK, passed=not worries, blocking=False, description=said)] if entries else []


def worries_of(entry: ApiModel, *, today: date) -> list[str]:
    """What people should know of the offer by now."""
    ends = {"takes no new jobs after": entry.last_job_date, "is shut down on": entry.shutdown_date}
    near = [
        f"{entry.id} {what} {day} ({(day - today).days} days)" for what, day in ends.items() if day is not None and _is_soon(day, today)
    ]
    if entry.prices is None:
        return [*near, "no prices are written, so no cost is predicted"]
    age = (today - entry.prices.as_of).days
    return [*near, *([f"its prices are {age} days old; look them up again"] if age > FRESH_DAYS else [])]


def hosted_model(entry: ApiModel) -> HostedModel:
    """As programs are told of it."""
    return HostedModel(
        model=entry.model,
        base_url=entry.base_url.rstrip("/"),
        api_key_variable=entry.api_key_variable,
        context_tokens=entry.context_tokens,
        requests_at_once=entry.requests_at_once,
    )


def pinned(entry: ApiModel) -> dict[str, Any]:
    """Which model this is: neither prices nor dates, which change without changing an answer."""
    return {"model": entry.model, "base_url": entry.base_url.rstrip("/"), "context_tokens": entry.context_tokens}


@dataclass(frozen=True)
class HostedBase:
    """The chosen base model, when it is a hosted one."""

    entry: ApiModel
    hosted: HostedModel


def hosted_base(spec: UseCaseSpec, base: Artifact) -> HostedBase | None:
    """The hosted model that step 2 chose; None when it chose one with weights."""
    chosen = base.json(FILE)["id"]
    entry = next((entry for entry in _offers(spec) if entry.id == chosen), None)
    return None if entry is None else HostedBase(entry, hosted_model(entry))


def build_hosted_model(
    context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, *, entry: ApiModel, licence: Licence, shown: Mapping[str, Any]
) -> Built:
    """Ask the provider for the model; write `model/hosted.json` and `base_model.json` into `folder`."""
    hosted, work = hosted_model(entry), folder / "reach"
    work.mkdir()
    found = compute.run(context, ReachRequest(output=str(work), hosted=hosted), ReachResult)
    shutil.rmtree(work)
    write_hosted(folder / MODEL, hosted)
    facts = {
        "licence": licence.id,
        "commercial": licence.commercial,
        "obligations": licence.obligations,
        "provider": hosted.base_url,
        "model": hosted.model,
        "context_tokens": hosted.context_tokens,
        "weights_sha256": hosted.sha256,
    }
    document = {"id": entry.id, "source": {"hosted": pinned(entry)}, **{name: shown[name] for name in KEPT}, **facts}
    (folder / FILE).write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")
    metadata = {**shown, "base_model": entry.id, **facts, "provider_says_shutdown": found.shutdown_date, "prices": _prices(entry)}
    return Built(metadata=metadata, checks=[_allowed(entry, licence), _reached(hosted, found)])


def _entries(spec: UseCaseSpec) -> list[ApiModel]:
    return [entry for entry in spec.base_model.candidates if isinstance(entry, ApiModel)]


def _offers(spec: UseCaseSpec) -> list[ApiModel]:
    """Hosted candidates, with the last days and prices that the catalogue knows."""
    entries = _entries(spec)
    return [completed(entry, catalogue_of(spec)) for entry in entries]


def _ends_soon(entry: ApiModel, today: date) -> bool:
    return _is_soon(entry.last_job_date, today) or _is_soon(entry.shutdown_date, today)


def _is_soon(day: date | None, today: date) -> bool:
    return day is not None and (day - today).days <= SOON_DAYS


def _refused_if_past(candidate: "Candidate", today: date) -> "Candidate":
    entry = candidate.hosted
    if entry is None or entry.shutdown_date is None or entry.shutdown_date > today:
        return candidate
    said = f"shut down on {entry.shutdown_date}: choose another model; docs/hosted.md says how to move what was tuned to open weights"
    return replace(candidate, refusals=(*candidate.refusals, ("shutdown", said)))


def _prices(entry: ApiModel) -> str:
    if entry.prices is None:
        return "not written"
    named = {"train": entry.prices.train, "input": entry.prices.input, "output": entry.prices.output}
    known = ", ".join(f"{name} {price:g}" for name, price in named.items() if price is not None)
    return f"{known} {entry.prices.currency} per million tokens ({entry.prices.source}, {entry.prices.as_of})"


def _allowed(entry: ApiModel, licence: Licence) -> Check:
    said = (
        f"{entry.id}: the terms {licence.id} are accepted; commercial use: {licence.commercial}. Training rows and prompts leave this "
        f"machine for {entry.base_url}, freed of personal data as step 3 says. This is a table, not legal advice."
    )
    return Check(name="licence_allows", passed=True, description=said, metadata={"licence": licence.id, "commercial": licence.commercial})


def _reached(hosted: HostedModel, found: ReachResult) -> Check:
    said = found.problem or f"{hosted.base_url} takes the key of {hosted.api_key_variable} and lists {hosted.model}; its weights stay there"
    if found.shutdown_date:
        said += f"; it says that the model is shut down on {found.shutdown_date}"
    return Check(name="weights_load", passed=not found.problem, description=said, metadata={"weights_sha256": hosted.sha256})
