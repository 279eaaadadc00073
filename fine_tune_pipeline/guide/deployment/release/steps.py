"""The steps of a release: begin, look, approve, roll back, allow again. Each holds the book's lock, so two never decide at once.

The model registry is told first, the endpoint after it; should the second word not come through, the endpoint's next poll finds the first.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.artifacts.traffic import Logged, TrafficLog
from fine_tune_pipeline.guide.deployment.registry import ModelRegistry
from fine_tune_pipeline.guide.deployment.release.decide import Decision, decide
from fine_tune_pipeline.guide.deployment.release.record import GATES, Book, Release, State
from fine_tune_pipeline.programs.serving.contract import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    VERSIONS_FILE,
    Canary,
    SyncRequest,
    Table,
    served_name,
)
from fine_tune_pipeline.resources.endpoint import Endpoint, NotRunning

PASSED = "all checks have passed"

MOST_ROWS = 5000
"""Of the traffic log that one look compares."""


class NoPrevious(Exception):
    """There is no version to go back to."""


class NothingWaits(Exception):
    """No version waits for a person."""


class NotRolledBack(Exception):
    """No version may be allowed again, since none was rolled back."""


@dataclass(frozen=True)
class Desk:
    """What a release is decided with, and what a decision moves."""

    use_case: str
    endpoint: Endpoint
    registry: ModelRegistry
    log: TrafficLog
    store: Store
    now: Callable[[], float] = field(default=time.time)

    @property
    def book(self) -> Book:
        return Book(self.endpoint.folder)

    def table(self) -> Table | None:
        """What the endpoint serves, or would if it ran."""
        return self.endpoint.status().table


@dataclass(frozen=True)
class Step:
    """How a release stands after somebody looked. `does` is what was done about it, `version` who it was done to, `champion` who
    answers everybody afterwards, as far as that is known here; `server` says whether the
    server had to be started for it, and `everybody_had` of a version that was rolled back whether it was champion."""

    does: Literal["nothing", "wait", "approval", "canary", "promote", "keep", "roll_back", "refused"]
    reason: str
    version: int | None = None
    release: Release | None = None
    decision: Decision | None = None
    champion: int | None = None
    server: str = "adopted"
    everybody_had: bool = False

    @property
    def everybody(self) -> bool:
        """Whether the version that was asked for is champion now."""
        return self.does == "promote" or (self.does == "nothing" and self.version is not None)

    @property
    def changed(self) -> bool:
        """Whether anything is otherwise than before."""
        return self.does in ("canary", "promote", "keep", "roll_back")


def begin(desk: Desk, wished: Release, *, approval: bool) -> Step:
    """A version has passed its checks: it waits for a person, gets some users, or everybody, as its use case says.

    Args:
        wished: the release as it begins; its state is set here.
        approval: whether a person has to agree.
    """
    with desk.book.locked():
        now = desk.book.read()
        own = now if now is not None and now.version == wished.version else None
        if desk.registry.aliases().get(CHAMPION) == wished.version:
            return _champion_already(desk, wished, own)
        if (refusal := desk.book.refusal(wished.version)) is not None:
            again = f"train another version, or say `fine-tune-pipeline release {desk.use_case} --again`"
            return Step("refused", f"version {wished.version} was {refusal}; {again}", wished.version)
        if now is not None and own is None and now.state in ("canary", "approval"):
            desk.book.note(now.version, "superseded", now=desk.now(), by=GATES, reason=f"version {wished.version} came")
        if own is not None and own.state == "canary":
            return _canary_again(desk, wished, own)
        if approval:
            return _wait_for_a_person(desk, wished, own if own is not None and own.state == "approval" else None)
        return _go_on(desk, wished)


def look(desk: Desk) -> Step:
    """Look at the release that goes on, and do what follows from what its users met.

    Raises:
        NotRunning, EndpointError, Unreachable: a decision could not be carried out; the next look decides again.
    """
    if desk.book.read() is None:
        return Step("nothing", f"{desk.use_case}: no version has passed its checks yet; materialize its asset endpoint")
    with desk.book.locked():
        release = desk.book.read()
        assert release is not None
        if release.state == "approval":
            return Step("approval", _waits(desk, release), release.version, release)
        if release.state in ("kept", "rolled_back"):
            said = f"{release.name} is {release.state.replace('_', ' ')}: {release.reason}"
            return Step("nothing", said, release.version, release, champion=_champion_of(release))
        if (overtaken := _overtaken(desk, release)) is not None:
            return overtaken
        decision = decide(release, new=_arm_of(desk, release, new=True), old=_arm_of(desk, release, new=False), now=desk.now())
        return _carried_out(desk, release, decision)


def approve(desk: Desk, *, by: str, note: str) -> Step:
    """A person lets the version that waits go on.

    Raises:
        NothingWaits: there is none.
        EndpointFailed: the server that it needs did not come up.
    """
    with desk.book.locked():
        release = desk.book.read()
        if release is None or release.state != "approval":
            how = "no version has passed its checks yet" if release is None else f"{release.name} is in state {release.state}"
            raise NothingWaits(f"{desk.use_case}: nothing waits for approval; {how}")
        said = f"approved by {by}{f': {note}' if note else ''}"
        return _go_on(desk, release.model_copy(update={"by": by, "reason": said}))


def roll_back(desk: Desk, *, by: str, reason: str) -> Step:
    """End a canary or an approval that goes on; else make the version before champion again.

    Raises:
        NoPrevious: there is none, or the endpoint does not have it.
    """
    with desk.book.locked():
        release = desk.book.read()
        if release is not None and release.state in ("canary", "approval"):
            return _withdrawn(desk, release, by=by, reason=reason)
        aliases = desk.registry.aliases()
        champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        if champion is None or previous is None or previous == champion:
            raise NoPrevious(f"{desk.use_case}: the registry names no previous version, so there is none to go back to")
        table = desk.table()
        found = None if table is None else table.version(previous)
        if found is None or found.state != "loaded":
            seen = "not there" if found is None else f"{found.state} ({found.reason})"
            raise NoPrevious(
                f"{desk.use_case}: {served_name(desk.use_case, previous)} is {seen} at the endpoint, as after a change of the base model; "
                "materialize what it was made of again, then endpoint"
            )
        _back_to(desk, previous, instead_of=champion)
        own = release if release is not None and release.version == champion else None
        if own is not None:
            own = _write(desk, own, "rolled_back", by=by, reason=reason)
        else:
            desk.book.note(champion, "rolled_back", now=desk.now(), by=by, reason=reason)
        return Step("roll_back", reason, champion, own, champion=previous, everybody_had=True)


def allow(desk: Desk, *, by: str, reason: str) -> int:
    """A version that was rolled back may be tried again; its number.

    Raises:
        NotRolledBack: the newest version was not.
    """
    with desk.book.locked():
        release = desk.book.read()
        if release is None or desk.book.refusal(release.version) is None:
            raise NotRolledBack(f"{desk.use_case}: the newest version was not rolled back, so there is nothing to allow")
        desk.book.note(release.version, "allowed", now=desk.now(), by=by, reason=reason)
        return release.version


def _champion_already(desk: Desk, wished: Release, own: Release | None) -> Step:
    """The registry has said so before; the endpoint is told again, should it have been away."""
    server = _server_of(desk, wished)
    desk.endpoint.client().sync(SyncRequest(versions=(wished.offered,), aliases={CHAMPION: wished.version}))
    if own is not None and own.state in ("canary", "approval"):
        own = _write(desk, own, "kept", by=wished.by, reason="champion already")
    return Step("nothing", f"{wished.name} is champion already", wished.version, own, champion=wished.version, server=server)


def _canary_again(desk: Desk, wished: Release, own: Release) -> Step:
    """The same version once more: its canary goes on, or begins anew where the champion has changed since."""
    server = _server_of(desk, wished)
    champion = desk.endpoint.client().health().table.champion
    if champion is None or champion.version != own.rival:
        return _go_on(desk, wished)
    _offer(desk, own, canary=True)
    return Step("canary", f"canary goes on: {_share(own)}", own.version, own, champion=own.rival, server=server)


def _server_of(desk: Desk, release: Release) -> str:
    return desk.endpoint.ensure(release.request, base_sha256=release.offered.base_sha256)


def _wait_for_a_person(desk: Desk, wished: Release, own: Release | None) -> Step:
    """Held ready for the moment when somebody agrees; `own` is it if it waits already."""
    release = own or _write(desk, wished, "approval", by=wished.by, reason=f"{PASSED}; a person has to agree")
    table = desk.table()
    # With another base model it can't be loaded beside the champion yet.
    if table is not None and table.base_sha256 == release.offered.base_sha256:
        desk.endpoint.client().sync(SyncRequest(versions=(release.offered,), aliases={CHALLENGER: release.version}, end_canary=True))
    return Step("approval", _waits(desk, release), release.version, release)


def _waits(desk: Desk, release: Release) -> str:
    return f"{release.name} waits for a person: fine-tune-pipeline approve {desk.use_case} --by NAME"


def _go_on(desk: Desk, release: Release) -> Step:
    """Some users first, if the use case wants that and there is a champion beside it; else everybody."""
    server = _server_of(desk, release)
    rival = desk.endpoint.client().health().table.champion
    if rival is None or rival.state != "loaded" or rival.version == release.version:
        why = PASSED if release.canary is None else f"{PASSED}, and no other version answers beside it"
        return replace(_promoted(desk, release, why=why), server=server)
    held = release.model_copy(update={"rival": rival.version})
    if held.canary is None:
        return replace(_promoted(desk, held, why=PASSED), server=server)
    _offer(desk, held, canary=True)
    begun = _write(desk, held, "canary", by=held.by, reason=held.reason or PASSED)
    return Step("canary", f"canary begins: {_share(begun)}", begun.version, begun, champion=begun.rival, server=server)


def _share(release: Release) -> str:
    canary = release.canary
    assert canary is not None
    bounds = f"{canary.answers} requests or {canary.minutes:g} minutes"
    return f"{release.name} gets {canary.share:.0%} beside version {release.rival}, until {bounds}"


def _offer(desk: Desk, release: Release, *, canary: bool) -> None:
    """Have the endpoint hold the version ready; as a canary, give it to some."""
    share = None if release.canary is None or not canary else Canary(version=release.version, share=release.canary.share)
    desk.endpoint.client().sync(SyncRequest(versions=(release.offered,), aliases={CHALLENGER: release.version}, canary=share))


def _promoted(desk: Desk, release: Release, *, why: str, decision: Decision | None = None) -> Step:
    """Registry first, endpoint after it; until then the old champion answers, and from then on the new one."""
    _offer(desk, release, canary=False)
    promote(desk.registry, release.version)
    client = desk.endpoint.client()
    # As the registry has it: a promotion that was broken off here says the same when it is made again.
    before = desk.registry.aliases().get(PREVIOUS)
    known = None if before is None else client.health().table.version(before)
    ready = known is not None and known.state == "loaded" and before != release.version
    aliases = {CHAMPION: release.version} | ({PREVIOUS: before} if ready and before is not None else {})
    client.sync(SyncRequest(versions=(release.offered,), aliases=aliases, drop=() if ready else (PREVIOUS,), end_canary=True))
    reason = "; ".join(filter(None, [release.reason, why]))
    watched = release.watch is not None and ready and release.rival == before
    state: State = "watch" if watched else "kept"
    done = _write(desk, release, state, by=release.by, reason=reason)
    return Step("promote", f"{release.name} is champion: {reason}", release.version, done, decision, champion=release.version)


def promote(registry: ModelRegistry, version: int) -> None:
    """Let the registry say who was champion before, and who is now; broken off between the two, nothing has changed for anybody."""
    champion = registry.aliases().get(CHAMPION)
    if champion == version:
        return
    if champion is not None:
        registry.point(PREVIOUS, champion)
    registry.point(CHAMPION, version)


def _champion_of(release: Release) -> int | None:
    return release.version if release.state in ("watch", "kept") else release.rival


def _arm_of(desk: Desk, release: Release, *, new: bool) -> Sequence[Logged]:
    """Requests of one of the two versions: in a canary both at the same time, in a watch the old ones from before it."""
    if release.state == "canary":
        arm, version = ("canary", release.version) if new else ("champion", release.rival)
        return desk.log.window(MOST_ROWS, arm=arm, versions=[str(version)], since=release.since)
    if new:
        return desk.log.window(MOST_ROWS, versions=[str(release.version)], since=release.since)
    before = desk.log.window(MOST_ROWS, versions=[str(release.rival)])
    return [logged for logged in before if logged.request.ts < release.since]


def _overtaken(desk: Desk, release: Release) -> Step | None:
    """What follows when somebody has moved the champion's alias in the registry, and with it the endpoint, past the release."""
    table = desk.table()
    champion = None if table is None or table.champion is None else table.champion.version
    if champion is None or champion == _champion_of(release):
        return None
    if champion == release.version:
        return _promoted(
            desk, release.model_copy(update={"by": "the model registry", "reason": ""}), why="made champion in the model registry"
        )
    said = f"version {champion} was made champion in the model registry"
    over = _write(desk, release, "rolled_back", by="the model registry", reason=said)
    return Step("roll_back", said, release.version, over, champion=champion, everybody_had=release.state == "watch")


