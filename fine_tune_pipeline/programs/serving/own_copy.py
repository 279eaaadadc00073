"""The server's own copy of a version: what it must still be when it is loaded, weights and all that decides an answer beside them."""

import hashlib
from pathlib import Path

from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.serving.contract import VersionState

WEIGHTS = ".safetensors"


class WrongAdapter(ValueError):
    """The offered files are not the registered ones, or belong to another base model."""


def settings_sha256(folder: Path) -> str:
    """SHA-256 over names and contents of the files beside the weights: a scale in `adapter_config.json` changes answers, too."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != WEIGHTS:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def refuse_other_weights(folder: Path, wanted: str) -> None:
    """
    Raises:
        WrongAdapter: names both hashes.
    """
    seen = weights_sha256(folder)
    if seen != wanted:
        raise WrongAdapter(
            f"{folder}: weights have SHA-256 {seen[:12]}…, registered is {wanted[:12]}…; the files were changed after registration"
        )


def refuse_changed_copy(folder: Path, version: VersionState) -> None:
    """
    Raises:
        WrongAdapter: the copy is not what was loaded when the version came.
        NoWeights: it is gone.
    """
    refuse_other_weights(folder, version.adapter_sha256)
    if version.settings_sha256 not in (None, settings_sha256(folder)):
        raise WrongAdapter(f"{folder}: files beside the weights were changed, such as adapter_config.json; offer the version again")
