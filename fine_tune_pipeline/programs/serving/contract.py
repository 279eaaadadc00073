"""What the endpoint and those who start it agree on: names, files of the state folder, bodies of the admin routes. No torch here.

State folder of one use case:
    request.json      the ServeRequest it was started with     supervisor.json   restarts, and why it gave up
    pid.json          who the supervisor is                    server.json       address of the running server
    supervisor.lock   held while a supervisor runs; who it is
    versions.json     version table and aliases                adapters/<hash>/  the server's own copy of each version
    indexes/<hash>/   and of what it looks up
    traffic.sqlite    the log                                  server.log        output of supervisor and server
    answered.count    answers so far, for the log to compare with
    lock             held while somebody starts or stops it
    api_key, admin_key, keys.json (further keys, hashed), salt: files that only the owner can read
"""

import hashlib
import re
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import Field

from fine_tune_pipeline.programs.process_identity import ProcessIdentity
from fine_tune_pipeline.programs.requests import Contract
from fine_tune_pipeline.spec.base import unset

KEY_VARIABLE = "FINE_TUNE_PIPELINE_API_KEY"
ADMIN_KEY_VARIABLE = "FINE_TUNE_PIPELINE_ADMIN_KEY"

REQUEST_FILE = "request.json"
PID_FILE = "pid.json"
SUPERVISOR_LOCK = "supervisor.lock"
SERVER_FILE = "server.json"
SUPERVISOR_FILE = "supervisor.json"
VERSIONS_FILE = "versions.json"
LOG_FILE = "server.log"
LOCK_FILE = "lock"
KEY_FILE = "api_key"
ADMIN_KEY_FILE = "admin_key"
ADAPTERS = "adapters"
INDEXES = "indexes"

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
Alias = Literal["champion", "challenger", "previous"]

HASH_HEADER = "x-adapter-sha256"

USAGE_EXIT = 2
"""Exit code of a server that can't start as it was asked to: starting it again would not help."""


ContractT = TypeVar("ContractT", bound=Contract)


def readable(kind: type[ContractT], path: Path) -> ContractT | None:
    """What a file of the state folder says; None when it is not there, was damaged, or another version of this software wrote it."""
    try:
        return kind.read(path)
    except (FileNotFoundError, ValueError):
        return None


def served_name(use_case: str, version: int) -> str:
    """The model name of a version, such as `support_triage-v3`; a name is never used for anything else."""
    return f"{use_case}-v{version}"


def base_name(use_case: str) -> str:
    """The model name of the base model without any adapter."""
    return f"{use_case}-base"


def version_of(name: str, *, use_case: str) -> int | None:
    """The version that a model name stands for; None if it is not the name of a version."""
    found = re.fullmatch(rf"{re.escape(use_case)}-v([1-9][0-9]*)", name)
    return int(found[1]) if found else None


class Retrieval(Contract):
    """What is looked up for each question of a version that was trained with passages: the index is a part of the version, as its weights
    are. `fingerprint` is that of the artifact `retrieval_index`."""

    fingerprint: str
    sha256: str = Field(description="Over the index's files, see `programs.passages.index_sha256`.")
    passages: int = Field(ge=1, description="For each question, fewer where they would not fit.")
    room_tokens: int = Field(description="For question and passages together.")


class OfferedVersion(Contract):
    """A version that the server is to have loaded. `adapter` is a PEFT folder or a whole model's; `index` is the folder of what it looks
    up, if it looks anything up."""

    version: int = Field(ge=1)
    adapter: str
    adapter_sha256: str
    base_sha256: str
    max_new_tokens: int = Field(ge=1, description="What an answer may take: as in the version's evaluation.")
    index: str | None = Field(default=None, exclude_if=unset)
    retrieval: Retrieval | None = Field(default=None, exclude_if=unset)


class Canary(Contract):
    """A version that a share of those who ask for the champion gets instead, always the same users."""

    version: int = Field(ge=1)
    share: float = Field(gt=0, le=0.5)

    def takes(self, user: str) -> bool:
        """Whether this user is among them. Another canary takes others, so that nobody is always the first."""
        digest = hashlib.blake2b(f"{self.version}/{user}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self.share * 2**64


class SyncRequest(Contract):
    """`POST /admin/sync`: load what is not loaded yet, then set aliases and canary, then let go of versions without alias or mention.

    A canary ends with `end_canary`, and whenever the champion changes.
    """

    versions: tuple[OfferedVersion, ...] = ()
    aliases: dict[Alias, int] = {}
    drop: tuple[Alias, ...] = Field(default=(), description="Aliases that mean nothing any more.")
    canary: Canary | None = None
    end_canary: bool = False


class VersionState(Contract):
    """One line of the version table."""

    version: int
    name: str
    adapter_sha256: str
    max_new_tokens: int
    state: Literal["loading", "loaded", "failed"]
    reason: str = ""
    retrieval: Retrieval | None = Field(default=None, exclude_if=unset)
    settings_sha256: str | None = Field(
        default=None, exclude_if=unset, description="Over the files beside the weights of the server's copy; they decide answers too."
    )


class Table(Contract):
    """The version table as it lies on disk and as `/admin/sync` answers it."""

    format: Literal[1] = 1
    base_sha256: str
    versions: tuple[VersionState, ...] = ()
    aliases: dict[Alias, int] = {}
    canary: Canary | None = Field(default=None, exclude_if=unset)

    def version(self, number: int) -> VersionState | None:
        return next((found for found in self.versions if found.version == number), None)

    @property
    def champion(self) -> VersionState | None:
        """Who answers when nobody is named."""
        return self.named(CHAMPION)

    def named(self, alias: Alias) -> VersionState | None:
        """What an alias stands for."""
        number = self.aliases.get(alias)
        return None if number is None else self.version(number)


class ServerAddress(Contract):
    """`server.json`: written by the server when it listens."""

    host: str
    port: int
    server: ProcessIdentity

    @property
    def url(self) -> str:
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"


class SupervisorState(Contract):
    """`supervisor.json`: what the supervisor has seen so far."""

    restarts: int = 0
    last_exit: int | None = None
    gave_up: str | None = None


class Health(Contract):
    """`GET /health`. `ready` and `degraded` answer (HTTP 200); `draining` and `failed` do not (503). `pid` is the server's own."""

    status: Literal["ready", "degraded", "draining", "failed"]
    problems: tuple[str, ...] = ()
    use_case: str
    pid: int
    supervisor_pid: int
    uptime_seconds: float
    waiting: int = Field(description="Requests in the queue.")
    answered_total: int
    log_dropped_total: int
    registry_stale_seconds: float | None = Field(
        default=None, description="Since the model registry last said who is champion; None where it is not asked."
    )
    table: Table
