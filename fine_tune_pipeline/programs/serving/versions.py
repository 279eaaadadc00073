"""The versions of one endpoint: which are loaded, which alias means which, kept on disk so that a restart serves what was served.

Every change of the table is one atomic replacement, in memory and on disk. The server never decides by itself who is champion.
"""

import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

from fine_tune_pipeline.programs.serving.contract import (
    ADAPTERS,
    CHAMPION,
    VERSIONS_FILE,
    Alias,
    Canary,
    OfferedVersion,
    Retrieval,
    SyncRequest,
    Table,
    VersionState,
    base_name,
    served_name,
    version_of,
)
from fine_tune_pipeline.programs.serving.indexes import Indexes
from fine_tune_pipeline.programs.serving.model_thread import ModelThread
from fine_tune_pipeline.programs.serving.own_copy import WrongAdapter, refuse_changed_copy, refuse_other_weights, settings_sha256

BASE = "base"


class SyncRefused(Exception):
    """The wished state can't be reached; the aliases are as they were."""


class BrokenTable(ValueError):
    """The table on disk is not what this module writes."""


class NotServed(LookupError):
    """No loaded version answers to this model name."""


class NoChampion(Exception):
    """Nobody is named, and there is no champion yet or it could not be loaded."""


class Models(Protocol):
    """What holds the weights; called in the model thread only. A future is waited for beside that thread."""

    def load(self, name: str, folder: Path) -> "Future[None] | None": ...

    def unload(self, name: str) -> None: ...


@dataclass(frozen=True)
class Target:
    """Who will answer a request. `version` is its number as text, or `base`; `arm` is what it means for monitoring; `retrieval` is what
    is looked up for it, None where nothing is."""

    name: str
    version: str
    sha256: str
    max_new_tokens: int
    arm: Literal["champion", "canary", "other", "base"]
    retrieval: Retrieval | None = None


