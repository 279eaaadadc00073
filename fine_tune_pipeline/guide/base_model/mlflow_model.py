"""Models that MLflow holds, as a version of its registry or as artifacts of a run.

They are looked at by their listing and configuration, and fetched when they are chosen.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.model_files import UnusableModel, described, header_shapes, usable
from fine_tune_pipeline.guide.base_model.reaching import NoAnswer, refuse_without_room, writing
from fine_tune_pipeline.resources.tracking import mlflow_at

MLMODEL = "MLmodel"
SUMS = "sha256.sums"
HOME = "FINE_TUNE_PIPELINE_HOME"

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")


class NoSuchMlflowModel(UnusableModel):
    """MLflow has no such version, run or folder."""


class OtherFlavour(UnusableModel):
    """The model was logged in a way that keeps no weights of a base model."""


class MlflowUnreachable(NoAnswer):
    """MLflow or its artifact store does not answer."""


@dataclass(frozen=True)
class MlflowPlace:
    """Which MLflow, and the folder that models fetched from it are kept in."""

    tracking_uri: str
    downloads: Path


@dataclass(frozen=True)
class MlflowFolder:
    """A checked model. `paths` are the artifacts that its files are, `sizes` their bytes."""

    place: MlflowPlace
    uri: str
    paths: Mapping[str, str]
    sizes: Mapping[str, int]
    architecture: Architecture
    parameters: int
    context: int
    files: tuple[str, ...]
    left_out: tuple[str, ...]

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that is taken over; MLflow keeps none, so they are fetched."""
        return json.loads((self._fetched() / SUMS).read_text(encoding="utf-8"))

    def fetched(self) -> dict[str, Path]:
        """The files on this machine.

        Raises:
            NoAnswer, UnusableModel, DiskFull, NotWritable: by a class of its own for each cause.
        """
        folder = self._fetched()
        return {name: folder / name for name in self.files}

    def _fetched(self) -> Path:
        """A folder of downloads, which appears only when it is whole, and is fetched again when a file of it has changed since."""
        # What lies under a run's artifacts can be written over: other sizes are another download.
        said = json.dumps([self.place.tracking_uri, self.uri, sorted(self.sizes.items())])
        whole = self.place.downloads / hashlib.sha256(said.encode("utf-8")).hexdigest()[:16]
        if not _is_whole(whole):
            refuse_without_room(sum(self.sizes[name] for name in self.files), self.place.downloads, variable=HOME)
            with writing(self.place.downloads, variable=HOME):
                self.place.downloads.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=".partial-", dir=self.place.downloads) as partial:
                    self._fetch_into(Path(partial) / "model")
                    # Another run may have fetched it meanwhile.
                    if not _is_whole(whole):
                        shutil.rmtree(whole, ignore_errors=True)
                        os.replace(Path(partial) / "model", whole)
        return whole

    def _fetch_into(self, folder: Path) -> None:
        folder.mkdir()
        with _mlflow(self.place, self.uri), tempfile.TemporaryDirectory(dir=folder.parent) as work:
            for name in self.files:
                shutil.move(_downloaded(f"{self.uri}/{self.paths[name]}", Path(work)), folder / name)
        for name in self.files:
            if name.endswith(".safetensors"):
                header_shapes(folder / name)
        sums = {name: file_sha256(folder / name) for name in self.files}
        (folder / SUMS).write_text(json.dumps(sums), encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    """Whether all is there as it came: a disk or a person may have changed it since."""
    if not (folder / SUMS).is_file():
        return False
    sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
    return all((folder / name).is_file() and file_sha256(folder / name) == digest for name, digest in sums.items())


def look_at_mlflow(uri: str, place: MlflowPlace) -> MlflowFolder:
    """What lies there. Its parameters are computed from the configuration, since the weights are not here yet.

    Raises:
        NoAnswer: MLflow does not answer.
        UnusableModel: there is no such model, or it is none for this pipeline; pickled weights are refused before they are fetched.
    """
    with _mlflow(place, uri), tempfile.TemporaryDirectory() as work:
        sizes = dict(_listing(uri))
        if not sizes:
            raise NoSuchMlflowModel(f"{uri}: nothing lies there in {place.tracking_uri}; look at its artifacts in MLflow's web UI")

        def read(path: str) -> bytes:
            return _downloaded(f"{uri}/{path}", Path(work)).read_bytes()

        paths = _files(uri, sizes, read)
        usable(paths, where=uri)
        found = described(paths, where=uri, read=lambda name: read(paths[name]))
    used = {paths[name] for name in found.files}
    return MlflowFolder(
        place=place,
        uri=uri,
        paths=paths,
        sizes={name: sizes[path] for name, path in paths.items()},
        architecture=found.architecture,
        parameters=found.parameters,
        context=found.context,
        files=found.files,
        left_out=tuple(sorted(set(sizes) - used)),
    )


def _files(uri: str, sizes: Mapping[str, int], read: Any) -> dict[str, str]:
    """Name -> artifact: of the model's and the tokenizer's folder for the transformers flavour, else as they lie."""
    if MLMODEL not in sizes:
        return {path: path for path in sizes}
    flavours = yaml.safe_load(read(MLMODEL)).get("flavors", {})
    flavour = flavours.get("transformers")
    if flavour is None:
        raise OtherFlavour(
            f"{uri}: its flavours are {', '.join(sorted(flavours))}, want transformers; log it with mlflow.transformers.log_model, or log "
            "the folder that save_pretrained makes with mlflow.log_artifacts"
        )
    folder = flavour.get("model_binary")
    if folder is None:
        raise OtherFlavour(
            f"{uri}: it holds no weights, only the name of {flavour.get('source_model_name')}; give that repository itself, "
            "{type: hub, …}, or run mlflow.transformers.persist_pretrained_model on it"
        )
    found = {path.split("/", 2)[2]: path for path in sizes if path.startswith("components/tokenizer/")}
    return found | {path.removeprefix(f"{folder}/"): path for path in sizes if path.startswith(f"{folder}/")}


def _listing(uri: str, folder: str = "") -> Iterator[tuple[str, int]]:
    """Path below `uri` -> bytes, of all files."""
    from mlflow.artifacts import list_artifacts

    for entry in list_artifacts(artifact_uri=f"{uri}/{folder}" if folder else uri):
        # MLflow counts paths from the run or the version, whichever it is; the last part is what is new.
        path = f"{folder}/{entry.path.rsplit('/', 1)[-1]}" if folder else entry.path.rsplit("/", 1)[-1]
        if entry.is_dir:
            yield from _listing(uri, path)
        else:
            yield path, entry.file_size or 0


def _downloaded(uri: str, folder: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder)))


@contextmanager
def _mlflow(place: MlflowPlace, uri: str) -> Iterator[None]:
    """MLflow at this address, and what it raises named by its cause."""
    from mlflow.exceptions import MlflowException

    try:
        with mlflow_at(place.tracking_uri):
            yield
    except MlflowException as error:
        said = str(error).strip().split("\n")[0]
        if error.error_code in _ABSENT:
            raise NoSuchMlflowModel(
                f"{uri}: not in {place.tracking_uri} ({said}); look at its models and runs in MLflow's web UI"
            ) from error
        raise MlflowUnreachable(
            f"{uri}: {place.tracking_uri} could not be read ({said}); run again when it answers; MLFLOW_TRACKING_URI says where it is"
        ) from error
