"""A model folder of the user's own: what it is, read from its files and never from text, and which of them are taken over."""

import json
import os
import shutil
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.base_model.catalogue import Architecture

TAKEN = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*", "NOTICE*")
"""Weights, configuration, tokenizer, and the terms that travel with them."""

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Weights that run code when they are read."""

_NAMES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "vocabulary": "vocab_size",
}


class UnusableModelFolder(ValueError):
    """The folder is no base model that this pipeline can train: what was seen, what is wanted, what to do."""


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
        UnusableModelFolder: no folder, no config.json, no safetensors, or a configuration that does not say what memory it needs.
    """
    if not path.is_dir():
        raise UnusableModelFolder(f"{path}: no such folder; give the folder that holds config.json, *.safetensors and the tokenizer")
    files = sorted({found.name for pattern in TAKEN for found in path.glob(pattern) if found.is_file()})
    left_out = sorted(found.name for found in path.iterdir() if found.name not in files)
    _refuse_without_weights(path, files)
    config = _config(path)
    architecture = _architecture(path, config)
    return ModelFolder(
        path=path,
        architecture=architecture,
        parameters=sum(_stored_parameters(path / name, tied=architecture.tied) for name in files if name.endswith(".safetensors")),
        context=_number(path, config, "max_position_embeddings"),
        files=tuple(files),
        left_out=tuple(left_out),
    )


def take_over(source: ModelFolder, target: Path) -> None:
    """Put the files of `source` into the new folder `target`: hard-linked where the file system can, else copied."""
    target.mkdir(parents=True)
    for name in source.files:
        try:
            os.link(source.path / name, target / name)
        except OSError:
            # Another file system, or one without hard links.
            shutil.copy2(source.path / name, target / name)


def _refuse_without_weights(path: Path, files: list[str]) -> None:
    if any(name.endswith(".safetensors") for name in files):
        return
    pickled = sorted({found.name for pattern in PICKLED for found in path.glob(pattern)})
    if pickled:
        raise UnusableModelFolder(
            f"{path}: {', '.join(pickled)} are pickled weights, which can run code when they are read; want *.safetensors: ask the "
            "publisher for them, or convert on a machine that you can throw away"
        )
    raise UnusableModelFolder(f"{path}: no *.safetensors there; give the folder that holds config.json, *.safetensors and the tokenizer")


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise UnusableModelFolder(f"{path}: no config.json there; an adapter alone is no base model")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnusableModelFolder(f"{file}: not JSON ({error}); take the file of the publisher") from error
    # Models that also see or hear keep the numbers of their language part apart.
    return config.get("text_config", config)


def _architecture(path: Path, config: dict[str, Any]) -> Architecture:
    numbers = {field: _number(path, config, name) for field, name in _NAMES.items()}
    return Architecture(
        **numbers,
        kv_heads=config.get("num_key_value_heads") or numbers["heads"],
        head_dim=config.get("head_dim") or numbers["hidden"] // numbers["heads"],
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def _number(path: Path, config: dict[str, Any], name: str) -> int:
    if isinstance(config.get(name), int):
        return config[name]
    raise UnusableModelFolder(
        f"{path / 'config.json'}: {name} is {config.get(name)!r}, want a whole number; its memory cannot be predicted without, so choose "
        "a decoder whose configuration names it, as the Llama, Qwen, Gemma, Mistral and Phi families do"
    )


def _stored_parameters(file: Path, *, tied: bool) -> int:
    """Numbers in a safetensors file, from its header: 8 bytes of length, then JSON of name -> shape.

    A tied output head that was stored beside the embedding is not counted again.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    except (struct.error, UnicodeDecodeError, json.JSONDecodeError, MemoryError, OverflowError) as error:
        raise UnusableModelFolder(f"{file}: not a safetensors file ({error}); copy it again from its publisher") from error
    skipped = {"__metadata__", *(["lm_head.weight"] if tied else [])}
    return sum(prod(entry["shape"]) for name, entry in header.items() if name not in skipped)
