"""`fine-tune-pipeline export`: the asset `exported_model` for those who open no web UI, and a copy of what it made."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from fine_tune_pipeline.artifacts.checksums import verify
from fine_tune_pipeline.artifacts.manifest import Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.defs.resources import bound_resources
from fine_tune_pipeline.guide.deployment.assets import exported_model
from fine_tune_pipeline.guide.deployment.export import ASSET, EXPORT, provenance
from fine_tune_pipeline.planning import use_case_named
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.export import Format
from fine_tune_pipeline.spec.use_case import UseCaseSpec

_WITHOUT_EVENTS = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}
"""Of a run: Dagster writes every event of its own to the terminal as DEBUG."""


class NoFormats(ValueError):
    """Neither the command nor the use case says in which form."""


class TargetExists(FileExistsError):
    """Something lies where the export is to be put."""


class ExportFailed(RuntimeError):
    """The run of the asset failed; Dagster has said why."""


class ExportRefused(ValueError):
    """A check of the export did not pass."""

    def __init__(self, failed: Sequence[Check]) -> None:
        super().__init__("; ".join(f"{check.name}: {check.description}" for check in failed))


@dataclass(frozen=True)
class Exported:
    """Where the export lies now, and the artifact that it is a copy of."""

    folder: Path
    artifact: Artifact
    files: int


def export(named: str, *, formats: Sequence[Format], target: Path) -> Exported:
    """Make the export, or take the one that is there, and copy it to `target`, which appears when it is whole.

    Args:
        named: the use case, by its name or its YAML file.
        formats: instead of those that the use case names; empty for these.

    Raises:
        InvalidUseCase, NoFormats, TargetExists: the command cannot be meant so.
        MissingArtifact, FailedUpstream, NothingToExport, ExportRefused: there is nothing that may be exported.
        ExportFailed: the program failed.
    """
    spec = _asked(use_case_named(named), formats)
    if target.exists():
        raise TargetExists(f"{target}: is there already; name a folder that is not, or remove this one")
    artifact = _made(spec)
    if artifact.manifest.failed:
        raise ExportRefused(artifact.manifest.failed)
    copy_whole(artifact.file(EXPORT), target)
    return Exported(folder=target, artifact=artifact, files=verify(target).files)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a folder so that `target` is whole or not there; what a killed copy has left is replaced."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Contents only: weights that a library keeps to their owner get the usual permissions of a new file.
        shutil.copytree(source, partial, copy_function=shutil.copyfile)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _asked(spec: UseCaseSpec, formats: Sequence[Format]) -> UseCaseSpec:
    wanted = spec.deployment.export
    if not (formats or wanted.formats):
        raise NoFormats(f"{spec.name}: say --formats adapter merged gguf, some of them, or name them under deployment.export.formats")
    chosen = wanted.model_copy(update={"formats": list(formats) or wanted.formats})
    return spec.model_copy(update={"deployment": spec.deployment.model_copy(update={"export": chosen})})


def _made(spec: UseCaseSpec) -> Artifact:
    """By the asset itself, so that the web UI knows of it and a second export of the same is reused."""
    resources = dict(bound_resources().resources or {})
    store: ArtifactStore = resources["store"]
    provenance(spec, store.open())
    wanted = {name: resources[name] for name in ("store", "compute")}
    with dg.DagsterInstance.get() if "DAGSTER_HOME" in os.environ else dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [exported_model(spec)], resources=wanted, instance=instance, run_config=_WITHOUT_EVENTS, raise_on_error=False
        )
    # One that a check refuses was made all the same.
    if not result.get_asset_materialization_events():
        raise ExportFailed(f"{spec.name}: {ASSET} could not be made; the reason stands above")
    return store.open().current(spec.name, ASSET, passed=False)
