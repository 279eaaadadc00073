"""What a set of model files is, wherever it lies: which of them are taken over, and what configuration and headers say.

Nothing is loaded.
"""

import importlib.util
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fine_tune_pipeline.guide.base_model.catalogue import Architecture

TAKEN = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*", "NOTICE*")
"""Weights, configuration, tokenizer, and the terms that travel with them."""

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Weights that run code when they are read."""

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

Shapes = Mapping[str, Sequence[int]]
"""Of the tensors of one safetensors file."""

_NAMES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "vocabulary": "vocab_size",
}


class UnusableModel(ValueError):
    """No base model that this pipeline can train: what was seen, what is wanted, what to do."""


class PickledWeights(UnusableModel):
    """There are weights, but only such as run code when they are read."""


class NoSafetensors(UnusableModel):
    """No weights of a base model are there."""


class MissingShards(UnusableModel):
    """The index of the weights names files that are not there."""


class UnreadableConfig(UnusableModel):
    """config.json is missing, is not JSON, or does not say what memory the model needs."""


class NeedsOwnCode(UnusableModel):
    """The model runs only with Python code of its repository."""


class BrokenSafetensors(UnusableModel):
    """A file ends in .safetensors and is something else."""


@dataclass(frozen=True)
class Described:
    """What the files say. `files` are taken over; `left_out` are not, such as pickled copies of the weights."""

    architecture: Architecture
    parameters: int
    context: int
    files: tuple[str, ...]
    left_out: tuple[str, ...]


def usable(names: Iterable[str], *, where: str) -> list[str]:
    """The names of files that may be taken over, in order; those in subfolders are other things.

    Raises:
        PickledWeights, NoSafetensors: there is nothing that can be loaded without running code.
    """
    all_names = sorted(names)
    taken = [name for name in all_names if "/" not in name and _matches(name, TAKEN)]
    if any(name.endswith(".safetensors") for name in taken):
        return taken
    pickled = [name for name in all_names if _matches(name, PICKLED)]
    if pickled:
        raise PickledWeights(
            f"{where}: {', '.join(pickled)} are pickled weights, which can run code when they are read; want *.safetensors: ask the "
            "publisher for them, or convert on a machine that you can throw away"
        )
    raise NoSafetensors(f"{where}: no *.safetensors there; want config.json, *.safetensors and the tokenizer")


def described(
    names: Iterable[str], *, where: str, read: Callable[[str], bytes], shapes: Callable[[str], Shapes] | None = None
) -> Described:
    """What the named files say.

    Args:
        where: the folder or repository, for messages.
        read: the bytes of one of the smaller files.
        shapes: what the header of a safetensors file says; without it the parameters are computed from the configuration.

    Raises:
        UnusableModel: by a class of its own for each cause.
    """
    all_names = sorted(names)
    candidates = usable(all_names, where=where)
    weights = _weights(candidates, read, where=where)
    config = _config(candidates, read, where=where)
    architecture = _architecture(config, where=where)
    files = tuple(name for name in candidates if name in weights or not name.endswith(".safetensors"))
    return Described(
        architecture=architecture,
        parameters=sum(_stored(shapes(name), tied=architecture.tied) for name in weights) if shapes else architecture.parameters,
        context=_number(config, "max_position_embeddings", where=where),
        files=files,
        left_out=tuple(name for name in all_names if name not in files),
    )


def header_shapes(file: Path) -> Shapes:
    """Shapes of the tensors in a safetensors file, from its header: 8 bytes of length, then JSON.

    Raises:
        BrokenSafetensors: the file is something else.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    except (struct.error, UnicodeDecodeError, json.JSONDecodeError, MemoryError, OverflowError) as error:
        raise BrokenSafetensors(f"{file}: not a safetensors file ({error}); copy it again from its publisher") from error
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _weights(names: Sequence[str], read: Callable[[str], bytes], *, where: str) -> list[str]:
    """The files that transformers loads: one, or the shards that the index names; a repository may hold the same weights twice."""
    if WEIGHTS in names:
        return [WEIGHTS]
    if INDEX not in names:
        there = [name for name in names if name.endswith(".safetensors")]
        raise NoSafetensors(
            f"{where}: got {', '.join(there)}, want {WEIGHTS}, or its parts with {INDEX}; an adapter alone is no base model"
        )
    shards = sorted(set(_json(INDEX, read, where=where)["weight_map"].values()))
    if missing := [name for name in shards if name not in names]:
        raise MissingShards(f"{where}: {INDEX} names {', '.join(missing)}, which are not there; copy the whole model again")
    return shards


