"""The dataset as training reads it: three parts in two forms, the checks on them, and the data card."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example, write_examples, write_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.artifacts.quarantine import write_quarantine
from fine_tune_pipeline.artifacts.sequences import stored_examples
from fine_tune_pipeline.guide.dataset.likeness.contamination import Benchmark, contamination
from fine_tune_pipeline.guide.dataset.likeness.leak_checks import no_contamination, no_leakage
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap, literals
from fine_tune_pipeline.guide.dataset.more.made_rows import SYNTHETIC, apart, kinds
from fine_tune_pipeline.guide.dataset.more.training_only import with_made
from fine_tune_pipeline.guide.dataset.publishing.card import card, classes
from fine_tune_pipeline.guide.dataset.publishing.card_page import card_page
from fine_tune_pipeline.guide.dataset.publishing.croissant import write_croissant
from fine_tune_pipeline.guide.dataset.publishing.record_schema import write_parquet, write_schemas
from fine_tune_pipeline.guide.dataset.publishing.split import Split, split
from fine_tune_pipeline.guide.dataset.steps import EXAMPLES, made, read_steps
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.pages.document import html, markdown
from fine_tune_pipeline.spec.dataset import DatasetSpec

CARD = "card.md"
CARD_HTML = "card.html"
CARD_JSON = "card.json"
FRESH = "fresh.jsonl"
"""Rows of production that no training sees, where there are any: a second test set."""


def published(
    reviewed: Path,
    folder: Path,
    *,
    spec: DatasetSpec,
    task: Task,
    use_case: str,
    benchmarks: Sequence[Benchmark] = (),
    fresh: float = 0.0,
) -> Built:
    """Split the examples of the folder `reviewed` and write the dataset into `folder`.

    Args:
        fresh: share of production's rows that become a second test set.
    """
    examples = stored_examples(reviewed / EXAMPLES)
    real, made_rows = apart(examples)
    overlap = overlap_of(spec)
    sources = split(real, spec=spec.split, task=task, template=overlap.template, benchmarks=benchmarks, fresh=fresh)
    parts = with_made(sources, made_rows, spec=spec.more, task=task, overlap=overlap, benchmarks=benchmarks)
    notes = {"benchmarks": contamination(benchmarks, parts.quarantine)}
    step = made("split", kept=parts.together(), quarantine=parts.quarantine, notes=notes)
    assert step.rows_in == len(examples), f"split: {len(examples)} in, {step.rows_in} out"
    before = read_steps(reviewed)
    content = card([*before, step], parts, use_case=use_case, task=task, spec=spec)
    write_dataset(folder, parts, content, task=task)
    coverage = [{"class": name, **counts} for name, counts in classes(parts, task).items()]
    return Built(
        metadata={
            **step.metadata(before=before),
            **{name: len(rows) for name, rows in parts.parts().items()},
            **({"fresh": len(parts.fresh)} if parts.fresh else {}),
            "made_rows": [{"kind": kind, "training_rows": rows} for kind, rows in kinds(parts.train).items()],
            "coverage": coverage,
            "review": content["review"]["policy"],
        },
        markdown={"card": markdown(card_page(content))},
        checks=checks(parts, spec=spec, task=task, benchmarks=benchmarks),
    )


def overlap_of(spec: DatasetSpec) -> Overlap:
    """What two rows may not share; the literals of the prompt templates are not the user's own words."""
    return Overlap(spec.split.shared_words, literals(source.prompt for source in (*spec.sources, *spec.held_out)))


def write_dataset(folder: Path, parts: Split, content: dict[str, Any], *, task: Task) -> None:
    """Write the parts as prompt/completion, as chat messages and as Parquet, their schemas, the quarantine, the card and Croissant."""
    for name, examples in parts.parts().items():
        write_examples(folder / f"{name}.jsonl", examples)
        write_rows(folder / f"{name}.chat.jsonl", map(chat, examples))
        write_parquet(folder / f"{name}.parquet", examples)
    if parts.fresh:
        write_examples(folder / FRESH, parts.fresh)
    write_quarantine(folder, parts.quarantine)
    (folder / CARD_JSON).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    page = card_page(content)
    (folder / CARD).write_text(markdown(page), encoding="utf-8")
    (folder / CARD_HTML).write_text(html(page), encoding="utf-8")
    write_schemas(folder, task)
    write_croissant(folder, content, parts=list(parts.parts()))


def chat(example: Example) -> dict[str, Any]:
    """An example as a conversation."""
    messages = [*example.history, {"role": example.role, "content": example.prompt}, {"role": "assistant", "content": example.completion}]
    return {"messages": messages} | ({"tools": example.tools} if example.tools else {})


def checks(parts: Split, *, spec: DatasetSpec, task: Task, benchmarks: Sequence[Benchmark] = ()) -> list[Check]:
    """Those that decide whether training may begin."""
    overlap = overlap_of(spec)
    found = [_schema(parts, task), _minimum_size(parts, spec), _classes_covered(parts, spec, task), no_leakage(parts, overlap)]
    return [*found, no_contamination(parts, benchmarks, overlap)] if benchmarks else found


def _schema(parts: Split, task: Task) -> Check:
    """Every answer is valid: people and replacements may have changed it since it was cleaned."""
    wrong = {example.id: said for example in parts.together() if (said := task.problem(example.completion)) is not None}
    total = len(parts.together())
    text = f"{total - len(wrong)} of {total} completions are valid answers of the task."
    if wrong:
        first = next(iter(wrong))
        text += f" Wrong: {some(wrong)}; {first}: {wrong[first]}. Correct them in the source or by a verdict `fix`."
    return Check(name="schema", passed=not wrong, description=text, metadata={"invalid": len(wrong)})


def _minimum_size(parts: Split, spec: DatasetSpec) -> Check:
    own = len(apart(parts.train)[0]) + len(parts.validation) + (0 if parts.by_held_out else len(parts.test))
    empty = [name for name, examples in parts.parts().items() if not examples]
    enough = own >= spec.minimum_examples and not empty
    text = f"{own} examples from the sources, want at least {spec.minimum_examples} (dataset.minimum_examples)."
    if empty:
        text += f" No row is in {', '.join(empty)}: give more rows, a larger dataset.split share, or a held_out source."
    elif not enough:
        text += " Give more rows, or look into the quarantines of the steps before for rows that could be mended."
    return Check(name="minimum_size", passed=enough, description=text, metadata={"examples": own, "minimum": spec.minimum_examples})


def _classes_covered(parts: Split, spec: DatasetSpec, task: Task) -> Check:
    least = spec.minimum_per_class
    counts = Counter(task.class_of(example.completion) for example in parts.train if SYNTHETIC not in example.metadata)
    short = {name: counts[name] for name in task.classes if counts[name] < least}
    if not task.classes:
        return Check(name="classes_covered", passed=True, description="The task is open: it has no classes to cover.")
    text = (
        f"{len(task.classes) - len(short)} of {len(task.classes)} classes have at least {least} training rows (dataset.minimum_per_class)."
    )
    if short:
        text += f" Too few: {some(f'{name} ({rows})' for name, rows in short.items())}. Add examples of these classes."
    return Check(name="classes_covered", passed=not short, description=text, metadata={"short": len(short), "minimum": least})
