"""Who asked, as the traffic log keeps it: a keyed hash, which whoever has the key can make again of a name, and nobody else."""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

SALT_FILE = "salt"
SALT_VARIABLE = "FINE_TUNE_PIPELINE_TRAFFIC_SALT"
"""The same for all replicas that share a log, so that a user has one hash in it."""

LEAST_CHARACTERS = 16


class ShortSalt(ValueError):
    """The key of the hashes could be found by trying."""


class NoSalt(LookupError):
    """The key of the hashes is not where the endpoint keeps it."""


def log_salt(folder: Path, *, environment: Mapping[str, str] = os.environ) -> bytes:
    """The key of a log's hashes: from the environment, else from a file that is made once and only its owner can read.

    Raises:
        ShortSalt: the variable holds too little.
    """
    given = _given(environment)
    path = folder / SALT_FILE
    if given is not None:
        return given
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(32))
    return path.read_bytes()


def known_salt(folder: Path, *, environment: Mapping[str, str] = os.environ) -> bytes:
    """The same for whoever looks a user up: a new key would find nobody.

    Raises:
        NoSalt: no endpoint has run here.
        ShortSalt: the variable holds too little.
    """
    given = _given(environment)
    path = folder / SALT_FILE
    if given is None and not path.exists():
        raise NoSalt(f"{path}: not there, and {SALT_VARIABLE} is not set; want the key that the endpoint's log was written with")
    return path.read_bytes() if given is None else given


def keyed_hash(text: str, *, salt: bytes) -> str:
    """32 hexadecimal digits (BLAKE2b, 128 bits)."""
    # JSON can bring half a character, which UTF-8 has no bytes for.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=salt[:64], digest_size=16).hexdigest()


def _given(environment: Mapping[str, str]) -> bytes | None:
    value = environment.get(SALT_VARIABLE, "")
    if value and len(value) < LEAST_CHARACTERS:
        raise ShortSalt(f"{SALT_VARIABLE}: got {len(value)} characters, want at least {LEAST_CHARACTERS}")
    return value.encode("utf-8") or None
