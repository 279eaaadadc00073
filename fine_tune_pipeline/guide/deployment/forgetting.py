"""Traffic that must go: old requests, and those of one user; and where copies of them lie in the store."""

import json
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upath import UPath

from fine_tune_pipeline.artifacts.checksums import MANIFEST
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.artifacts.traffic_identity import keyed_hash, known_salt
from fine_tune_pipeline.artifacts.traffic_removal import Removed, expire, forget, of_user
from fine_tune_pipeline.programs.serving.trace_copy import delete_traces_before, delete_traces_of
from fine_tune_pipeline.spec.traffic import TrafficSpec

DAY_SECONDS = 24 * 3600
OBSERVED = ("production_traffic", "drift_report")
"""Assets that look at the log and are made anew whenever they are asked for: their artifacts can go."""

_REQUEST_ID = re.compile(rb"[a-z]+-[0-9a-f]{32}")
_PARQUET = ".parquet"


@dataclass(frozen=True)
class Copy:
    """An artifact that holds rows of the log."""

    asset: str
    folder: UPath
    requests: int

    @property
    def observed(self) -> bool:
        return self.asset in OBSERVED


@dataclass(frozen=True)
class Forgotten:
    """What of a user was in the log, which copies there are, and which of these were deleted; `traces` are those of MLflow."""

    removed: Removed
    copies: tuple[Copy, ...]
    deleted: tuple[Copy, ...] = ()
    traces: int = 0


def expired(log: TrafficLog, traffic: TrafficSpec, *, use_case: str, mlflow: str | None = None, now: float | None = None) -> Removed:
    """Delete what is older than the use case keeps it, in the log and among its traces in MLflow; nothing where it keeps everything."""
    if traffic.retention_days is None:
        return Removed()
    before = (time.time() if now is None else now) - traffic.retention_days * DAY_SECONDS
    if traffic.mlflow_share and mlflow is not None:
        delete_traces_before(mlflow, use_case, ts=before)
    return expire(log, before=before)


def forgotten(
    log: TrafficLog, store: Store, *, use_case: str, user: str, state: Path, mlflow: str | None = None, copies: bool = False,
    dry_run: bool = False,
) -> Forgotten:  # fmt: skip
    """Delete a user's requests and feedback from the log.

    Args:
        mlflow: where copies of the traffic lie as traces, which go too; None if there are none.
        user: as `user` of their requests, or as `source` of their feedback.
        state: folder of the endpoint, which has the key of the hashes.
        copies: delete artifacts of observed assets that hold their rows, too.
        dry_run: delete nothing.

    Raises:
        NoSalt, ShortSalt: the key of the hashes is not known, so nobody can be found.
        LogFailed: the log can't be read or written.
    """
    user_hash = keyed_hash(user, salt=known_salt(state))
    there = of_user(log, user_hash=user_hash, name=user)
    # Before they go, since copies are known by the ids.
    found = tuple(copies_of(store, use_case, there.requests))
    if dry_run:
        return Forgotten(removed=there, copies=found)
    traces = 0 if mlflow is None else delete_traces_of(mlflow, use_case, there.requests)
    removed = forget(log, user_hash=user_hash, name=user)
    deleted = tuple(copy for copy in found if copies and copy.observed)
    for copy in deleted:
        copy.folder.rmdir(recursive=True)
    return Forgotten(removed=removed, copies=found, deleted=deleted, traces=traces)


def copies_of(store: Store, use_case: str, requests: Collection[str]) -> Iterator[Copy]:
    """Finished artifacts of a use case with rows of these requests, and drift reports on such snapshots, which quote some."""
    ids, snapshots = {each.encode("ascii", "replace") for each in requests}, set()
    place = store.root / use_case
    if not ids or not place.exists():
        return
    # Snapshots first: reports say which one they are on.
    for folder in sorted(place.glob(f"*/*/{MANIFEST}"), key=lambda path: (path.parent.parent.name not in OBSERVED[:1], str(path))):
        artifact, asset = folder.parent, folder.parent.parent.name
        number = len(ids & set(_ids_in(artifact)))
        if number and asset == OBSERVED[0]:
            snapshots.add(artifact.name)
        if number or (asset == OBSERVED[1] and _upstream(folder).get(OBSERVED[0]) in snapshots):
            yield Copy(asset=asset, folder=artifact, requests=number)


def _ids_in(artifact: UPath) -> Iterator[bytes]:
    for path in artifact.rglob("*"):
        if path.suffix == _PARQUET:
            yield from _ids_of_parquet(path)
        elif path.suffix in (".json", ".jsonl", ".csv", ".md", ".html") and path.name != MANIFEST:
            yield from _REQUEST_ID.findall(path.read_bytes())


def _ids_of_parquet(path: UPath) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as stream:
        table = pq.read_table(stream)
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            yield from (match for value in column.to_pylist() if value for match in _REQUEST_ID.findall(value.encode("utf-8")))


def _upstream(manifest: UPath) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["payload"]["upstream"]
    return found
