"""All sources become examples, each row at least one or in the quarantine, with ids that stay; documents become chunks beside them."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.sequences import Chosen, RowFiles
from fine_tune_pipeline.guide.dataset.sources.documents import OpenedDocuments, collected_documents, opened_documents
from fine_tune_pipeline.guide.dataset.sources.opened import Opened, opened
from fine_tune_pipeline.guide.dataset.sources.production import FEEDBACK, Production
from fine_tune_pipeline.guide.dataset.sources.rows import Row
from fine_tune_pipeline.guide.dataset.sources.shape import UNANSWERED_END, Shape
from fine_tune_pipeline.guide.dataset.steps import Step, made, write_step
from fine_tune_pipeline.spec.use_case import UseCaseSpec

_REASONS = 3
"""So many rows are named where none became an example."""


class EmptySource(ValueError):
    """A source holds no rows at all."""


class NoExamples(ValueError):
    """Not one row of a source became an example."""


@dataclass(frozen=True)
class Gathered:
    """Everything that goes in: sources for training, sources kept apart for the test, rows from production, documents."""

    sources: Sequence[Opened]
    held_out: Sequence[Opened]
    production: Production = field(default_factory=Production)
    documents: Sequence[OpenedDocuments] = ()

    def what(self) -> dict[str, Any]:
        """What decides the output, by its place in the YAML: columns, templates and content, never a path or a URL."""
        parts = {"dataset.sources": self.sources, "dataset.held_out": self.held_out}
        slices: dict[str, Any] = {name: [_slice(source) for source in sources] for name, sources in parts.items()}
        slices["dataset.documents"] = [source.what() for source in self.documents]
        return slices | self.production.what()


def gather(spec: UseCaseSpec, *, production: Production | None = None) -> Gathered:
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
    return Gathered(sources=found["sources"], held_out=found["held_out"], production=production or Production(), documents=documents)


def collected(gathered: Gathered, folder: Path, *, seed: int) -> Built:
    """Write the examples of all sources and the chunks of all documents into `folder`.

    Raises:
        NoExamples, NoDocuments: not one row of a source became an example, not one document chunks; names the first reasons.
        BrokenTemplate, ReservedColumn, UnstatedLayout, EmptySource: names the source and the field.
    """
    with RowFiles(folder) as files:
        take = partial(collect, seed=seed, keep=files.keep, refuse=files.refuse)
        parts = [take(source, held_out=False) for source in gathered.sources]
        parts += [take(source, held_out=True) for source in gathered.held_out]
        for example in gathered.production.examples():
            files.keep(example)
    kept, renamed = unique(files.examples())
    quarantine = files.quarantine()
    table = [part.shown() for part in parts] + gathered.production.shown()
    fixed = {"id_made_unique": renamed, UNANSWERED_END: sum(part.unanswered_ends for part in parts)}
    documents = collected_documents(gathered.documents, folder) if gathered.documents else {}
    notes = {"sources": table, **({"documents": documents["document_sources"]} if documents else {})}
    step = made("collect", kept=kept, quarantine=quarantine, fixed={name: rows for name, rows in fixed.items() if rows}, notes=notes)
    write_step(folder, step, examples=kept, quarantine=quarantine, before=[])
    files.delete()
    return Built(metadata={**_metadata(step, kept, table), **documents})


@dataclass(frozen=True)
class Collected:
    """How many rows of a source became examples or could not; `rows` is what it holds, `taken` what a sample leaves of it."""

    source: Opened
    held_out: bool
    rows: int
    taken: int
    examples: int
    quarantined: int
    unanswered_ends: int

    def shown(self) -> dict[str, Any]:
        """A line of the table of sources."""
        return {
            "source": self.source.name,
            "held_out": self.held_out,
            "rows": self.rows,
            "taken": self.taken,
            "examples": self.examples,
            "quarantined": self.quarantined,
            "licence": self.source.source.licence or "not stated",
        }


def collect(
    opened_source: Opened, *, held_out: bool, seed: int, keep: Callable[[Example], None], refuse: Callable[[Quarantined], None]
) -> Collected:
    """Examples of one source, one after the other.

    Args:
        keep: gets every example.
        refuse: gets every row that could not become one.

    Raises:
        BrokenTemplate, ReservedColumn, UnstatedLayout, EmptySource, NoExamples: names the source and the field.
    """
    shape, counts = Shape.of(opened_source, held_out=held_out), Counter[str]()
    first_reasons: list[str] = []
    rows = _checked(opened_source, shape, counts)
    sample = opened_source.source.sample
    taken = rows if sample is None else iter(sampled(rows, sample, seed=seed))
    for row in tqdm(taken, desc=f"collect {opened_source.name}", unit="row", disable=None):
        one = shape.examples(row)
        counts.update(taken=1, examples=len(one.examples), unanswered_ends=one.unanswered_end)
        for example in one.examples:
            keep(example)
        if one.refused is not None:
            refuse(one.refused)
            counts["quarantined"] += 1
            if len(first_reasons) < _REASONS:
                first_reasons.append(f"{one.refused.reason}: {one.refused.detail}")
    if not counts["rows"]:
        raise EmptySource(f"{opened_source.place}: holds no rows; bring some, or take the source out")
    if not counts["examples"]:
        raise NoExamples(f"{opened_source.place}: none of {counts['taken']} rows became an example. {'; '.join(first_reasons)}")
    names = ("rows", "taken", "examples", "quarantined", "unanswered_ends")
    return Collected(opened_source, held_out, **{name: counts[name] for name in names})


def _checked(source: Opened, shape: Shape, counts: Counter[str]) -> Iterator[Row]:
    """The rows of a source, counted; the first readable one is looked at before it goes on."""
    readable = False
    for row in source.rows():
        counts["rows"] += 1
        if not readable and row.columns is not None:
            readable = True
            shape.check(row)
        yield row


def sampled(rows: Iterable[Row], count: int, *, seed: int) -> list[Row]:
    """So many rows, in their own order. Which ones depends on the seed and their content only, so a row keeps its place when data grows."""
    ranked = ((hashlib.sha256(f"{seed}:{row.sha256}".encode()).digest(), place, row) for place, row in enumerate(rows))
    return [row for _, _, row in sorted(heapq.nsmallest(count, ranked, key=itemgetter(0, 1)), key=itemgetter(1))]


def unique(examples: Sequence[Example]) -> tuple[Sequence[Example], int]:
    """The examples with ids of their own, and how many were renamed: the second `7` becomes `7-2`, and keeps `7` in its metadata."""
    # Hashes, since a million ids would be a tenth of a gigabyte: of equal ones the ids themselves are compared.
    hashes = np.array([hash(example.id) for example in examples], dtype=np.int64)
    ordered = np.sort(hashes)
    again = np.flatnonzero(np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]]))
    seen: Counter[str] = Counter()
    new: dict[int, str] = {}
    taken: set[str] = set()
    for place in again.tolist():
        id_ = examples[place].id
        seen[id_] += 1
        if (number := seen[id_]) == 1:
            continue
        while (name := f"{id_}-{number}") in taken or _holds(ordered, hash(name)):
            number += 1
        taken.add(name)
        new[place] = name
    if not new:
        return examples, 0

    def renamed(place: int, example: Example) -> Example:
        if place not in new:
            return example
        return replace(example, id=new[place], metadata={**example.metadata, "original_id": example.id})

    return Chosen(examples, np.arange(len(examples)), renamed), len(new)


def _holds(ordered: NDArray[np.int64], value: int) -> bool:
    place = int(np.searchsorted(ordered, value))
    return place < len(ordered) and int(ordered[place]) == value


def _slice(source: Opened) -> dict[str, Any]:
    columns = source.source.model_dump(mode="json", exclude={"path", "url_variable"})
    return {**columns, "name": source.name, "sha256": source.sha256}


def _metadata(step: Step, kept: Sequence[Example], table: list[dict[str, Any]]) -> dict[str, Any]:
    held_out = sum(example.held_out for example in kept)
    return {
        **step.metadata(before=[]),
        "held_out": held_out,
        "corrections": sum(example.source == FEEDBACK for example in kept),
        "sources": table,
    }
