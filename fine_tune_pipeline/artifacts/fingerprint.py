"""A fingerprint says *what* an artifact is made of, never *where*: two machines with the same inputs agree on it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

Payload = dict[str, Any]
CHUNK_BYTES = 1 << 20


def payload(*, asset: str, version: int, what: Mapping[str, Any], upstream: Mapping[str, str]) -> Payload:
    """All that the fingerprint hashes, kept in the manifest so that a rebuild can say what changed.

    Args:
        asset: name of the asset, such as `scrubbed_examples`.
        version: number of the step's own rule; raise it when the same input gives another output.
        what: slices of the spec (pydantic models are taken apart) and content hashes of files.
        upstream: asset name -> fingerprint.
    """
    return {"asset": asset, "version": version, "what": _plain(dict(what)), "upstream": dict(sorted(upstream.items()))}


def fingerprint(content: Payload) -> str:
    """16 hexadecimal digits (64 bits) of the SHA-256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def changes(old: Payload, new: Payload) -> list[str]:
    """Dotted names of what differs, such as `dataset.pii.operator` or `upstream.clean_examples`."""
    return list(changed_values(old, new))


def changed_values(old: Payload, new: Payload) -> dict[str, tuple[Any, Any]]:
    """What differs, by its name as `changes` gives it: the value before, and after; None for what one of the two does not name."""
    before, after = _leaves(old), _leaves(new)
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name, ...) != after.get(name, ...)]
    return {name.removeprefix("what."): (before.get(name), after.get(name)) for name in names}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return stream_sha256(stream)


def stream_sha256(stream: BinaryIO) -> str:
    """SHA-256 of what is left in a stream."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {name: leaf for key, item in value.items() for name, leaf in _leaves(item, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): value}
