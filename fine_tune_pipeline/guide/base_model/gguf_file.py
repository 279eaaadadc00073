"""A GGUF file of the user's own: what it is, read from its header; the conversion to safetensors is a program's work.

The header is read here, not by the `gguf` package, which takes 10 CPU seconds for Gemma 3 270M's: it makes an array of each of 262,144
words of the vocabulary and of their bytes.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.model_files import UnusableModel

MAGIC = b"GGUF"
VERSIONS = (2, 3)

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_EMBEDDING, _HEAD, _ROPE = "token_embd.weight", "output.weight", "rope_freqs.weight"


class NoGgufFile(UnusableModel):
    """There is no such file, or it is something else."""


class OtherGgufFile(UnusableModel):
    """The file is not the one that the use case pins."""


class UnreadableGguf(UnusableModel):
    """The header breaks off, or does not say what memory the model needs."""


@dataclass(frozen=True)
class GgufFile:
    """A checked file."""

    path: Path
    sha256: str
    architecture: Architecture
    parameters: int
    context: int

    def hashes(self) -> dict[str, str]:
        """The same as of a package that carries this file."""
        return {"gguf_sha256": self.sha256}


@dataclass(frozen=True)
class Header:
    """Values by name, without the long lists; and the shape of each tensor, the fastest dimension first."""

    values: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]


def read_gguf(path: Path, *, sha256: str) -> GgufFile:
    """Look at a GGUF file without converting it.

    Raises:
        NoGgufFile, OtherGgufFile, UnreadableGguf: what was seen, what is wanted, what to do.
    """
    if not path.is_file():
        raise NoGgufFile(f"{path}: no such file; want a .gguf file")
    header = read_header(path)
    if (seen := file_sha256(path)) != sha256:
        raise OtherGgufFile(
            f"{path}: its SHA-256 is {seen}, the use case pins {sha256}; fetch the file again, or write the new hash if you mean this one"
        )
    return GgufFile(
        path=path,
        sha256=sha256,
        architecture=_architecture(path, header),
        parameters=sum(prod(shape) for name, shape in header.shapes.items() if name != _ROPE),
        context=_number(path, header, "context_length"),
    )


def read_header(path: Path) -> Header:
    """What stands before the weights.

    Raises:
        NoGgufFile: it is something else.
        UnreadableGguf: it breaks off.
    """
    with path.open("rb") as file:
        begin = file.read(len(MAGIC) + 4)
        if begin[:4] != MAGIC:
            raise NoGgufFile(f"{path}: begins with {begin[:4]!r}, want {MAGIC!r}; it is no GGUF file, or its download broke off")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            try:
                return _header(path, reader)
            except (struct.error, UnicodeDecodeError) as error:
                raise UnreadableGguf(f"{path}: its header breaks off ({error}); fetch the file again") from error


class _Reader:
    """A place in the bytes, little-endian."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, len(MAGIC)

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.number("<Q")
        piece = self._data[self._at : self._at + length]
        self._at += length
        return piece.decode("utf-8")

    def value(self, kind: int) -> Any:
        """A value; a list of texts is stepped over, since only the tokenizer needs it."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_form(kind))
        inner, count = self.number("<I"), self.number("<Q")
        if inner == _STRING:
            for _ in range(count):
                length = self.number("<Q")
                self._at += length
            return None
        if inner == _ARRAY:
            return [self.value(inner) for _ in range(count)]
        return [self.number(_form(inner)) for _ in range(count)]


def _form(kind: int) -> str:
    if kind not in _NUMBERS:
        raise struct.error(f"a value of the unknown kind {kind}")
    return _NUMBERS[kind]


def _header(path: Path, reader: _Reader) -> Header:
    version = reader.number("<I")
    if version not in VERSIONS:
        raise UnreadableGguf(f"{path}: GGUF version {version}, want {' or '.join(map(str, VERSIONS))}; convert it with a newer llama.cpp")
    tensors, pairs = reader.number("<Q"), reader.number("<Q")
    values: dict[str, Any] = {}
    for _ in range(pairs):
        name = reader.text()
        values[name] = reader.value(reader.number("<I"))
    shapes: dict[str, tuple[int, ...]] = {}
    for _ in range(tensors):
        name = reader.text()
        shapes[name] = tuple(reader.number("<Q") for _ in range(reader.number("<I")))
        reader.number("<I")
        reader.number("<Q")
    return Header(values, shapes)


def _architecture(path: Path, header: Header) -> Architecture:
    hidden, heads = _number(path, header, "embedding_length"), _number(path, header, "attention.head_count")
    if _EMBEDDING not in header.shapes:
        raise UnreadableGguf(f"{path}: no tensor {_EMBEDDING}; want a language model, not an adapter or an image encoder")
    try:
        return Architecture(
            hidden=hidden,
            layers=_number(path, header, "block_count"),
            heads=heads,
            kv_heads=_value(header, "attention.head_count_kv") or heads,
            head_dim=_value(header, "attention.key_length") or hidden // heads,
            mlp_width=_number(path, header, "feed_forward_length"),
            vocabulary=header.shapes[_EMBEDDING][-1],
            tied=_HEAD not in header.shapes,
            **_experts(header),
        )
    except (ValidationError, ArithmeticError) as error:
        raise UnreadableGguf(f"{path}: the numbers in its header do not go together ({error}); take the model's safetensors") from error


def _experts(header: Header) -> dict[str, int]:
    """Numbers of a mixture of experts; nothing for a dense model."""
    experts = _value(header, "expert_count")
    if not experts:
        return {}
    return {
        "experts": experts,
        "experts_per_token": _value(header, "expert_used_count") or 0,
        "expert_width": _value(header, "expert_feed_forward_length") or _value(header, "feed_forward_length") or 0,
        "shared_expert_width": _value(header, "expert_shared_feed_forward_length") or 0,
        "dense_layers": _value(header, "leading_dense_block_count") or 0,
    }


def _value(header: Header, name: str) -> int | None:
    """Of the model's own architecture; the largest where each layer has its own."""
    found = header.values.get(f"{header.values.get('general.architecture')}.{name}")
    return max(found) if isinstance(found, list) else found


def _number(path: Path, header: Header, name: str) -> int:
    value = _value(header, name)
    if isinstance(value, int):
        return value
    raise UnreadableGguf(
        f"{path}: {header.values.get('general.architecture')}.{name} is {value!r}, want a whole number; its memory cannot be predicted "
        "without, so take the model's safetensors"
    )