class Versions:
    """The version table and the weights behind it."""

    def __init__(
        self,
        state: Path,
        *,
        use_case: str,
        base_sha256: str,
        base_new_tokens: int,
        models: Models,
        thread: ModelThread[Any],
        indexes: Indexes,
    ) -> None:
        """
        Args:
            state: folder of the endpoint.
            base_new_tokens: what an answer of the base model may take; each version brings its own limit.
        """
        self._state = state
        self._use_case = use_case
        self._base_new_tokens = base_new_tokens
        self._models = models
        self._thread = thread
        self._indexes = indexes
        self._one_sync = threading.Lock()
        self._synced_at = 0.0
        self._table = _read(state / VERSIONS_FILE, base_sha256=base_sha256)

    @property
    def table(self) -> Table:
        """The table as it is now; it never changes in place."""
        return self._table

    def restore(self) -> None:
        """Load what the table on disk says; a version whose files are gone or damaged becomes `failed`, with the reason.

        So does one that was just being loaded: if that is what ended the server, it would end it again, and nobody has been sent there yet.
        """
        for version in self._table.versions:
            if version.state == "failed":
                continue
            try:
                if version.state == "loading":
                    raise WrongAdapter("the server ended while it was being loaded; offer it again")
                folder = self._state / ADAPTERS / version.adapter_sha256
                refuse_changed_copy(folder, version)
                self._load(version, folder)
            except (OSError, ValueError) as error:
                self._put(version.model_copy(update={"state": "failed", "reason": str(error)}), lasting=False)

    def sync(self, wished: SyncRequest) -> Table:
        """Load offered versions beside the running ones, then set aliases and canary, then free what nobody refers to any more.

        Raises:
            SyncRefused: a version could not be loaded, or an alias or the canary names one that is not. None of them has changed.
        """
        with self._one_sync:
            problems = [problem for offered in wished.versions if (problem := self._offer(offered))]
            aliases = {alias: number for alias, number in self._table.aliases.items() if alias not in wished.drop} | wished.aliases
            problems += self._not_loaded(wished)
            if wished.canary is not None and wished.canary.version == aliases.get(CHAMPION):
                problems.append(f"canary: version {wished.canary.version} is the champion already")
            if problems:
                raise SyncRefused("; ".join(problems))
            # Somebody may have been sent to the canary just now and not stand in the queue yet, so it is freed one sync later.
            canaries = [self._table.canary]
            self._appoint(aliases, canary=wished.canary, end_canary=wished.end_canary)
            canaries.append(self._table.canary)
            kept = [canary.version for canary in canaries if canary is not None]
            self._let_go(keep={*self._table.aliases.values(), *kept, *(offered.version for offered in wished.versions)})
            self._synced_at = time.monotonic()
            return self._table

    def follow(self, aliases: Mapping[Alias, int], *, asked_at: float) -> str | None:
        """Let aliases mean what the model registry says, as far as these versions are loaded; what is not as it says there, if anything.

        Nothing is loaded or freed here, so the version before is at hand when the registry changes its mind.

        Args:
            asked_at: when the registry was asked, by `time.monotonic`; an answer from before the last sync is older than that.
        """
        with self._one_sync:
            if asked_at < self._synced_at:
                return None
            loaded = {version.version for version in self._table.versions if version.state == "loaded"}
            found = {alias: number for alias, number in aliases.items() if number in loaded}
            wanted, now = aliases.get(CHAMPION), self._table.aliases.get(CHAMPION)
            if CHAMPION not in found and now is not None:
                found[CHAMPION] = now
            if found != self._table.aliases:
                self._appoint(found)
            if wanted in loaded or (wanted is None and now is None):
                return None
            seen = "no champion" if wanted is None else f"version {wanted} champion, which is not loaded here"
            return f"the model registry names {seen}; {'nobody' if now is None else f'version {now}'} stays champion"

    def target(self, model: str | None, *, user: str | None = None) -> Target:
        """Who answers to a model name: the use case's name (or none) means the champion, or the canary for some users.

        Args:
            user: who asks, or anything else that tells requests apart; None: whoever it is, the champion answers.

        Raises:
            NotServed, NoChampion: nobody does.
        """
        table = self._table
        if model is not None and model == base_name(self._use_case):
            return Target(
                model,
                version=BASE,
                sha256=table.base_sha256,
                max_new_tokens=self._base_new_tokens,
                arm="base",
                retrieval=_newest_retrieval(table),
            )
        champion = table.champion
        if model is None or model == self._use_case:
            if champion is None:
                raise NoChampion(f"{self._use_case}: no version has been promoted yet")
            if champion.state != "loaded":
                raise NoChampion(f"{self._use_case}: version {champion.version} is {champion.state}: {champion.reason}")
            canary = None if user is None else _canary_for(user, table)
            return _target(champion, arm="champion") if canary is None else _target(canary, arm="canary")
        number = version_of(model, use_case=self._use_case)
        found = None if number is None else table.version(number)
        if found is None or found.state != "loaded":
            raise NotServed(f"model {model!r} is not served here; want one of {', '.join(self.names())}")
        return _target(found, arm="champion" if found == champion else "other")

    def serves(self, target: Target) -> bool:
        """Whether it still answers: a version may be let go while passages for it are looked up."""
        return target.version == BASE or target.name in self.names()

    def names(self) -> list[str]:
        """Model names that answer: the use case itself when there is a champion, loaded versions, the base."""
        champion = self._table.champion
        first = [self._use_case] if champion is not None and champion.state == "loaded" else []
        loaded = [version.name for version in self._table.versions if version.state == "loaded"]
        return [*first, *loaded, base_name(self._use_case)]

    def _offer(self, offered: OfferedVersion) -> str | None:
        """Have an offered version loaded; the reason if that failed."""
        known = self._table.version(offered.version)
        if known is not None and known.state == "loaded":
            same = known.adapter_sha256 == offered.adapter_sha256 and known.retrieval == offered.retrieval
            return None if same else f"{known.name} is loaded with other weights or another index; a version number is never used twice"
        name = served_name(self._use_case, offered.version)
        facts = {"adapter_sha256": offered.adapter_sha256, "max_new_tokens": offered.max_new_tokens}
        version = VersionState(version=offered.version, name=name, state="loading", retrieval=offered.retrieval, **facts)
        self._put(version)
        try:
            folder = self._keep(offered)
            version = version.model_copy(update={"settings_sha256": settings_sha256(folder)})
            self._load(version, folder)
        except (OSError, ValueError) as error:
            self._put(version.model_copy(update={"state": "failed", "reason": str(error)}))
            return f"{name}: {error}"
        return None

    def _keep(self, offered: OfferedVersion) -> Path:
        """The server's own verified copy, so that a later change of the offered folder can't change an answer."""
        if offered.base_sha256 != self._table.base_sha256:
            raise WrongAdapter(f"made for the base model {offered.base_sha256[:12]}, but {self._table.base_sha256[:12]} is served")
        if offered.retrieval is not None:
            if offered.index is None:
                raise WrongAdapter("it was trained with what is looked up, and is offered without its index")
            self._indexes.keep(Path(offered.index), offered.retrieval)
        folder = self._state / ADAPTERS / offered.adapter_sha256
        if not folder.exists():
            partial = folder.with_name(f".{uuid4().hex}.partial")
            try:
                shutil.copytree(offered.adapter, partial)
                refuse_other_weights(partial, offered.adapter_sha256)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        refuse_other_weights(folder, offered.adapter_sha256)
        return folder

    def _load(self, version: VersionState, folder: Path) -> None:
        if version.retrieval is not None:
            self._indexes.load(version.retrieval)
        self._thread.call(lambda: self._models.load(version.name, folder), first=True).result()
        self._put(version.model_copy(update={"state": "loaded", "reason": ""}))

    def _let_go(self, *, keep: set[int]) -> None:
        gone = [version for version in self._table.versions if version.version not in keep]
        self._replace(versions=tuple(version for version in self._table.versions if version.version in keep))
        for version in gone:
            # Requests for it that wait already come first in the queue, so they are still answered.
            self._thread.call(partial(self._models.unload, version.name)).result()
        kept = {version.adapter_sha256 for version in self._table.versions}
        for folder in (self._state / ADAPTERS).glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder)
        self._indexes.let_go(keep={version.retrieval.sha256 for version in self._table.versions if version.retrieval is not None})

    def _not_loaded(self, wished: SyncRequest) -> list[str]:
        """Wishes that name a version which can't answer."""
        loaded = {version.version for version in self._table.versions if version.state == "loaded"}
        named: list[tuple[str, int]] = [(f"alias {alias}", number) for alias, number in wished.aliases.items()]
        named += [] if wished.canary is None else [("canary", wished.canary.version)]
        return [f"{what}: version {number} is not loaded" for what, number in named if number not in loaded]

    def _appoint(self, aliases: Mapping[Alias, int], *, canary: Canary | None = None, end_canary: bool = False) -> None:
        """Aliases and canary in one step. Another champion ends a canary: what it was compared with is gone."""
        goes_on = not end_canary and aliases.get(CHAMPION) == self._table.aliases.get(CHAMPION)
        self._replace(aliases=dict(aliases), canary=canary or (self._table.canary if goes_on else None))

    def _put(self, version: VersionState, *, lasting: bool = True) -> None:
        others = [other for other in self._table.versions if other.version != version.version]
        self._replace(lasting=lasting, versions=tuple(sorted([*others, version], key=lambda found: found.version)))

    def _replace(self, *, lasting: bool = True, **changes: Any) -> None:
        """
        Args:
            lasting: whether a table that cannot be written is refused: the next start would find out by itself otherwise.
        """
        table = self._table.model_copy(update=changes)
        if table == self._table:
            # What is there already needs no room on a disk that is full.
            return
        with nullcontext() if lasting else suppress(OSError):
            table.write(self._state / VERSIONS_FILE)
        self._table = table


