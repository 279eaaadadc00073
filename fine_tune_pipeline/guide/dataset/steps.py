"""The record of what each step of this room did with the rows: counts that add up, carried along to the data card."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fine_tune_pipeline.artifacts.examples import Example, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.parts import Gathered
from fine_tune_pipeline.artifacts.quarantine import FILE, Quarantined, each_quarantined, reasons, write_quarantine
from fine_tune_pipeline.guide.dataset.sources.rows import canonical

EXAMPLES = "examples.jsonl"
STEPS = "steps.jsonl"

SHOWN_PER_REASON = 2

SHOWN_CHARACTERS = 4000
"""Of a quarantined row that goes on to the data card; more than the card shows, so that personal data at the end of what it shows is whole
when it is looked for."""

Shown = dict[str, str]
"""`id`, `reason`, `detail`, `text` of a quarantined row."""

MARK = "marked"
"""Metadata of an example that a step found odd: experts see all of these. Several marks are separated by `; `."""


@dataclass(frozen=True)
class Step:
    """What one step did: `rows_in` came, `kept` went on, the rest is in the quarantine by reason.

    `fixed` counts kept rows that were mended, by what was mended; `notes` holds what only this step knows; `examples` are a few of the
    quarantined rows for the data card.
    """

    name: str
    rows_in: int
    kept: int
    quarantined: dict[str, int] = field(default_factory=dict)
    fixed: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    examples: list[Shown] = field(default_factory=list)

    def metadata(self, *, before: "Sequence[Step]") -> dict[str, Any]:
        """The numbers that the web UI plots, the reasons as tables, and the funnel so far: the same names in every asset of this room."""
        return {
            "rows_in": self.rows_in,
            "rows_kept": self.kept,
            "rows_fixed": sum(self.fixed.values()),
            "rows_quarantined": sum(self.quarantined.values()),
            "fixed": [{"repair": name, "rows": rows} for name, rows in self.fixed.items()],
            "quarantined": [{"reason": name, "rows": rows} for name, rows in self.quarantined.items()],
            "funnel": funnel([*before, self]),
        }


def funnel(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """A row of counts for each step, the first one first; what one kept came into the next."""
    return [
        {
            "step": step.name,
            "in": step.rows_in,
            "kept": step.kept,
            "fixed": sum(step.fixed.values()),
            "quarantined": sum(step.quarantined.values()),
            "reasons": ", ".join(f"{name} {rows}" for name, rows in step.quarantined.items()),
        }
        for step in steps
    ]


def write_step(folder: Path, step: Step, *, examples: Sequence[Example], quarantine: Sequence[Quarantined], before: Sequence[Step]) -> None:
    """Write what every step leaves: the examples, the quarantine with reasons, and the record of all steps so far."""
    assert step.kept == len(examples), f"{step.name}: {step.kept} rows are said to be kept, {len(examples)} are"
    assert step.rows_in == len(examples) + len(quarantine), f"{step.name}: {step.rows_in} in, {len(examples)} + {len(quarantine)} out"
    write_examples(folder / EXAMPLES, examples)
    write_quarantine(folder, quarantine)
    write_rows(folder / STEPS, (asdict(done) for done in (*before, step)))


def of_parts(name: str, done: Gathered, **more: Mapping[str, Any]) -> Step:
    """The record of a step whose rows were worked on in parts; `write_parts` adds its examples."""
    found = {key: dict(value) for key, value in more.items()}
    return Step(name=name, rows_in=done.rows_in, kept=done.kept, quarantined=dict(done.reasons.most_common()), examples=[], **found)


def write_parts(folder: Path, step: Step, done: Gathered, *, before: Sequence[Step]) -> None:
    """Like `write_step`, from the parts."""
    done.write(examples=folder / EXAMPLES, quarantine=folder / FILE)
    step = replace(step, examples=_examples(each_quarantined(folder)))
    write_rows(folder / STEPS, (asdict(record) for record in (*before, step)))


def read_steps(folder: Path) -> list[Step]:
    """The record of the steps that led to an artifact, the first one first."""
    return [Step(**row) for row in read_rows(folder / STEPS)]


def made(name: str, *, kept: Sequence[Example], quarantine: Sequence[Quarantined], **more: Mapping[str, Any]) -> Step:
    """The record of a step that ends with these rows."""
    found = {key: dict(value) for key, value in more.items()}
    return Step(
        name=name,
        rows_in=len(kept) + len(quarantine),
        kept=len(kept),
        quarantined=reasons(quarantine),
        examples=_examples(quarantine),
        **found,
    )


def _examples(rows: Iterable[Quarantined]) -> list[Shown]:
    """The first rows of each reason, as they came."""
    taken: Counter[str] = Counter()
    found = []
    for row in rows:
        taken[row.reason] += 1
        if taken[row.reason] <= SHOWN_PER_REASON:
            prompt = row.original.get("prompt")
            text = prompt if isinstance(prompt, str) else canonical(row.original)
            found.append({"id": row.id, "reason": row.reason, "detail": row.detail[:SHOWN_CHARACTERS], "text": text[:SHOWN_CHARACTERS]})
    return found


@dataclass(frozen=True)
class Sifted:
    """Rows that may go on, and the others with reasons."""

    kept: Sequence[Example]
    quarantine: Sequence[Quarantined]


class Why(NamedTuple):
    """For what an example leaves, and a sentence about it."""

    reason: str
    detail: str


def marked(example: Example, reason: str) -> Example:
    """The example with one more mark."""
    marks = [*filter(None, example.metadata.get(MARK, "").split("; ")), reason]
    return replace(example, metadata={**example.metadata, MARK: "; ".join(dict.fromkeys(marks))})


def out(example: Example, reason: str, detail: str) -> Quarantined:
    """An example as the quarantine keeps it."""
    return Quarantined(id=example.id, reason=reason, detail=detail, original=example.row())
