"""The chosen base model, brought into the artifact as safetensors, loaded once, and measured."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.candidates import Candidate, Demands, first_passing, reason, refuse_undecided
from fine_tune_pipeline.guide.base_model.hosted import KEPT, build_hosted_model
from fine_tune_pipeline.guide.base_model.hosted import pinned as pinned_name
from fine_tune_pipeline.guide.base_model.local import take_over
from fine_tune_pipeline.guide.base_model.side_by_side import Comparison
from fine_tune_pipeline.guide.base_model.sources import Files, WeightsSource, brought, gguf_of, left_out, pinned
from fine_tune_pipeline.programs.extend_requests import ExtendRequest, ExtendResult
from fine_tune_pipeline.programs.requests import ConvertRequest, ConvertResult, InspectRequest, InspectResult

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute
    from fine_tune_pipeline.spec.base_model import BaseModelSpec

MODEL = "model"
FILE = "base_model.json"

ADDED = "added_tokens"
"""Of `base_model.json`: token -> id."""

NOT_LEGAL_ADVICE = "This is a table, not legal advice."

TOLERANCE = 0.01
"""Norms and biases, which the catalogue's formula leaves out, are below 0.03 %; a packed or padded vocabulary below 1 %."""


def content(spec: "BaseModelSpec", candidates: Sequence[Candidate]) -> dict[str, Any]:
    """What decides the artifact: the choice and the hash of its weights; never the folder that they come from.

    Raises:
        UndecidedChoice: a candidate that could not be looked at stands before the choice.
    """
    refuse_undecided(candidates)
    chosen = first_passing(candidates)
    named = [{"id": candidate.id, "licence": candidate.licence.id} for candidate in candidates]
    wanted = {"base_model.candidates": named, "base_model.accept_licences": spec.accept_licences}
    if spec.added_tokens:
        wanted["base_model.added_tokens"] = spec.added_tokens
    if chosen is None:
        return {**wanted, "refused": {candidate.id: [rule for rule, _ in candidate.refusals] for candidate in candidates}}
    return {**wanted, "chosen": chosen.id, "weights": _pinned(chosen)}


def build_base_model(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    folder: Path,
    *,
    candidates: Sequence[Candidate],
    wanted: Demands,
    comparison: Comparison,
    added_tokens: Sequence[str] = (),
) -> Built:
    """Write `model/` and `base_model.json` into `folder`, or, when every candidate is refused, only the reasons.

    `base_model.json` also holds the candidates side by side and what to try next, for the evaluation report.

    Raises:
        WrongPackage: the installed package carries other weights than the catalogue pins.
        dagster.Failure: the weights cannot be converted, extended or loaded.
    """
    chosen = first_passing(candidates)
    why = reason(chosen, candidates, wanted) + (comparison.instead if chosen is None else "")
    shown = {**comparison.metadata(), "reason": why}
    kept = {name: shown[name] for name in KEPT}
    if chosen is None:
        _write(folder, {"id": None, **kept})
        return Built(metadata=shown, checks=_refused(candidates, why))
    if chosen.hosted is not None:
        return build_hosted_model(context, compute, folder, entry=chosen.hosted, licence=chosen.licence, shown=shown)
    _bring(context, compute, _source(chosen), folder)
    extended = _extended(context, compute, folder, added_tokens)
    measured = _inspected(context, compute, folder)
    facts = {**measured.model_dump(mode="json"), **extended}
    licence = {"licence": chosen.licence.id, "commercial": chosen.licence.commercial, "obligations": chosen.licence.obligations}
    _write(folder, {"id": chosen.id, **licence, "source": _pinned(chosen), **kept, **facts})
    return Built(
        metadata={**shown, "base_model": chosen.id, **licence, **facts, "left_out": left_out(_source(chosen))},
        checks=[_allowed(chosen), _loads(chosen, measured, added=extended.get("added_parameters", 0))],
    )