def _canary_for(user: str, table: Table) -> VersionState | None:
    """The version that this user gets instead of the champion, if it can answer."""
    if table.canary is None or not table.canary.takes(user):
        return None
    found = table.version(table.canary.version)
    return found if found is not None and found.state == "loaded" else None


def _target(version: VersionState, *, arm: Literal["champion", "canary", "other"]) -> Target:
    return Target(
        version.name,
        version=str(version.version),
        sha256=version.adapter_sha256,
        max_new_tokens=version.max_new_tokens,
        arm=arm,
        retrieval=version.retrieval,
    )


def _newest_retrieval(table: Table) -> Retrieval | None:
    """The base model looks up as the newest version does, so that the two differ by what was trained alone."""
    loaded = [version.retrieval for version in table.versions if version.state == "loaded" and version.retrieval is not None]
    return loaded[-1] if loaded else None


def _read(path: Path, *, base_sha256: str) -> Table:
    """The table on disk; an empty one when there is none or it belongs to another base model, whose adapters mean nothing here."""
    if path.exists():
        try:
            table = Table.read(path)
        except ValueError as error:
            raise BrokenTable(
                f"{path}: not a version table as this software writes it; move the file away and materialize the asset `endpoint` again, "
                "which brings the registered version back"
            ) from error
        if table.base_sha256 == base_sha256:
            return table
    return Table(base_sha256=base_sha256)
