"""The artifact store: `<root>/<use case>/<asset>/<fingerprint>/`, finished when `manifest.json` is there.

`current.json` beside the fingerprints names the artifact that downstream assets read; it is moved by whoever builds or reuses one,
so lineage never depends on the newest file of a folder. The root is a local folder or a URL that fsspec knows (s3, gs, abfs, memory).
"""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from re import fullmatch
from typing import Any
from uuid import uuid4

from upath import UPath

from fine_tune_pipeline.artifacts.checksums import MANIFEST, differing
from fine_tune_pipeline.artifacts.fingerprint import Payload, changes, file_sha256, fingerprint, payload
from fine_tune_pipeline.artifacts.looks import FOLDER, Looks
from fine_tune_pipeline.artifacts.manifest import Built, Manifest

PARTS, DRAFT, TWIN = ".parts-", ".draft-", ".twin-"
UNFINISHED_KEPT_SECONDS = 7 * 24 * 3600
CURRENT = "current.json"


def in_store(path: Path) -> bool:
    """Whether it lies in an artifact, finished or being built: then it is the store's own file, and nobody else's."""
    return any(
        folder.name.startswith((DRAFT, PARTS, TWIN)) or (fullmatch("[0-9a-f]{16}", folder.name) and (folder / MANIFEST).is_file())
        for folder in (path, *path.parents)
    )


class MissingArtifact(Exception):
    """An upstream asset has not been made yet."""

    def __init__(self, use_case: str, asset: str) -> None:
        super().__init__(f"{use_case}/{asset}: nothing in the store, want a finished artifact. Materialize {asset} first.")


class FailedUpstream(Exception):
    """An upstream asset exists, but a blocking check of it failed."""

    def __init__(self, manifest: Manifest) -> None:
        said = "; ".join(f"{check.name}: {check.description}" for check in manifest.failed)
        super().__init__(f"{manifest.use_case}/{manifest.asset} {manifest.fingerprint}: failed its check {said}")


class UnknownVersion(Exception):
    """A fingerprint names no artifact of an asset, or several."""


class StoreNotWritable(Exception):
    """Nothing can be written where the store is to be."""


