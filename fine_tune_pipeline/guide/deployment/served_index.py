"""What a version looks up: the index that its adapter was trained with, by fingerprint and hash, searched as for the evaluated answers."""

from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.technique.index import ASSET, FILE, PASSAGES, ROOM
from fine_tune_pipeline.programs.passages import index_sha256
from fine_tune_pipeline.programs.serving.contract import Retrieval
from fine_tune_pipeline.spec.use_case import UseCaseSpec


class OtherIndex(Exception):
    """The index in the store is not the one that the adapter was trained with."""


def looked_up(spec: UseCaseSpec) -> tuple[str, ...]:
    """The asset that a version of this use case needs beside its weights, if any."""
    return (ASSET,) if spec.dataset.format.context == "retrieved" else ()


def retrieval_of(index: Artifact, *, adapter: Artifact) -> Retrieval:
    """What the version of this adapter looks up.

    Raises:
        OtherIndex: the adapter was trained with another one, or the index does not say how it was searched.
        DamagedIndex: a file of it is missing.
    """
    where = f"{adapter.manifest.use_case}/{ASSET} {index.fingerprint}"
    trained_with = adapter.manifest.payload["upstream"].get(ASSET)
    if trained_with != index.fingerprint:
        raise OtherIndex(
            f"{where}: the adapter {adapter.fingerprint} was trained with {trained_with or 'none'} and would get other passages; "
            "materialize adapter and what follows it again"
        )
    about = index.json(FILE)
    if PASSAGES not in about or ROOM not in about:
        raise OtherIndex(
            f"{where}: {FILE} has no {PASSAGES} and {ROOM}, so it was made before it could be served; delete its folder and materialize "
            "retrieval_index and what follows it again"
        )
    return Retrieval(fingerprint=index.fingerprint, sha256=index_sha256(index.folder), passages=about[PASSAGES], room_tokens=about[ROOM])