def _config(names: Sequence[str], read: Callable[[str], bytes], *, where: str) -> dict[str, Any]:
    if CONFIG not in names:
        raise UnreadableConfig(f"{where}: no {CONFIG} there; an adapter alone is no base model")
    config = _json(CONFIG, read, where=where)
    _refuse_own_code(config, where=where)
    # Models that also see or hear keep the numbers of their language part apart.
    return config.get("text_config", config)


def _json(name: str, read: Callable[[str], bytes], *, where: str) -> dict[str, Any]:
    try:
        return json.loads(read(name).decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnreadableConfig(f"{where}: {name} is not JSON ({error}); take the file of the publisher") from error


def _refuse_own_code(config: Mapping[str, Any], *, where: str) -> None:
    """Some publishers name code of theirs beside an architecture that transformers has; then theirs is left out, and is not needed."""
    kind, named = str(config.get("model_type", "")), config.get("auto_map")
    if not named or _in_transformers(kind):
        return
    raise NeedsOwnCode(
        f"{where}: its model_type {kind!r} is not one of transformers' own, and auto_map names Python code of the repository "
        f"({', '.join(sorted(map(str, named.values())))}), which would run here (trust_remote_code); this pipeline never does that: choose "
        "a model whose architecture transformers has, or upgrade transformers if a newer version has this one"
    )


def _in_transformers(kind: str) -> bool:
    """Looked up among its folders: importing the table of its architectures would load torch, which takes seconds."""
    package = importlib.util.find_spec("transformers")
    assert package is not None
    assert package.origin is not None
    return bool(kind) and (Path(package.origin).parent / "models" / kind.replace("-", "_")).is_dir()


def _architecture(config: Mapping[str, Any], *, where: str) -> Architecture:
    numbers = {field: _number(config, name, where=where) for field, name in _NAMES.items()}
    try:
        return Architecture(
            **numbers,
            kv_heads=config.get("num_key_value_heads") or numbers["heads"],
            head_dim=config.get("head_dim") or numbers["hidden"] // numbers["heads"],
            tied=bool(config.get("tie_word_embeddings", True)),
            family=config.get("model_type", ""),
            **_experts(config),
        )
    except (ValidationError, ArithmeticError, TypeError) as error:
        said = "; ".join(problem["msg"] for problem in error.errors()) if isinstance(error, ValidationError) else str(error)
        raise UnreadableConfig(f"{where}: {CONFIG}: its numbers do not go together ({said}); take the file of the publisher") from error


def _experts(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of a mixture of experts, which each family calls differently; nothing for a dense model."""
    experts = _first(config, "num_experts", "num_local_experts", "n_routed_experts")
    if not experts:
        return {}
    width = _first(config, "moe_intermediate_size", "intermediate_size")
    shared = _first(config, "shared_expert_intermediate_size", "shared_intermediate_size")
    return {
        "experts": experts,
        "experts_per_token": _first(config, "num_experts_per_tok"),
        "expert_width": width,
        "shared_expert_width": shared or _first(config, "n_shared_experts") * width,
        "dense_layers": _first(config, "first_k_dense_replace") or len(config.get("mlp_only_layers") or []),
    }


def _first(config: Mapping[str, Any], *names: str) -> int:
    """The first of these that the configuration has; 0 for none."""
    return next((config[name] for name in names if config.get(name)), 0)


def _number(config: Mapping[str, Any], name: str, *, where: str) -> int:
    if isinstance(config.get(name), int):
        return config[name]
    raise UnreadableConfig(
        f"{where}: {CONFIG}: {name} is {config.get(name)!r}, want a whole number; its memory cannot be predicted without, so choose "
        "a decoder whose configuration names it, as the Llama, Qwen, Gemma, Mistral and Phi families do"
    )


def _stored(shapes: Shapes, *, tied: bool) -> int:
    """Numbers in a safetensors file; a tied output head that was stored beside the embedding is not counted again."""
    return sum(prod(shape) for name, shape in shapes.items() if not (tied and name == "lm_head.weight"))