def _pinned(chosen: Candidate) -> dict[str, Any]:
    """The content hashes that say which weights these are; of a hosted model its name and place."""
    return pinned(_source(chosen)) if chosen.hosted is None else pinned_name(chosen.hosted)


def _source(chosen: Candidate) -> WeightsSource:
    assert chosen.facts is not None
    assert chosen.facts.source is not None
    return chosen.facts.source


def _bring(context: "dg.AssetExecutionContext", compute: "Compute", source: WeightsSource, folder: Path) -> None:
    if isinstance(source, Files):
        take_over(brought(source), folder / MODEL)
        return
    work = folder / "conversion"
    work.mkdir()
    result = compute.run(context, ConvertRequest(output=str(work), gguf=str(gguf_of(source, work))), ConvertResult)
    shutil.move(result.model, folder / MODEL)
    shutil.rmtree(work)


def _extended(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, tokens: Sequence[str]) -> "dict[str, Any]":
    """Put the model with the added tokens in the place of the one that was brought; what is written of it, nothing without tokens."""
    if not tokens:
        return {}
    work = folder / "extension"
    work.mkdir()
    request = ExtendRequest(output=str(work), model=str(folder / MODEL), tokens=tuple(tokens))
    result = compute.run(context, request, ExtendResult)
    shutil.rmtree(folder / MODEL)
    shutil.move(result.model, folder / MODEL)
    shutil.rmtree(work)
    return {ADDED: result.tokens, "added_parameters": result.added_parameters}


def added_ids(base: Artifact) -> tuple[int, ...]:
    """Ids of the tokens that were added to the base model, ascending."""
    return tuple(sorted(base.json(FILE).get(ADDED, {}).values()))


def _inspected(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path) -> InspectResult:
    work = folder / "inspection"
    work.mkdir()
    result = compute.run(context, InspectRequest(output=str(work), model=str(folder / MODEL)), InspectResult)
    shutil.rmtree(work)
    return result


def _write(folder: Path, document: dict[str, Any]) -> None:
    (folder / FILE).write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")


def _refused(candidates: Sequence[Candidate], why: str) -> list[Check]:
    """No candidate passes: the licence check fails if any was refused by its licence, and nothing was loaded."""
    by_licence = [candidate for candidate in candidates if any(rule == "licence" for rule, _ in candidate.refusals)]
    said = "; ".join(f"{candidate.id}: {candidate.verdict}" for candidate in by_licence) or "no candidate was refused by its licence"
    return [
        Check(name="licence_allows", passed=not by_licence, description=f"{said}. {NOT_LEGAL_ADVICE}"),
        Check(name="weights_load", passed=False, description=f"nothing to load: {why}"),
    ]


def _allowed(chosen: Candidate) -> Check:
    licence = chosen.licence
    said = (
        f"{chosen.id}: {licence.id} is accepted; commercial use: {licence.commercial}; it asks: {licence.obligations}. {NOT_LEGAL_ADVICE}"
    )
    if chosen.warning:
        said += f" But {chosen.warning}."
    return Check(name="licence_allows", passed=True, description=said, metadata={"licence": licence.id, "commercial": licence.commercial})


def _loads(chosen: Candidate, measured: InspectResult, *, added: int = 0) -> Check:
    """The weights load, and they are those that the catalogue speaks of; what is known of others was read from their own files."""
    assert chosen.facts is not None
    expected = chosen.facts.parameters + added if chosen.facts.promised else measured.parameters
    same = abs(measured.parameters - expected) <= TOLERANCE * expected
    said = f"{measured.architecture} of {measured.parameters:,} parameters loaded in {measured.load_seconds:.1f} s from safetensors"
    if added:
        said += f", {added:,} of them for added tokens"
    if not same:
        said += f", but {chosen.id} has {expected:,}; these are other weights: check the folder"
    return Check(name="weights_load", passed=same, description=said, metadata={"weights_sha256": measured.weights_sha256})
