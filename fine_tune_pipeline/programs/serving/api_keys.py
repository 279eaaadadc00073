"""API keys with a name: given out one by one, taken back one by one, each with its own rate. Kept as salted hashes, never as they are.

`<state>/keys.json`, which only its owner can read. The server looks at it before each request, so a change needs no restart. A key has
256 random bits, so that a fast hash is enough: there is nothing to guess.
"""

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import Contract

FILE = "keys.json"
LOCK_FILE = "keys.lock"
PREFIX = "ftp-"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}"

KEY_NAME: ContextVar[str | None] = ContextVar("KEY_NAME", default=None)
"""Name of the key of the request that is being answered; None for the endpoint's own two."""


class NameTaken(ValueError):
    """There is a key of that name already."""


class BadName(ValueError):
    """A name that would not be read well in a log."""


class UnknownKey(LookupError):
    """There is no key of that name."""


class BadKeyFile(ValueError):
    """The file of the keys is not what this module writes."""


class ApiKey(Contract):
    """One key, as it is kept."""

    name: str = Field(pattern=f"^{NAME_PATTERN}$")
    salt: str
    sha256: str = Field(description="Of salt and key, in hexadecimal digits.")
    per_minute: int | None = Field(default=None, ge=1, description="Most requests; any number by default.")
    made_at: str

    @classmethod
    def of(cls, key: str, *, name: str, per_minute: int | None) -> "ApiKey":
        salt = secrets.token_hex(16)
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(name=name, salt=salt, sha256=_digest(key, salt), per_minute=per_minute, made_at=made_at)

    def fits(self, given: str) -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(_digest(given, self.salt), self.sha256)


class _Kept(Contract):
    format: int = 1
    keys: tuple[ApiKey, ...] = ()


class KeyFile:
    """The keys of one endpoint."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: of the endpoint's state.
        """
        self._folder = folder
        self._path = folder / FILE
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[ApiKey, ...] = ()

    def listed(self) -> tuple[ApiKey, ...]:
        """As they are now, in the order in which they were made.

        Raises:
            BadKeyFile: names the file.
        """
        if not self._path.exists():
            return ()
        try:
            return _Kept.model_validate_json(self._path.read_text(encoding="utf-8")).keys
        except (ValidationError, UnicodeDecodeError) as error:
            raise BadKeyFile(
                f"{self._path}: not what `fine-tune-pipeline keys` writes; mend it or delete it, then add the keys anew"
            ) from error

    def holder(self, given: str) -> ApiKey | None:
        """Whose key this is; every key is compared, so that the time does not tell which one it was."""
        found = None
        for key in self._current():
            if key.fits(given):
                found = key
        return found

    def add(self, name: str, *, per_minute: int | None = None) -> str:
        """Make a key and keep its hash; the key itself is nowhere afterwards but with the caller.

        Raises:
            BadName, NameTaken, BadKeyFile: nothing is changed.
        """
        if re.fullmatch(NAME_PATTERN, name) is None:
            raise BadName(f"got {name!r}, want 1 to 64 letters, digits, and . _ @ - behind the first")
        key = PREFIX + secrets.token_urlsafe(32)
        with self._changing():
            there = self.listed()
            if any(other.name == name for other in there):
                raise NameTaken(f"{name}: there is a key of that name; remove it first, or choose another name")
            self._write((*there, ApiKey.of(key, name=name, per_minute=per_minute)))
        return key

    def remove(self, name: str) -> None:
        """Refuse this key from the next request on.

        Raises:
            UnknownKey, BadKeyFile: nothing is changed.
        """
        with self._changing():
            there = self.listed()
            left = tuple(key for key in there if key.name != name)
            if left == there:
                raise UnknownKey(f"got {name!r}, want one of {', '.join(key.name for key in there) or 'none'}")
            self._write(left)

    def _current(self) -> tuple[ApiKey, ...]:
        """The keys, read again when the file has changed. A file that is no longer good lets nobody in."""
        stamp = self._stamp()
        if stamp != self._seen:
            try:
                self._keys = self.listed()
            except BadKeyFile as error:
                self._keys = ()
                Reporter(None).log(f"{error}; until then only the endpoint's own two keys are taken")
            self._seen = stamp
        return self._keys

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One at a time."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        partial = self._path.with_name(f"{FILE}.partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(_Kept(keys=keys).model_dump(mode="json"), indent=2))
        os.replace(partial, self._path)


def _digest(key: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}{key}".encode("utf-8", "surrogatepass")).hexdigest()