class DamagedArtifact(Exception):
    """A file of a finished artifact is missing or not what the manifest says."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, readable under `folder` (a local copy when the store is remote)."""

    manifest: Manifest
    folder: Path

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def metadata(self) -> dict[str, Any]:
        return self.manifest.built.metadata

    def file(self, name: str) -> Path:
        """A file of the artifact; an absent one is damage, since the manifest was written last."""
        path = self.folder / name
        if not path.exists():
            raise DamagedArtifact(
                f"{path}: not there, though {MANIFEST} says the artifact is whole. Delete {self.folder} and materialize again."
            )
        return path

    def json(self, name: str) -> Any:
        return json.loads(self.file(name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Store:
    """Artifacts below one root."""

    root: UPath
    cache: Path | None = None

    @classmethod
    def at(cls, url: str, cache: Path | None = None) -> "Store":
        """Open a store; nothing is created until something is written."""
        return cls(root=UPath(url).absolute() if "://" not in url else UPath(url), cache=cache)

    @property
    def looks(self) -> Looks:
        """How often test items have been looked at."""
        return Looks(self.root / FOLDER)

    def find(self, use_case: str, asset: str, print_: str) -> Artifact | None:
        """The finished artifact with this fingerprint, if there is one."""
        place = self.root / use_case / asset / print_
        if not (place / MANIFEST).exists():
            return None
        manifest = Manifest.model_validate_json((place / MANIFEST).read_text(encoding="utf-8"))
        return Artifact(manifest=manifest, folder=self._local(place, manifest))

    def damage(self, artifact: Artifact) -> list[str]:
        """Every file of an artifact that is missing or has another content than its manifest says; all bytes are read for it."""
        return [wrong.file for wrong in differing(artifact.folder, artifact.manifest.files)]

    def current(self, use_case: str, asset: str, *, passed: bool = True) -> Artifact:
        """The artifact that downstream assets read.

        Raises:
            MissingArtifact: it was never made.
            FailedUpstream: a blocking check failed and `passed` is wanted.
        """
        artifact = self.peek(use_case, asset)
        if artifact is None:
            raise MissingArtifact(use_case, asset)
        if passed and artifact.manifest.failed:
            raise FailedUpstream(artifact.manifest)
        return artifact

    def peek(self, use_case: str, asset: str) -> Artifact | None:
        """Like `current`, but None when there is nothing, and failed checks do not matter."""
        pointer = self.root / use_case / asset / CURRENT
        if not pointer.exists():
            return None
        return self.find(use_case, asset, json.loads(pointer.read_text(encoding="utf-8"))["fingerprint"])

    def history(self, use_case: str, asset: str) -> list[Manifest]:
        """Manifests of all finished artifacts of an asset, oldest first."""
        place = self.root / use_case / asset
        found = [folder / MANIFEST for folder in place.iterdir() if (folder / MANIFEST).exists()] if place.exists() else []
        manifests = [Manifest.model_validate_json(path.read_text(encoding="utf-8")) for path in found]
        return sorted(manifests, key=lambda manifest: manifest.made_at)

    def version(self, use_case: str, asset: str, beginning: str) -> Artifact:
        """The finished artifact whose fingerprint begins so.

        Raises:
            UnknownVersion: names those that there are.
        """
        there = [manifest.fingerprint for manifest in self.history(use_case, asset)]
        found = [self.find(use_case, asset, print_) for print_ in there if print_.startswith(beginning)]
        if len(found) == 1 and found[0] is not None:
            return found[0]
        many = "several versions begin" if found else "no version begins"
        raise UnknownVersion(f"{use_case}/{asset}: {many} with {beginning!r}; there are {', '.join(there) or 'none'} (oldest first)")

    def before(self, artifact: Artifact) -> Artifact | None:
        """The version of the same asset that was made before this one, if it is still there."""
        of, asset = artifact.manifest.use_case, artifact.manifest.asset
        earlier = [manifest for manifest in self.history(of, asset) if manifest.made_at < artifact.manifest.made_at]
        return self.find(of, asset, earlier[-1].fingerprint) if earlier else None

    def changed(self, use_case: str, new: Payload) -> list[str]:
        """What differs from the current artifact of the same asset; empty if there is none."""
        before = self.peek(use_case, new["asset"])
        return [] if before is None else changes(before.manifest.payload, new)

    def note(self, use_case: str, kind: str, name: str, document: Mapping[str, Any]) -> None:
        """Keep a fact beside the artifacts: seen by later runs of all use cases, part of no fingerprint."""
        self._write_text(self.root / use_case / kind / f"{name}.json", json.dumps(document, indent=2))

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """All notes of that kind, of all use cases."""
        folders = [place / kind for place in self.root.iterdir()] if self.root.exists() else []
        files = [file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.suffix == ".json"]
        return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(files, key=str)]

    def page(self, use_case: str, name: str, text: str) -> UPath:
        """Write a page that can be made again from the artifacts; where it lies: beside them, part of none."""
        self._write_text(self.root / use_case / name, text)
        return self.root / use_case / name

    def use(self, artifact: Artifact) -> None:
        """Make this the artifact that downstream assets read."""
        place = self.root / artifact.manifest.use_case / artifact.manifest.asset
        self._write_text(place / CURRENT, json.dumps({"fingerprint": artifact.fingerprint}))

    @contextmanager
    def draft(self, use_case: str, content: Payload) -> Iterator["Draft"]:
        """A folder to build an artifact in; it disappears unless `Draft.finish` is called, whatever happens."""
        print_ = fingerprint(content)
        folder = self._near(use_case, content["asset"]) / f"{DRAFT}{print_}-{uuid4().hex[:8]}"
        folder.mkdir()
        try:
            yield Draft(store=self, use_case=use_case, content=content, folder=folder, started=time.monotonic())
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def parts(self, use_case: str, content: Payload) -> Iterator[Path]:
        """A folder for long work on one artifact: gone after success, but kept (a week at most) when the work breaks off, so that the
        next try can go on. A run that builds the same at the same time gets one of its own."""
        parent = self._near(use_case, content["asset"])
        folder = parent / f"{PARTS}{use_case}-{content['asset']}-{fingerprint(content)}"
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with tempfile.TemporaryDirectory(prefix=TWIN, dir=parent) as own:
                    yield Path(own)
                return
            yield folder
            shutil.rmtree(folder, ignore_errors=True)

    def _near(self, use_case: str, asset: str) -> Path:
        """A local folder to build in: beside the artifacts, so that they can be moved to their place, unless these are remote."""
        folder = Path(str(self.root / use_case / asset)) if self._is_local() else Path(tempfile.gettempdir())
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreNotWritable(
                f"the store {self.root} cannot be written ({error}): make room or give yourself the right to write there, or set "
                "FINE_TUNE_PIPELINE_STORE or FINE_TUNE_PIPELINE_HOME to a folder where you may"
            ) from error
        _forget_unfinished(folder)
        return folder

    def publish(self, draft: "Draft", manifest: Manifest) -> Artifact:
        """Move a draft to its place, the manifest last; one that is there already (a twin run was faster, or it is damaged) is replaced."""
        place = self.root / manifest.use_case / manifest.asset / manifest.fingerprint
        if self._is_local():
            (draft.folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
            _replace_folder(draft.folder, Path(str(place)))
        else:
            if place.exists():
                place.rmdir(recursive=True)
            for name in manifest.files:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes((draft.folder / name).read_bytes())
            self._write_text(place / MANIFEST, manifest.model_dump_json(indent=2))
        return Artifact(manifest=manifest, folder=self._local(place, manifest))

    def _is_local(self) -> bool:
        return self.root.protocol in ("", "file", "local")

    def _local(self, place: UPath, manifest: Manifest) -> Path:
        if self._is_local():
            return Path(str(place))
        cache = self.cache or Path(tempfile.gettempdir()) / "fine_tune_pipeline_cache"
        folder = cache / manifest.use_case / manifest.asset / manifest.fingerprint
        for name, digest in manifest.files.items():
            path = folder / name
            if path.exists() and file_sha256(path) == digest:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
            partial.write_bytes((place / name).read_bytes())
            os.replace(partial, path)
        return folder

    def _write_text(self, path: UPath, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._is_local():
            path.write_text(text, encoding="utf-8")
            return
        partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(str(partial), str(path))


@dataclass(frozen=True)
class Draft:
    """An artifact being built."""

    store: Store
    use_case: str
    content: Payload
    folder: Path
    started: float

    def finish(self, built: Built) -> Artifact:
        """Seal the folder: hash its files, write the manifest, move it to its place, make it current."""
        manifest = Manifest(
            use_case=self.use_case,
            asset=self.content["asset"],
            fingerprint=fingerprint(self.content),
            payload=self.content,
            seconds=round(time.monotonic() - self.started, 3),
            files={str(path.relative_to(self.folder)): file_sha256(path) for path in sorted(self.folder.rglob("*")) if path.is_file()},
            built=built,
        )
        artifact = self.store.publish(self, manifest)
        self.store.use(artifact)
        return artifact


def _forget_unfinished(parent: Path) -> None:
    """What killed runs left, and work that nobody came back for."""
    for folder in parent.iterdir():
        if not folder.name.startswith((PARTS, DRAFT, TWIN)):
            continue
        # Another run may be clearing up too.
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > UNFINISHED_KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def content_of(*, asset: str, version: int, what: Mapping[str, Any], upstream: Mapping[str, Artifact]) -> Payload:
    """The payload of an asset whose inputs are these artifacts."""
    return payload(asset=asset, version=version, what=what, upstream={name: artifact.fingerprint for name, artifact in upstream.items()})


def _replace_folder(new: Path, place: Path) -> None:
    """Rename `new` to `place`; a folder that stands there is moved away first and deleted after."""
    if place.exists():
        old = place.with_name(f".old-{place.name}-{uuid4().hex[:8]}")
        os.replace(place, old)
        os.replace(new, place)
        shutil.rmtree(old)
    else:
        os.replace(new, place)
