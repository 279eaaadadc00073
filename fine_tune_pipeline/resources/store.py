"""The artifact store as a Dagster resource: reuse what is there, build what is not, say which."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from fine_tune_pipeline.artifacts.fingerprint import fingerprint
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Draft, Store, content_of
from fine_tune_pipeline.resources.orphans import claim, end_orphans


@dataclass(frozen=True)
class Kept:
    """An artifact, and whether it was made now; `changed` names what differs from the one before it."""

    artifact: Artifact
    reused: bool
    changed: tuple[str, ...] = ()


def _told(context: dg.AssetExecutionContext, kept: Kept) -> Kept:
    """Say why checks failed: Dagster's log has that among its debug messages only."""
    for check in kept.artifact.manifest.failed:
        context.log.error(f"{kept.artifact.manifest.asset}: {check.name}: {check.description}")
    return kept


CALIBRATION = "calibration"


def told(changed: Sequence[str]) -> list[str]:
    """What changed, for people: what earlier trainings taught is one word, and comes last."""
    named = [name for name in changed if name.split(".")[0] != CALIBRATION]
    return named if len(named) == len(changed) else [*named, CALIBRATION]


class ArtifactStore(dg.ConfigurableResource):
    """Finished artifacts below a folder or a URL (s3, gs, abfs)."""

    url: str = Field(description="Folder, or URL that fsspec knows.")
    reviews: str = Field(description="Folder of hand-outs to people and of what they hand in.")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Opened before any step of a run waits for a pool slot: the time to free slots that a dead run holds."""
        if context.instance is None or context.run is None:
            return
        for run_id in end_orphans(context.instance):
            dg.get_dagster_logger().warning(f"run {run_id} had lost its process; marked failed, its pool slots are free")
        claim(context.instance, context.run)

    def open(self) -> Store:
        """The plain store, for code that knows no Dagster."""
        return Store.at(self.url)

    @property
    def review_root(self) -> Path:
        return Path(self.reviews)

    def current(self, use_case: str, asset: str) -> Artifact:
        """The artifact that the upstream asset made last; refused when it is missing or failed a blocking check."""
        return self.open().current(use_case, asset)

    def made(
        self,
        context: dg.AssetExecutionContext,
        *,
        version: int,
        what: Mapping[str, Any],
        build: Callable[[Path], Built] | None = None,
        build_in_parts: Callable[[Path, Path], Built] | None = None,
        upstream: Mapping[str, Artifact] | None = None,
        observed: bool = False,
        retry_failed: bool = False,
        whole: bool = False,
        foreseen: Callable[[], str | None] | None = None,
    ) -> Kept:
        """The artifact of the asset of `context`, reused if an artifact with the same fingerprint is finished, else built.

        Args:
            version: number of the step's own rule; raise it when the same input gives another output.
            what: the slices of the spec (named as in the YAML, such as `dataset.pii`) and content hashes that decide the output.
            build: writes files into the folder it is given; what it raises leaves nothing behind.
            build_in_parts: instead, for long work: gets a second folder, which stays when the work breaks off, for the next try.
            upstream: the artifacts that it reads, by asset name.
            observed: it looks at the living world, so it is never reused.
            retry_failed: an artifact that failed a blocking check is built again, since its cause (a full disk) is not in the fingerprint.
            whole: every file of an artifact is hashed again before it is reused; a damaged one is built again.
            foreseen: why a blocking check of what would be built must fail, if that is known before; only a rehearsal asks.
        """
        use_case, asset = context.asset_key.path
        store = self.open()
        seen = {"observed_at": datetime.now(UTC).isoformat()} if observed else {}
        content = content_of(asset=asset, version=version, what={**what, **seen}, upstream=upstream or {})
        content_print = fingerprint(content)
        found = store.find(use_case, asset, content_print)
        damage = store.damage(found) if found is not None and whole else []
        if damage:
            context.log.warning(f"{asset}: {', '.join(damage)} of {content_print} are not what its manifest says; built again")
        if found is not None and not damage and not (retry_failed and found.manifest.failed):
            store.use(found)
            context.log.info(f"{asset}: reused {found.fingerprint}, nothing that it depends on has changed")
            return _told(context, Kept(artifact=found, reused=True))
        changed = [] if observed else store.changed(use_case, content)
        context.log.info(f"{asset}: building; " + (f"changed: {', '.join(told(changed))}" if changed else "not in the store yet"))
        with store.draft(use_case, content) as draft:
            artifact = self._finished(draft, build, build_in_parts)
        return _told(context, Kept(artifact=artifact, reused=False, changed=tuple(told(changed))))

    @staticmethod
    def _finished(draft: Draft, build: Callable[[Path], Built] | None, build_in_parts: Callable[[Path, Path], Built] | None) -> Artifact:
        if build is not None:
            return draft.finish(build(draft.folder))
        assert build_in_parts is not None, "either build or build_in_parts"
        # The parts go when the artifact is in its place, and not before.
        with draft.store.parts(draft.use_case, draft.content) as parts:
            return draft.finish(build_in_parts(draft.folder, parts))
