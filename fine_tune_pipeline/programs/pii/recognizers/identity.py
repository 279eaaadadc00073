"""What further detectors are, by content: part of the fingerprint of what they found. Imports nothing heavy."""

import hashlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fine_tune_pipeline.spec.dataset import PiiSpec
from fine_tune_pipeline.spec.pii_detectors import GlinerDetector, PythonDetector, TransformersDetector

_PACKAGES = {"transformers": ("transformers",), "gliner": ("gliner",), "llm": (), "python": ()}


def identities(pii: PiiSpec) -> list[dict[str, str]]:
    """One line per further detector: versions of its packages, and a hash of its weights or of its source.

    What the YAML itself says (the commit on the Hub, the model behind an endpoint) is in the fingerprint already.
    """
    return [{**{package: installed(package) for package in _PACKAGES[one.type]}, **_content(one)} for one in pii.detectors]


def installed(package: str) -> str:
    """Version of a package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _content(one: object) -> dict[str, str]:
    if isinstance(one, TransformersDetector | GlinerDetector) and one.is_folder:
        return {"weights": _hashed(sorted(path for path in Path(one.model).rglob("*") if path.is_file()), Path(one.model))}
    if isinstance(one, PythonDetector):
        module = one.recognizer.partition(":")[0]
        found = importlib.util.find_spec(module)
        origin = None if found is None or found.origin is None else Path(found.origin)
        return {"source": "not found" if origin is None or not origin.is_file() else _hashed([origin], origin.parent)}
    return {}


def _hashed(paths: list[Path], root: Path) -> str:
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()
