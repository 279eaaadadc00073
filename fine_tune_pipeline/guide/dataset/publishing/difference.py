"""Two versions of a dataset side by side: rows added, removed, changed or moved to another part, and how the classes have shifted."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.artifacts.store import Artifact, DamagedArtifact, Store, UnknownVersion
from fine_tune_pipeline.guide.dataset.publishing.split import PARTS

CARD_JSON = "card.json"

DATASET = "dataset"
"""Name of the asset."""

NOTHING = "nothing"
"""Name of what a first version is compared with."""

COMPARED: Mapping[str, Sequence[str]] = {
    "prompt": ("prompt",),
    "completion": ("completion",),
    "conversation": ("history", "role", "tools"),
    "rejected": ("rejected",),
}
"""What a row says to a model, by name. What stands beside it (metadata, source, licence) may change without the row being another one."""

_SHOWN_CLASSES = 20


_DIGEST_BYTES = 8

Held = bytes
"""A row of a version: the place of its part in `PARTS` as one byte, and a digest of each thing in `COMPARED`. Two versions of a million
rows lie in memory, so a row is one small object."""


@dataclass(frozen=True)
class Version:
    """What is compared of a version: its rows by id, and its rows of each class."""

    name: str
    rows: Mapping[str, Held]
    classes: Mapping[str, int]


EMPTY = Version(NOTHING, {}, {})


@dataclass(frozen=True)
class Difference:
    """What became of the rows of `before` in `after`.

    `added` and `removed` are ids by part. `changed`: id -> names of what it says otherwise. `renamed`: old id -> new id of a row that says
    the same. `moved`: new id -> the parts it was and is in. `classes`: one row each, largest shift first; `class_shift` is the share of
    the rows that would have to change their class to undo it.
    """

    before: str
    after: str
    added: dict[str, list[str]]
    removed: dict[str, list[str]]
    changed: dict[str, list[str]]
    renamed: dict[str, str]
    moved: dict[str, tuple[str, str]]
    classes: list[dict[str, Any]]
    class_shift: float

    def numbers(self) -> dict[str, Any]:
        """For the web UI, under names that stay."""
        return {
            "compared_with": self.before,
            "rows_added": _count(self.added),
            "rows_removed": _count(self.removed),
            "rows_changed": len(self.changed),
            "rows_moved": len(self.moved),
            "class_shift": self.class_shift,
        }

    def as_json(self) -> dict[str, Any]:
        return {**self.numbers(), **asdict(self)}


def read_version(artifact: Artifact) -> Version:
    """A version of the asset `dataset`.

    Raises:
        DamagedArtifact: a file of it is missing.
    """
    rows = {row["id"]: _held(part, row) for part in PARTS for row in _rows(artifact.file(f"{part}.jsonl"))}
    classes = {name: sum(counts.values()) for name, counts in artifact.json(CARD_JSON)["classes"].items()}
    return Version(artifact.fingerprint, rows, classes)


def difference(before: Version, after: Version) -> Difference:
    """What has changed from one version to the other."""
    gone = [id_ for id_ in before.rows if id_ not in after.rows]
    new = [id_ for id_ in after.rows if id_ not in before.rows]
    renamed = _renamed(before, gone, after, new)
    same = ((id_, id_) for id_ in before.rows if id_ in after.rows)
    kept = [
        (before.rows[old], now, after.rows[now])
        for old, now in chain(same, renamed.items())
        # Nearly all rows are as they were.
        if before.rows[old] != after.rows[now]
    ]
    named = set(renamed.values())
    classes = _classes(before, after)
    return Difference(
        before=before.name,
        after=after.name,
        added=_by_part(after, [id_ for id_ in new if id_ not in named]),
        removed=_by_part(before, [id_ for id_ in gone if id_ not in renamed]),
        changed={id_: names for old, id_, now in kept if (names := _changed(old, now))},
        renamed=renamed,
        moved={id_: (_part(old), _part(now)) for old, id_, now in kept if old[0] != now[0]},
        classes=classes,
        class_shift=sum(abs(row["shift"]) for row in classes) / 2 if before.classes and after.classes else 0.0,
    )


def two_versions(store: Store, use_case: str, before: str | None, after: str | None) -> tuple[Artifact, Artifact]:
    """The versions that these fingerprints name, or their beginnings; by default the one in use, and the one that was made before it.

    Raises:
        MissingArtifact: no dataset has been made yet.
        UnknownVersion: names the versions that there are.
    """
    last = store.current(use_case, DATASET, passed=False) if after is None else store.version(use_case, DATASET, after)
    first = store.before(last) if before is None else store.version(use_case, DATASET, before)
    if first is None:
        raise UnknownVersion(f"{use_case}/{DATASET}: nothing was made before {last.fingerprint}, so there is nothing to compare it with")
    return first, last


def compared(store: Store, artifact: Artifact) -> Built:
    """A version against the one that was made before it, as the web UI shows it; nothing that a fingerprint knows of."""
    previous = store.before(artifact)
    try:
        before = EMPTY if previous is None else read_version(previous)
    except DamagedArtifact as error:
        # The new version is whole: that an old one is not must not stop it.
        return Built(markdown={"difference": f"Cannot be compared with the version before: {error}"})
    found = difference(before, read_version(artifact))
    return Built(metadata=found.numbers(), markdown={"difference": markdown(found)})


def markdown(found: Difference) -> str:
    """For people, on the command line too."""
    if found.before == NOTHING:
        return f"The first version: {_count(found.added):,} rows."
    lines = [f"From {found.before} to {found.after}:", "", "| part | added | removed |", "| --- | --- | --- |"]
    lines += [f"| {part} | {len(found.added[part]):,} | {len(found.removed[part]):,} |" for part in PARTS]
    changed = some(f"{id_} ({' and '.join(names)})" for id_, names in found.changed.items())
    lines += ["", f"- Changed: {changed}"]
    lines += [f"- Renamed, with the same content: {some(f'{old} → {new}' for old, new in found.renamed.items())}"]
    lines += [f"- {_moved(found)}", f"- Classes: {found.class_shift:.1%} of the rows have shifted."]
    shifted = [row for row in found.classes if row["shift"]][:_SHOWN_CLASSES]
    if shifted:
        lines += ["", "| class | rows before | rows after | share before | share after |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {row['class']} | {row['before']:,} | {row['after']:,} | {row['was']:.1%} | {row['is']:.1%} |" for row in shifted]
    return "\n".join(lines)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        yield from (json.loads(line) for line in stream if line.strip())


def _held(part: str, row: Mapping[str, Any]) -> Held:
    return bytes([PARTS.index(part)]) + b"".join(_digest([row.get(field) for field in fields]) for fields in COMPARED.values())


def _digest(values: Sequence[Any]) -> bytes:
    # A field that says nothing is not written, so it counts as absent.
    said = [value or None for value in values]
    return blake2b(json.dumps(said).encode(), digest_size=_DIGEST_BYTES).digest() if any(said) else bytes(_DIGEST_BYTES)


def _part(held: Held) -> str:
    return PARTS[held[0]]


def _changed(old: Held, now: Held) -> list[str]:
    slices = (slice(1 + place * _DIGEST_BYTES, 1 + (place + 1) * _DIGEST_BYTES) for place in range(len(COMPARED)))
    return [name for name, digest in zip(COMPARED, slices, strict=True) if old[digest] != now[digest]]


def _renamed(before: Version, gone: Sequence[str], after: Version, new: Sequence[str]) -> dict[str, str]:
    """Rows that say the same under another id, as when a source has no ids of its own and gained a column."""
    waiting: dict[bytes, list[str]] = {}
    for id_ in reversed(new):
        waiting.setdefault(after.rows[id_][1:], []).append(id_)
    pairs = ((id_, waiting.get(before.rows[id_][1:])) for id_ in gone)
    return {id_: twins.pop() for id_, twins in pairs if twins}


def _by_part(version: Version, ids: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for id_ in ids:
        found[_part(version.rows[id_])].append(id_)
    return found


def _classes(before: Version, after: Version) -> list[dict[str, Any]]:
    totals = [sum(version.classes.values()) or 1 for version in (before, after)]
    rows = []
    for name in dict.fromkeys([*before.classes, *after.classes]):
        was, is_ = before.classes.get(name, 0), after.classes.get(name, 0)
        shares = {"was": was / totals[0], "is": is_ / totals[1]}
        rows.append({"class": name, "before": was, "after": is_, **shares, "shift": shares["is"] - shares["was"]})
    return sorted(rows, key=lambda row: -abs(row["shift"]))


def _moved(found: Difference) -> str:
    if not found.moved:
        return "No row is in another part than before."
    ways = some(f"{id_} ({was} → {is_})" for id_, (was, is_) in found.moved.items())
    return (
        f"**In another part than before: {ways}.** A model trained on the version before has seen what is now tested if a row came from "
        "train; compare models on one version only."
    )


def _count(by_part: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, by_part.values()))
