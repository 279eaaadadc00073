"""What vLLM can load: the files of a LoRA adapter, looked at without torch, and copied to where vLLM reads them.

A folder there is named after version and content, and never written again: vLLM keeps what it has computed by name and path, and would
answer from an older adapter of the same path.
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from upath import UPath

CONFIG = "adapter_config.json"
SUMS = "SHA256SUMS"
"""Written last, in the format of coreutils: a folder without it is not whole."""

HASH_CHARACTERS = 16
MOST_HEADER_BYTES = 100 << 20
SHOWN = 2


class UnservableAdapter(ValueError):
    """vLLM would refuse the adapter, or load it and compute something else."""


class NotPublished(ValueError):
    """The adapter could not be copied to where vLLM reads it, or what lies there is not what was copied."""


def adapter_problems(folder: Path, *, max_lora_rank: int) -> list[str]:
    """Why vLLM cannot serve the adapter of a folder beside its base model; empty if it can, as far as files tell.

    Sources: vLLM's `PEFTHelper` reads rank, alpha, rsLoRA, and refuses DoRA and `modules_to_save`; what it does not read is refused here,
    since it would be silently left out.
    """
    if not (folder / CONFIG).is_file():
        return [f"{folder} has no {CONFIG}: a whole model cannot be loaded beside a base model; export it and give it a vLLM of its own"]
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        shapes = dict(tensor_shapes(folder))
    except (ValueError, OSError, struct.error) as error:
        return [f"{folder}: cannot be read ({error})"]
    return [*_config_problems(config), *_tensor_problems(shapes), *_rank_problems(config, shapes, max_lora_rank=max_lora_rank)]


def refuse_unservable_adapter(folder: Path, *, max_lora_rank: int) -> None:
    """
    Raises:
        UnservableAdapter: with all reasons.
    """
    if problems := adapter_problems(folder, max_lora_rank=max_lora_rank):
        raise UnservableAdapter("; ".join(problems))


def tensor_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a folder's safetensors files, from their headers alone.

    Raises:
        ValueError: a file is no safetensors file.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MOST_HEADER_BYTES:
                raise ValueError(f"{path.name} is no safetensors file")
            header = json.loads(file.read(length))
        for name, about in header.items():
            if name != "__metadata__":
                yield name, tuple(about["shape"])


def published_name(folder: Path, *, name: str) -> str:
    """The folder's name where vLLM reads it: of the version and its content, configuration included."""
    digest = hashlib.sha256("".join(f"{digest}  {file}\n" for file, digest in _sums(folder).items()).encode("utf-8"))
    return f"{name}-{digest.hexdigest()[:HASH_CHARACTERS]}"


def publish(folder: Path, *, name: str, at: str) -> str:
    """Copy an adapter to `at` (a folder or URL) under its published name, whole or not at all; gives that name.

    A copy that is there is read again and taken if it is right.

    Raises:
        NotPublished: it cannot be written, or something else lies there.
    """
    sums = _sums(folder)
    published = published_name(folder, name=name)
    target = UPath(at) / published
    try:
        if not (target / SUMS).exists():
            _copy(folder, target, sums)
        _refuse_other_content(target, sums)
    except OSError as error:
        raise NotPublished(f"{target}: the adapter cannot be copied there ({error}); let the endpoint write to adapters_at") from error
    return published


def _copy(folder: Path, target: UPath, sums: dict[str, str]) -> None:
    if not isinstance(target, Path) or target.protocol not in ("", "file"):
        # An object store shows no half-written file, and `SUMS` comes last.
        _write(folder, target, sums)
        return
    partial = UPath(target.with_name(f".{target.name}.{uuid4().hex}.partial"))
    try:
        _write(folder, partial, sums)
        if target.exists():
            # Left by somebody who was killed before it was whole.
            shutil.rmtree(target)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, target: UPath, sums: dict[str, str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in sums:
        with (folder / file).open("rb") as source, (target / file).open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    (target / SUMS).write_text("".join(f"{digest}  {file}\n" for file, digest in sums.items()), encoding="utf-8")


def _refuse_other_content(target: UPath, sums: dict[str, str]) -> None:
    for file, wanted in sums.items():
        seen = _sha256(target / file) if (target / file).exists() else "nothing"
        if seen != wanted:
            raise NotPublished(
                f"{target / file}: has SHA-256 {seen[:12]}, the adapter's is {wanted[:12]}; somebody has changed it: delete {target}, and "
                "load the version under a new number if vLLM has it loaded already"
            )


def _sums(folder: Path) -> dict[str, str]:
    """File -> SHA-256, of what vLLM reads."""
    return {path.name: _sha256(path) for path in [folder / CONFIG, *sorted(folder.glob("*.safetensors"))]}


def _sha256(path: Path | UPath) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _config_problems(config: dict[str, Any]) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type is {config.get('peft_type')}, want LORA"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield "it has biases (bias, lora_bias), which vLLM leaves out"
    for name, what in (
        ("use_dora", "DoRA"),
        ("modules_to_save", "whole modules beside the adapter"),
        ("trainable_token_indices", "rows of added tokens"),
        ("target_parameters", "adapters of experts or of the router"),
        ("rank_pattern", "ranks of single modules"),
        ("alpha_pattern", "scales of single modules"),
    ):
        if config.get(name):
            yield f"it has {what} ({name}), which vLLM does not load"


def _tensor_problems(shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    if not shapes:
        yield "it has no weights in safetensors files"
    odd = sorted(name for name in shapes if not name.endswith((".lora_A.weight", ".lora_B.weight")))
    if odd:
        yield f"{len(odd)} of its weights are no lora_A or lora_B of a linear layer, such as {', '.join(odd[:SHOWN])}"


def _rank_problems(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], *, max_lora_rank: int) -> Iterator[str]:
    ranks = {shape[0] for name, shape in shapes.items() if name.endswith(".lora_A.weight") and shape}
    # Scales are alpha / r for all modules alike, so another rank would be scaled wrongly.
    if ranks and ranks != {config.get("r")}:
        yield f"its weights have ranks {sorted(ranks)}, {CONFIG} says r = {config.get('r')}"
    highest = max((*ranks, config.get("r") or 0))
    if highest > max_lora_rank:
        yield (
            f"it has rank {highest}, at most {max_lora_rank} is taken; start vLLM with a larger --max-lora-rank, and write it in "
            "deployment.vllm.max_lora_rank"
        )
