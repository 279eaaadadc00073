"""All sources become examples, each row at least one or in the quarantine, with ids that stay; documents become chunks beside them."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.sources.documents import OpenedDocuments, collected_documents, opened_documents
from fine_tune_pipeline.guide.dataset.sources.opened import Opened, opened
from fine_tune_pipeline.guide.dataset.sources.rows import Row, canonical
from fine_tune_pipeline.guide.dataset.sources.shape import UNANSWERED_END, Shape
from fine_tune_pipeline.guide.dataset.steps import Step, made, write_step
from fine_tune_pipeline.spec.use_case import UseCaseSpec

FEEDBACK = "production_feedback"
"""Source of the examples that people corrected at the endpoint."""


class EmptySource(ValueError):
    """A source holds no rows at all."""


class NoExamples(ValueError):
    """Not one row of a source became an example."""


@dataclass(frozen=True)
class Gathered:
    """Everything that goes in: sources for training, sources kept apart for the test, corrections from production, documents."""

    sources: Sequence[Opened]
    held_out: Sequence[Opened]
    corrections: Sequence[Mapping[str, str]] = ()
    documents: Sequence[OpenedDocuments] = ()

    def what(self) -> dict[str, Any]:
        """What decides the output, by its place in the YAML: columns, templates and content, never a path or a URL."""
        parts = {"dataset.sources": self.sources, "dataset.held_out": self.held_out}
        slices: dict[str, Any] = {name: [_slice(source) for source in sources] for name, sources in parts.items()}
        text = json.dumps([dict(row) for row in self.corrections], sort_keys=True, ensure_ascii=False)
        slices["dataset.documents"] = [source.what() for source in self.documents]
        slices["dataset.feedback"] = hashlib.sha256(text.encode("utf-8")).hexdigest() if self.corrections else None
        return slices


def gather(spec: UseCaseSpec, *, corrections: Sequence[Mapping[str, str]] = ()) -> Gathered:
    """Look at all sources of a use case.

    Raises:
        MissingSource, UnreadableSource, NoDatabaseUrl, FailedQuery: names the field of the source.
    """
    both = {"sources": spec.dataset.sources, "held_out": spec.dataset.held_out}
    found = {
        name: [opened(source, locate=spec.place, field=f"dataset.{name}[{number}]") for number, source in enumerate(sources)]
        for name, sources in both.items()
    }
    documents = [
        opened_documents(source, locate=spec.place, field=f"dataset.documents[{number}]")
        for number, source in enumerate(spec.dataset.documents)
    ]
    taken = corrections if spec.dataset.feedback else ()
    return Gathered(sources=found["sources"], held_out=found["held_out"], corrections=taken, documents=documents)


def collected(gathered: Gathered, folder: Path, *, seed: int) -> Built:
    """Write the examples of all sources and the chunks of all documents into `folder`.

    Raises:
        NoExamples, NoDocuments: not one row of a source became an example, not one document chunks; names the first reasons.
        BrokenTemplate, ReservedColumn, UnstatedLayout, EmptySource: names the source and the field.
    """
    parts = [collect(source, held_out=False, seed=seed) for source in gathered.sources]
    parts += [collect(source, held_out=True, seed=seed) for source in gathered.held_out]
    kept, renamed = unique([example for part in parts for example in part.examples] + [_corrected(row) for row in gathered.corrections])
    quarantine = [row for part in parts for row in part.quarantine]
    table = [part.shown() for part in parts] + _feedback_shown(gathered.corrections)
    fixed = {"id_made_unique": renamed, UNANSWERED_END: sum(part.unanswered_ends for part in parts)}
    documents = collected_documents(gathered.documents, folder) if gathered.documents else {}
    notes = {"sources": table, **({"documents": documents["document_sources"]} if documents else {})}
    step = made("collect", kept=kept, quarantine=quarantine, fixed={name: rows for name, rows in fixed.items() if rows}, notes=notes)
    write_step(folder, step, examples=kept, quarantine=quarantine, before=[])
    return Built(metadata={**_metadata(step, kept, table), **documents})


@dataclass(frozen=True)
class Collected:
    """One source's examples and the rows that could not become one; `rows` is what the source holds, `taken` what a sample leaves of it."""

    source: Opened
    held_out: bool
    rows: int
    taken: int
    examples: list[Example]
    quarantine: list[Quarantined]
    unanswered_ends: int

    def shown(self) -> dict[str, Any]:
        """A line of the table of sources."""
        return {
            "source": self.source.name,
            "held_out": self.held_out,
            "rows": self.rows,
            "taken": self.taken,
            "examples": len(self.examples),
            "quarantined": len(self.quarantine),
            "licence": self.source.source.licence or "not stated",
        }


