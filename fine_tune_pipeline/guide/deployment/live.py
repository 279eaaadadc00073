"""Who answers now, and the artifacts that say what it was made for: what `endpoint` writes down each time it changes something."""

from collections.abc import Iterator

from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.programs.requests import Contract

ASSET = "endpoint"
FILE = "endpoint.json"


class Live(Contract):
    """The champion, and the artifacts that say what it was made for: drift is measured against these."""

    version: int
    name: str
    adapter_sha256: str
    dataset: str
    predictions: str


class EndpointRecord(Contract):
    """`endpoint.json`. `live` is who answers afterwards: the new version, or still the old one when the new one failed or only some users
    get it. `candidate` is the version that was tried."""

    url: str | None
    action: str
    tried: int
    live: Live | None
    candidate: Live | None = None


def read_endpoint(artifact: Artifact) -> EndpointRecord:
    """What an artifact of `endpoint` says."""
    return EndpointRecord.read(artifact.file(FILE))


def live_of(store: Store, use_case: str, version: int) -> Live | None:
    """What a version was made for, by the newest artifact of `endpoint` that speaks of it."""
    return next((live for live in _spoken_of(store, use_case) if live.version == version), None)


def _spoken_of(store: Store, use_case: str) -> Iterator[Live]:
    for manifest in reversed(store.history(use_case, ASSET)):
        found = store.find(use_case, ASSET, manifest.fingerprint)
        if found is not None:
            record = read_endpoint(found)
            yield from (live for live in (record.candidate, record.live) if live is not None)
