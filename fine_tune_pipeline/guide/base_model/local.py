"""A model folder of the user's own, and how files of any source are put into the artifact."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.model_files import UnusableModel, described, header_shapes
from fine_tune_pipeline.guide.base_model.reaching import writing

STORE = "FINE_TUNE_PIPELINE_STORE"


class NoModelFolder(UnusableModel):
    """There is no such folder."""


@dataclass(frozen=True)
class ModelFolder:
    """A checked folder. `left_out` names files that are not taken over, such as pickled copies of the weights."""

    path: Path
    architecture: Architecture
    parameters: int
    context: int
    files: tuple[str, ...]
    left_out: tuple[str, ...]

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that is taken over."""
        return {name: file_sha256(self.path / name) for name in self.files}


def read_model_folder(path: Path) -> ModelFolder:
    """Look at a model folder without loading it.

    Raises:
        UnusableModel: no folder, no config.json, no safetensors, or a configuration that does not say what memory it needs.
    """
    if not path.is_dir():
        raise NoModelFolder(f"{path}: no such folder; give the folder that holds config.json, *.safetensors and the tokenizer")
    found = described(
        [entry.name for entry in path.iterdir()],
        where=str(path),
        read=lambda name: (path / name).read_bytes(),
        shapes=lambda name: header_shapes(path / name),
    )
    return ModelFolder(
        path=path,
        architecture=found.architecture,
        parameters=found.parameters,
        context=found.context,
        files=found.files,
        left_out=found.left_out,
    )


def take_over(files: Mapping[str, Path], target: Path) -> None:
    """Copy files under their names into the new folder `target`; an artifact shares nothing with where its files came from.

    Only contents are copied: weights that `save_pretrained` keeps to their owner get the usual permissions of a new file.

    Raises:
        DiskFull, NotWritable: the store's disk is full, or may not be written to.
    """
    with writing(target, variable=STORE):
        target.mkdir(parents=True)
        for name, path in files.items():
            # What lies behind the links of a cache, too.
            shutil.copyfile(path, target / name)