def collect(opened_source: Opened, *, held_out: bool, seed: int) -> Collected:
    """Examples of one source.

    Raises:
        BrokenTemplate, ReservedColumn, UnstatedLayout, EmptySource, NoExamples: names the source and the field.
    """
    shape = Shape.of(opened_source, held_out=held_out)
    rows = list(opened_source.rows())
    if not rows:
        raise EmptySource(f"{opened_source.place}: holds no rows; bring some, or take the source out")
    if first := next((row for row in rows if row.columns is not None), None):
        shape.check(first)
    sample = opened_source.source.sample
    taken = rows if sample is None else sampled(rows, sample, seed=seed)
    shaped = [shape.examples(row) for row in tqdm(taken, desc=f"collect {opened_source.name}", unit="row", disable=None)]
    examples = [example for one in shaped for example in one.examples]
    quarantine = [one.refused for one in shaped if one.refused is not None]
    if not examples:
        reasons = "; ".join(f"{row.reason}: {row.detail}" for row in quarantine[:3])
        raise NoExamples(f"{opened_source.place}: none of {len(taken)} rows became an example. {reasons}")
    unanswered_ends = sum(one.unanswered_end for one in shaped)
    return Collected(opened_source, held_out, len(rows), len(taken), examples, quarantine, unanswered_ends)


def sampled(rows: Sequence[Row], count: int, *, seed: int) -> list[Row]:
    """So many rows, in their own order. Which ones depends on the seed and their content only, so a row keeps its place when data grows."""
    ranked = sorted(range(len(rows)), key=lambda place: (hashlib.sha256(f"{seed}:{rows[place].sha256}".encode()).digest(), place))
    return [rows[place] for place in sorted(ranked[:count])]


def unique(examples: Sequence[Example]) -> tuple[list[Example], int]:
    """The examples with ids of their own, and how many were renamed: the second `7` becomes `7-2`, and keeps `7` in its metadata."""
    taken = {example.id for example in examples}
    seen: Counter[str] = Counter()
    result = []
    for example in examples:
        seen[example.id] += 1
        if seen[example.id] == 1:
            result.append(example)
            continue
        number = seen[example.id]
        while f"{example.id}-{number}" in taken:
            number += 1
        taken.add(f"{example.id}-{number}")
        metadata = {**example.metadata, "original_id": example.id}
        result.append(replace(example, id=f"{example.id}-{number}", metadata=metadata))
    return result, sum(times - 1 for times in seen.values())


def _corrected(row: Mapping[str, str]) -> Example:
    # The endpoint's ids are random: by them the same corrections would fall into other parts of the dataset each time.
    texts = {name: row[name] for name in ("prompt", "completion", "before") if row.get(name)}
    id_ = hashlib.sha256(canonical(texts).encode("utf-8")).hexdigest()[:16]
    before = json.loads(row["before"]) if row.get("before") else {}
    metadata = {"model_version": str(row["version"]), "request_id": row["id"]}
    return Example(id=id_, prompt=row["prompt"], completion=row["completion"], source=FEEDBACK, metadata=metadata, **before)


def _slice(source: Opened) -> dict[str, Any]:
    columns = source.source.model_dump(mode="json", exclude={"path", "url_variable"})
    return {**columns, "name": source.name, "sha256": source.sha256}


def _feedback_shown(corrections: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    rows = len(corrections)
    line = {
        "source": FEEDBACK,
        "held_out": False,
        "rows": rows,
        "taken": rows,
        "examples": rows,
        "quarantined": 0,
        "licence": "own traffic",
    }
    return [line] if rows else []


def _metadata(step: Step, kept: Sequence[Example], table: list[dict[str, Any]]) -> dict[str, Any]:
    held_out = sum(example.held_out for example in kept)
    return {
        **step.metadata(before=[]),
        "held_out": held_out,
        "corrections": sum(example.source == FEEDBACK for example in kept),
        "sources": table,
    }
