"""Rows of the sources become examples: by templates, with an id that stays, each row either an example or in the quarantine."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import SandboxedEnvironment
from tqdm import tqdm

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.rows import Row, canonical
from fine_tune_pipeline.guide.dataset.sources import Opened, opened
from fine_tune_pipeline.guide.dataset.steps import MARK, Step, made, write_step
from fine_tune_pipeline.spec.use_case import UseCaseSpec

FEEDBACK = "production_feedback"
"""Source of the examples that people corrected at the endpoint."""

RESERVED_METADATA = frozenset({MARK, "cluster", "review", "reviewed_by", "model_version", "original_id", "request_id"})
"""Metadata that the steps write themselves."""


class BrokenTemplate(ValueError):
    """A template of a source is not Jinja."""


class ReservedColumn(ValueError):
    """A metadata column has the name of something that a step writes."""


class EmptySource(ValueError):
    """A source holds no rows at all."""


class NoExamples(ValueError):
    """Not one row of the sources became an example."""


@dataclass(frozen=True)
class Gathered:
    """Everything that goes in: sources for training, sources kept apart for the test, corrections from production."""

    sources: Sequence[Opened]
    held_out: Sequence[Opened]
    corrections: Sequence[Mapping[str, str]] = ()

    def what(self) -> dict[str, Any]:
        """What decides the output, by its place in the YAML: columns, templates and content, never a path or a URL."""
        parts = {"dataset.sources": self.sources, "dataset.held_out": self.held_out}
        slices: dict[str, Any] = {name: [_slice(source) for source in sources] for name, sources in parts.items()}
        text = json.dumps([dict(row) for row in self.corrections], sort_keys=True, ensure_ascii=False)
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
    return Gathered(sources=found["sources"], held_out=found["held_out"], corrections=corrections if spec.dataset.feedback else ())


def collected(gathered: Gathered, folder: Path, *, seed: int) -> Built:
    """Write the examples of all sources into `folder`.

    Raises:
        NoExamples: not one row became an example; names the first reasons.
        BrokenTemplate, ReservedColumn, EmptySource: names the source and the field.
    """
    parts = [collect(source, held_out=False, seed=seed) for source in gathered.sources]
    parts += [collect(source, held_out=True, seed=seed) for source in gathered.held_out]
    kept, renamed = unique([example for part in parts for example in part.examples] + [_corrected(row) for row in gathered.corrections])
    quarantine = [row for part in parts for row in part.quarantine]
    if not kept:
        first = "; ".join(f"{row.reason}: {row.detail}" for row in quarantine[:3]) or "no row was taken"
        raise NoExamples(f"dataset.sources: none of {len(quarantine)} rows became an example. {first}")
    table = [part.shown() for part in parts] + _feedback_shown(gathered.corrections)
    step = made("collect", kept=kept, quarantine=quarantine, fixed={"id_made_unique": renamed} if renamed else {}, notes={"sources": table})
    write_step(folder, step, examples=kept, quarantine=quarantine, before=[])
    return Built(metadata=_metadata(step, kept, table))


@dataclass(frozen=True)
class Collected:
    """One source's examples and the rows that could not become one; `rows` is what the source holds, before any sampling."""

    source: Opened
    held_out: bool
    rows: int
    examples: list[Example]
    quarantine: list[Quarantined]

    def shown(self) -> dict[str, Any]:
        """A line of the table of sources."""
        return {
            "source": self.source.name,
            "held_out": self.held_out,
            "rows": self.rows,
            "taken": len(self.examples) + len(self.quarantine),
            "examples": len(self.examples),
            "quarantined": len(self.quarantine),
            "licence": self.source.source.licence or "not stated",
        }


def collect(opened_source: Opened, *, held_out: bool, seed: int) -> Collected:
    """Examples of one source.

    Raises:
        BrokenTemplate, ReservedColumn, EmptySource: names the source and the field.
    """
    source = opened_source.source
    reserved = sorted(RESERVED_METADATA.intersection(source.metadata))
    if reserved:
        raise ReservedColumn(f"{opened_source.place}: metadata: {reserved[0]} is written by the steps; rename the column in the source")
    templates = {name: _compiled(getattr(source, name), f"{opened_source.place}: {name}") for name in ("prompt", "completion")}
    rows = list(opened_source.rows())
    if not rows:
        raise EmptySource(f"{opened_source.place}: holds no rows; bring some, or take the source out")
    taken = rows if source.sample is None else sampled(rows, source.sample, seed=seed)
    bar = tqdm(taken, desc=f"collect {opened_source.name}", unit="row", disable=None)
    results = [_example(row, templates, opened_source, held_out=held_out) for row in bar]
    examples = [result for result in results if isinstance(result, Example)]
    quarantine = [result for result in results if isinstance(result, Quarantined)]
    return Collected(opened_source, held_out, len(rows), examples, quarantine)


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


def _example(row: Row, templates: Mapping[str, Template], source: Opened, *, held_out: bool) -> Example | Quarantined:
    place = f"{source.name}, {row.place}"
    given = None if row.columns is None else row.columns.get("id")
    id_ = str(given) if given not in (None, "") else row.sha256[:16]
    if row.columns is None:
        return Quarantined(id=id_, reason="broken_row", detail=f"{place}: {row.problem}", original=row.content)
    missing = [name for name in source.source.metadata if name not in row.columns]
    if missing:
        detail = f"{place}: metadata: there is no column {missing[0]!r}; the row has {_listed(row.columns)}"
        return Quarantined(id=id_, reason="missing_column", detail=detail, original=row.content)
    texts: dict[str, str] = {}
    for name, template in templates.items():
        try:
            texts[name] = template.render(row.columns)
        except UndefinedError as error:
            detail = f"{place}: {name}: {error.message}; the row has {_listed(row.columns)}"
            return Quarantined(id=id_, reason="missing_column", detail=detail, original=row.content)
        # What a template can raise is decided by the data in it: any operator or filter may meet a value that it cannot take.
        except (TemplateError, SecurityError, ArithmeticError, LookupError, OverflowError, TypeError, ValueError) as error:
            detail = f"{place}: {name}: the template failed on this row ({type(error).__name__}: {error})"
            return Quarantined(id=id_, reason="template_failed", detail=detail, original=row.content)
    metadata = {name: _as_text(row.columns[name]) for name in source.source.metadata}
    return Example(id=id_, prompt=texts["prompt"], completion=texts["completion"], source=source.name, held_out=held_out, metadata=metadata)


def _compiled(template: str, place: str) -> Template:
    environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=_as_text)
    # Jinja's own filter escapes & < > ' for HTML, which would change the text of an answer.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        raise BrokenTemplate(f"{place}: not a Jinja template (line {error.lineno}: {error.message}); got {template!r}") from error


def _as_text(value: Any) -> str:
    """A column's value in a template: text as it is, nothing for null, JSON for the rest, so that a nested answer stays JSON."""
    if value is None:
        return ""
    if isinstance(value, dict | list | bool):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


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


def _listed(columns: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(columns)[:12])) or "no columns"