def _carried_out(desk: Desk, release: Release, decision: Decision) -> Step:
    if decision.does == "wait":
        if decision.looks != release.looks:
            desk.book.looked(release, decision.looks)
        return Step("wait", f"{release.name}: {decision.reason}", release.version, release, decision, champion=_champion_of(release))
    if decision.does == "keep":
        kept = _write(desk, release, "kept", by=release.state, reason=decision.reason)
        return Step("keep", f"{release.name} stays champion: {decision.reason}", release.version, kept, decision, champion=release.version)
    if decision.does == "promote":
        ready = release.model_copy(update={"by": "canary", "reason": ""})
        return _promoted(desk, ready, why=decision.reason, decision=decision)
    if release.state == "canary":
        return _withdrawn(desk, release, by="canary", reason=decision.reason, decision=decision)
    assert release.rival is not None
    _back_to(desk, release.rival, instead_of=release.version)
    back = _write(desk, release, "rolled_back", by="watch", reason=decision.reason)
    return Step("roll_back", decision.reason, release.version, back, decision, champion=release.rival, everybody_had=True)


def _withdrawn(desk: Desk, release: Release, *, by: str, reason: str, decision: Decision | None = None) -> Step:
    """A version that not everybody has yet gets nobody any more; the champion was the same all the time."""
    _tell(desk, SyncRequest(end_canary=True))
    back = _write(desk, release, "rolled_back", by=by, reason=reason)
    return Step("roll_back", reason, release.version, back, decision, champion=release.rival)


def _back_to(desk: Desk, version: int, *, instead_of: int) -> None:
    """The version before is champion again, and the other stays loaded, for whoever wants to look at it."""
    desk.registry.point(CHAMPION, version)
    desk.registry.point(CHALLENGER, instead_of)
    desk.registry.forget(PREVIOUS)
    _tell(desk, SyncRequest(aliases={CHAMPION: version, CHALLENGER: instead_of}, drop=(PREVIOUS,), end_canary=True))


def _tell(desk: Desk, wished: SyncRequest) -> None:
    """Tell the endpoint; while it does not run, write it into the table that it starts from."""
    try:
        desk.endpoint.client().sync(wished)
    except NotRunning:
        path = desk.endpoint.folder / VERSIONS_FILE
        if path.exists():
            table = Table.read(path)
            kept = {alias: number for alias, number in table.aliases.items() if alias not in wished.drop}
            table.model_copy(update={"aliases": kept | wished.aliases, "canary": None}).write(path)


def _write(desk: Desk, release: Release, state: State, *, by: str, reason: str) -> Release:
    found = release.model_copy(update={"state": state, "since": desk.now(), "by": by, "reason": reason, "looks": 0, "told": False})
    desk.book.write(found)
    return found
