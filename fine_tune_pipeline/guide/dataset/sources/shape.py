"""A row becomes examples: by the templates of its source, or by the training format that it is in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import SandboxedEnvironment

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.sources.layouts import Record, read_row, resembled
from fine_tune_pipeline.guide.dataset.sources.messages import UnfitRow
from fine_tune_pipeline.guide.dataset.sources.opened import Opened
from fine_tune_pipeline.guide.dataset.sources.rows import Row
from fine_tune_pipeline.guide.dataset.steps import MARK

CONVERSATION = "conversation"
"""Metadata of answers that come from one conversation: its id."""

UNANSWERED_END = "unanswered_end_left_out"
"""Under this name a step counts the conversations whose end nobody answered."""

RESERVED_METADATA = frozenset(
    {MARK, CONVERSATION, "cluster", "review", "reviewed_by", "model_version", "original_id", "request_id"}
    | {"synthetic", "made_from", "labelled_by", "label_probability"}
)
"""Metadata that the steps write themselves."""

_TEMPLATES = ("prompt", "completion")


class BrokenTemplate(ValueError):
    """A template of a source is not Jinja."""


class ReservedColumn(ValueError):
    """A metadata column has the name of something that a step writes."""


class UnstatedLayout(ValueError):
    """The rows of a source are in a training format, and its YAML does not say so."""


@dataclass(frozen=True)
class Shaped:
    """The examples of one row, or why there is none; `unanswered_end` if its conversation goes on after the last answer."""

    examples: list[Example]
    refused: Quarantined | None = None
    unanswered_end: bool = False


@dataclass(frozen=True)
class Shape:
    """How the rows of one source become examples."""

    source: Opened
    held_out: bool
    templates: Mapping[str, Template]

    @classmethod
    def of(cls, source: Opened, *, held_out: bool) -> "Shape":
        """The shape that a source's YAML describes.

        Raises:
            BrokenTemplate, ReservedColumn: names the source and the field.
        """
        if reserved := sorted(RESERVED_METADATA.intersection(source.source.metadata)):
            raise ReservedColumn(f"{source.place}: metadata: {reserved[0]} is written by the steps; rename the column in the source")
        templates = {name: _compiled(getattr(source.source, name), f"{source.place}: {name}") for name in _TEMPLATES}
        return cls(source, held_out, templates)

    def check(self, row: Row) -> None:
        """Look at the first readable row of a source that has neither templates nor a layout.

        Raises:
            UnstatedLayout: the row is in a training format, or a message of Slack or Teams.
        """
        spec = self.source.source
        if spec.layout != "columns" or row.columns is None or spec.model_fields_set.intersection(_TEMPLATES):
            return
        if all(name in row.columns and not isinstance(row.columns[name], list) for name in _TEMPLATES):
            return
        if proposal := resembled(row.columns):
            raise UnstatedLayout(
                f"{self.source.place}: {row.place} has the columns {_listed(row.columns)}; "
                f"write {proposal}, or templates for prompt and completion"
            )

    def examples(self, row: Row) -> Shaped:
        """What one row gives."""
        given = None if row.columns is None else row.columns.get("id")
        id_ = str(given) if given not in (None, "") else row.sha256[:16]
        try:
            return self._shaped(row, id_)
        except UnfitRow as error:
            detail = f"{self.source.name}, {row.place}: {error.detail}"
            return Shaped([], Quarantined(id=id_, reason=error.reason, detail=detail, original=row.content))

    def _shaped(self, row: Row, id_: str) -> Shaped:
        spec = self.source.source
        if row.columns is None:
            raise UnfitRow(row.reason, row.problem)
        if missing := [name for name in spec.metadata if name not in row.columns]:
            raise UnfitRow("missing_column", f"metadata: there is no column {missing[0]!r}; the row has {_listed(row.columns)}")
        if spec.layout == "columns":
            prompt, completion = (_rendered(name, self.templates[name], row.columns) for name in _TEMPLATES)
            return Shaped([self._example(Record(prompt, completion), row, row.columns, id_)])
        read = read_row(row.columns, layout=spec.layout, names=spec.columns, turns=spec.turns)
        numbers = range(1, len(read.records) + 1) if spec.turns == "all" else [None]
        examples = [
            self._example(record, row, row.columns, id_, answer=number) for record, number in zip(read.records, numbers, strict=True)
        ]
        return Shaped(examples, unanswered_end=read.unanswered_end)

    def _example(self, record: Record, row: Row, columns: Mapping[str, Any], id_: str, *, answer: int | None = None) -> Example:
        metadata = {name: as_text(columns[name]) for name in self.source.source.metadata}
        provenance = self.source.provenance(row)
        if answer is not None:
            metadata[CONVERSATION], provenance["answer"] = id_, str(answer)
            id_ = f"{id_}:{answer}"
        return Example(
            id=id_, prompt=record.prompt, completion=record.completion, source=self.source.name, held_out=self.held_out, metadata=metadata,
            history=record.history, role=record.role, tools=record.tools, rejected=record.rejected,
            licence=self.source.source.licence or "", provenance=provenance,
        )  # fmt: skip


def as_text(value: Any) -> str:
    """A column's value in a template: text as it is, nothing for null, JSON for the rest, so that a nested answer stays JSON."""
    if value is None:
        return ""
    if isinstance(value, dict | list | bool):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _compiled(template: str, place: str) -> Template:
    environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=as_text)
    # Jinja's own filter escapes & < > ' for HTML, which would change the text of an answer.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        raise BrokenTemplate(f"{place}: not a Jinja template (line {error.lineno}: {error.message}); got {template!r}") from error


def _rendered(name: str, template: Template, columns: Mapping[str, Any]) -> str:
    try:
        return template.render(columns)
    except UndefinedError as error:
        raise UnfitRow("missing_column", f"{name}: {error.message}; the row has {_listed(columns)}") from error
    # What a template can raise is decided by the data in it: any operator or filter may meet a value that it cannot take.
    except (TemplateError, SecurityError, ArithmeticError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise UnfitRow("template_failed", f"{name}: the template failed on this row ({type(error).__name__}: {error})") from error


def _listed(columns: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(columns)[:12])) or "no columns"
