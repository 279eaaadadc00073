"""Models of the Hugging Face Hub at a pinned commit: looked at by their listing and small files, fetched whole only when chosen.

HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE are the client's own variables and do here what they do there. What the
cache has of a commit is not asked for again. A broken connection goes on where it broke off; of a run that ended, finished files are kept.
"""

import glob
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.guide.base_model.hub_errors import DamagedDownload, hub_errors
from fine_tune_pipeline.guide.base_model.licence_tags import named_licence
from fine_tune_pipeline.guide.base_model.model_files import CONFIG, INDEX, BrokenSafetensors, Shapes, described, header_shapes, usable
from fine_tune_pipeline.guide.base_model.reaching import refuse_without_room

CARD = "README.md"
CACHE = "HF_HUB_CACHE"
TREE_FORMAT = 1
"""Of the client's files of listings; one of another format is not read, and the hub is asked again."""


@dataclass(frozen=True)
class Listed:
    """A file as the hub lists it: large ones by the SHA-256 of their content, small ones by git's hash."""

    bytes: int
    blob: str
    sha256: str | None

    def is_content_of(self, path: Path) -> bool:
        """Whether the file at `path` is this one."""
        if self.sha256 is not None:
            return file_sha256(path) == self.sha256
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == self.blob


@dataclass(frozen=True)
class Repository:
    """One commit of a repository, and what it lists."""

    repo: str
    revision: str
    listing: Mapping[str, Listed]

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    def fetched(self, names: Iterable[str]) -> dict[str, Path]:
        """The named files in the cache, each with the content that the hub lists.

        Raises:
            NoAnswer, UnusableModel, DiskFull, NotWritable, DamagedDownload: by a class of its own for each cause.
        """
        from huggingface_hub import constants, snapshot_download

        wanted = list(names)
        with hub_errors(self.repo, self.revision):
            cache = Path(constants.HF_HUB_CACHE)
            refuse_without_room(sum(self.listing[name].bytes for name in wanted if self._cached(name) is None), cache, variable=CACHE)
            # The names are patterns to the client.
            folder = snapshot_download(self.repo, revision=self.revision, allow_patterns=[glob.escape(name) for name in wanted])
            return {name: self._whole(name, Path(folder) / name) for name in wanted}

    def shapes(self, name: str) -> Shapes:
        """Of the tensors in one file of weights, of which no more than the header is fetched."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import SafetensorsParsingError

        cached = self._cached(name)
        if cached is not None:
            return header_shapes(cached)
        with hub_errors(self.repo, self.revision):
            try:
                header = HfApi().parse_safetensors_file_metadata(self.repo, name, revision=self.revision)
            except SafetensorsParsingError as error:
                raise BrokenSafetensors(f"{self}: {name} is not a safetensors file ({error}); choose another commit") from error
        return {tensor: info.shape for tensor, info in header.tensors.items()}

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def _whole(self, name: str, path: Path) -> Path:
        """The file, fetched once more when its content is not the listed one."""
        from huggingface_hub import hf_hub_download

        if self.listing[name].is_content_of(path):
            return path
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        again = Path(hf_hub_download(self.repo, name, revision=self.revision))
        if self.listing[name].is_content_of(again):
            return again
        raise DamagedDownload(
            f"{self}: {name} came twice with other content than the hub lists; a proxy or mirror on the way (HF_ENDPOINT) may change it"
        )


@dataclass(frozen=True)
class HubFolder:
    """A checked repository. `licence` is what its card names, None when that cannot be compared."""

    at: Repository
    architecture: Architecture
    parameters: int
    context: int
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    licence: str | None

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that is taken over, the same as of a local folder with these files; weights need not be here for it."""
        small = self.at.fetched(name for name in self.files if self.at.listing[name].sha256 is None)
        return {name: self.at.listing[name].sha256 or file_sha256(small[name]) for name in self.files}


def look_at_hub(repo: str, revision: str) -> HubFolder:
    """What lies there, from its listing, its configuration and card, and the headers of its weights.

    Raises:
        NoAnswer: the hub does not answer, or refuses the token.
        UnusableModel: there is no such repository or commit, it asks for consent, or it is no model for this pipeline; pickled weights are
            refused before anything is fetched.
    """
    with hub_errors(repo, revision):
        at = Repository(repo, revision, _listing(repo, revision))
    usable(at.listing, where=str(at))
    small = at.fetched(name for name in (CONFIG, INDEX, CARD) if name in at.listing)
    found = described(at.listing, where=str(at), read=lambda name: small[name].read_bytes(), shapes=at.shapes)
    return HubFolder(
        at=at,
        architecture=found.architecture,
        parameters=found.parameters,
        context=found.context,
        files=found.files,
        left_out=found.left_out,
        licence=named_licence(small[CARD].read_text(encoding="utf-8", errors="replace")) if CARD in small else None,
    )


def _listing(repo: str, revision: str) -> dict[str, Listed]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    kept = _kept_listing(repo, revision)
    if kept is not None:
        return kept
    entries = HfApi().list_repo_tree(repo, recursive=True, revision=revision)
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return {file.path: Listed(file.size, file.blob_id, file.lfs.sha256 if file.lfs is not None else None) for file in files}


def _kept_listing(repo: str, revision: str) -> dict[str, Listed] | None:
    """What the client has kept of an earlier listing, which holds for good, since it is of a commit.

    Read from its file: `get_cached_repo_tree` leaves out the hashes of large files.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    file = folder / "trees" / f"{revision}.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if kept.get("format_version") != TREE_FORMAT:
        return None
    return {name: Listed(entry["size"], entry["blob_id"], entry.get("lfs_sha256")) for name, entry in kept["files"].items()}
