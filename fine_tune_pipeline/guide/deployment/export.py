"""The export as an artifact: the program's folders, a card in each, and the hashes of all files."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.checksums import SUMS, write_sums
from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.base_model.gguf_file import read_header
from fine_tune_pipeline.guide.base_model.hosted import hosted_base
from fine_tune_pipeline.guide.deployment.model_card import CARD, Material, Provenance, card, material, merge_said
from fine_tune_pipeline.guide.technique.systems import trained_format
from fine_tune_pipeline.programs.export_requests import ExportRequest, ExportResult
from fine_tune_pipeline.programs.requests import Placement
from fine_tune_pipeline.spec.export import Format
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

ASSET = "exported_model"
EXPORT = "export"
FILE = "export.json"
CHECK = "merged_as_trained"

GIB = 1 << 30


class NothingToExport(ValueError):
    """There are no weights of ours."""


def provenance(spec: UseCaseSpec, store: Store) -> Provenance:
    """The current artifacts that an export is made of. An evaluation of another adapter says nothing of this one.

    Raises:
        MissingArtifact, FailedUpstream: something was not made yet, or failed a blocking check.
        NothingToExport: the base model is hosted.
    """
    base = store.current(spec.name, "base_model")
    if hosted_base(spec, base) is not None:
        raise NothingToExport(
            f"{spec.name}: its base model is tuned and kept by its provider, so there are no weights to export; leave "
            "deployment.export.formats empty, or choose a base model with open weights"
        )
    adapter = store.current(spec.name, "adapter")
    found = store.peek(spec.name, "evaluation_report")
    of_this = found is not None and found.manifest.payload["upstream"].get("adapter") == adapter.fingerprint
    return Provenance(
        adapter=adapter,
        base_model=base,
        dataset=store.current(spec.name, "dataset"),
        evaluation=store.current(spec.name, "evaluation_report") if of_this else None,
    )


def content(spec: UseCaseSpec) -> dict[str, Any]:
    """What of the use case decides the export, beside the artifacts."""
    return {
        "deployment.export": spec.deployment.export,
        "dataset.format.style": spec.dataset.format.style,
        "objective.goal": spec.objective.goal,
    }


def upstream(sources: Provenance) -> dict[str, Artifact]:
    """The artifacts by the names of their assets."""
    found = {"adapter": sources.adapter, "base_model": sources.base_model, "dataset": sources.dataset}
    return found if sources.evaluation is None else {**found, "evaluation_report": sources.evaluation}


def build_export(
    context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, *, spec: UseCaseSpec, sources: Provenance, placement: Placement
) -> Built:
    """Write `export/` with a folder for each format, its cards and SHA256SUMS, and `export.json`.

    Raises:
        UnreadableGguf, NoGgufFile: the converter wrote something else.
        dagster.Failure: the program failed; it says why.
    """
    work = folder / "work"
    work.mkdir()
    result = compute.run(context, _request(spec, sources, work, placement), ExportResult)
    shutil.move(result.folder, folder / EXPORT)
    shutil.rmtree(work)
    # Inside the artifact, paths begin at its folder.
    result = result.model_copy(update={"folder": EXPORT})
    result.write(folder / FILE)
    shown = _gguf_header(folder, result)
    page = _write_cards(folder / EXPORT, material(spec, sources, result))
    files = write_sums(folder / EXPORT)
    return Built(
        metadata={**_metadata(folder / EXPORT, files, result, asked=spec.deployment.export.formats), **shown},
        markdown={"card": page},
        checks=[merged_as_trained(result)],
    )


def merged_as_trained(result: ExportResult) -> Check:
    """Whether the merged model answers as the adapter beside the base model does."""
    if result.merge is None:
        return Check(name=CHECK, passed=True, description="nothing was merged")
    said = result.refused or merge_said(result.merge)
    numbers = {"largest_logit_difference": result.merge.largest_difference, "allowed": result.merge.allowed}
    return Check(name=CHECK, passed=not result.refused, description=said, metadata=numbers)


def _request(spec: UseCaseSpec, sources: Provenance, work: Path, placement: Placement) -> ExportRequest:
    wanted = spec.deployment.export
    return ExportRequest(
        output=str(work),
        model=str(sources.base_model.file("model")),
        trained=str(sources.adapter.file("adapter")),
        prompts=str(sources.dataset.file("validation.jsonl")),
        format=trained_format(spec),
        formats=tuple(wanted.formats),
        name=spec.name,
        quantised=sources.adapter.manifest.payload["what"]["technique"]["type"] == "qlora",
        stored_dtype=None if wanted.dtype == "auto" else wanted.dtype,
        largest_difference=None if wanted.largest_logit_difference == "auto" else wanted.largest_logit_difference,
        gguf_type=wanted.gguf_type,
        device=placement.device,
        dtype=placement.dtype,
        threads=placement.threads,
    )


def _write_cards(export: Path, found: Material) -> str:
    """One for each format, since each folder may go its own way, and one above them, which is given back."""
    for name in found.result.formats:
        (export / name / CARD).write_text(card(found, {name: "."}), encoding="utf-8")
    page = card(found, {name: name for name in found.result.formats})
    (export / CARD).write_text(page, encoding="utf-8")
    return page


def _gguf_header(folder: Path, result: ExportResult) -> dict[str, Any]:
    """What the file says of itself, by our own reader."""
    if result.gguf is None:
        return {}
    header = read_header(folder / EXPORT / result.gguf.file)
    return {
        "gguf_architecture": str(header.values.get("general.architecture", "none")),
        "gguf_tensors": len(header.shapes),
        "gguf_converter": result.gguf.converter,
    }


def _metadata(export: Path, files: dict[str, str], result: ExportResult, *, asked: Sequence[Format]) -> dict[str, Any]:
    sizes = {name: (export / name).stat().st_size for name in files}
    merge = {} if result.merge is None else result.merge.model_dump()
    return {
        "formats": list(result.formats),
        "not_made": _not_made(result, asked),
        "size_gib": sum(sizes.values()) / GIB,
        "files": [{"file": name, "bytes": sizes[name], "sha256": digest} for name, digest in files.items()],
        "sums_sha256": file_sha256(export / SUMS),
        **{f"merge/{name}": value for name, value in merge.items() if value is not None},
        "peak_memory_gib": result.peak_memory_bytes / GIB,
    }


def _not_made(result: ExportResult, asked: Sequence[Format]) -> str:
    missing = [name for name in asked if name not in result.formats]
    if not missing:
        return "none"
    why = "full tuning leaves a whole model and no adapter" if result.whole else "see the check"
    return f"{', '.join(missing)}: {why}"
