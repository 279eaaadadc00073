"""The data card: where the examples came from, what was done to them, what is left, and who looked at it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import floor
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.lengths import lengths
from fine_tune_pipeline.guide.dataset.likeness.contamination import BENCHMARK_REASONS
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import CLUSTER
from fine_tune_pipeline.guide.dataset.more.made_rows import SYNTHETIC, kinds
from fine_tune_pipeline.guide.dataset.publishing.languages import languages
from fine_tune_pipeline.guide.dataset.publishing.limits import UNKNOWN_LICENCE, known_limits
from fine_tune_pipeline.guide.dataset.publishing.split import LEAST, Split
from fine_tune_pipeline.guide.dataset.review.review import said
from fine_tune_pipeline.guide.dataset.scrubbing.disclosure import shortened
from fine_tune_pipeline.guide.dataset.steps import Step, funnel
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.dataset import DatasetSpec, SplitSpec

OPEN = "(any answer)"
"""Stands for the class of an answer that has none."""

DUPLICATES = (
    *("exact_duplicate", "near_duplicate", "semantic_duplicate", "contradictory_labels"),
    *("duplicate_of_held_out", "shares_words_with_held_out", *BENCHMARK_REASONS),
)
"""Reasons for which a row leaves because another one is like it."""

PRIVATE_STEPS = ("scrub", "review")
"""A row may leave these because of the personal data in it, so the card names it and quotes nothing."""

LOOKED_AT = ("accept", "fix")
"""Values of the metadata `review` that mean that a person has decided."""


def card(steps: Sequence[Step], parts: Split, *, use_case: str, task: Task, spec: DatasetSpec) -> dict[str, Any]:
    """The content of `card.json`; `card_page.py` says the same to people.

    Args:
        steps: what every step did, the first one first, `split` last.
    """
    notes = {step.name: step.notes for step in steps}
    sources = notes["collect"]["sources"]
    licences = {line["source"]: line["licence"] for line in sources}
    everything = parts.together()
    content = {
        "use_case": use_case,
        "rows": {name: len(examples) for name, examples in parts.parts().items()},
        "sources": sources,
        "licences": licences,
        "rows_by_licence": dict(
            Counter(example.licence or licences.get(example.source, UNKNOWN_LICENCE) for example in everything).most_common()
        ),
        "rows_by_source": dict(Counter(example.source for example in everything).most_common()),
        "steps": funnel(steps),
        "quarantined": {step.name: step.quarantined for step in steps if step.quarantined},
        "quarantine_examples": [example for step in steps for example in _examples(step)],
        "duplicates": _duplicates(steps, everything),
        "personal_data": notes["scrub"]["personal_data"],
        "rows_with_personal_data": notes["scrub"].get("rows_with_personal_data", 0),
        "residue_rows": notes["scrub"].get("residue_rows", 0),
        "personal_data_detector": notes["scrub"]["detector"],
        "marked_for_review": notes["clean"]["marked"],
        "review": {**notes["review"], "said": said(notes["review"])},
        "seen_by_people": sum(example.metadata.get("review") in LOOKED_AT for example in everything),
        "synthetic": {name: sum(SYNTHETIC in example.metadata for example in rows) for name, rows in parts.parts().items()},
        "split": _split(parts, spec.split),
        "benchmarks": notes["split"].get("benchmarks", []),
        "made_rows": kinds(parts.train),
        "classes": classes(parts, task),
        "languages": languages(everything),
        "characters": {name: characters(examples) for name, examples in parts.parts().items()},
    }
    return {**content, "limits": known_limits(content, task=task, spec=spec)}


def classes(parts: Split, task: Task) -> dict[str, dict[str, int]]:
    """Class -> rows in each part; every class of the task is there, also one without rows."""
    counts = {name: Counter(task.class_of(example.completion) or OPEN for example in examples) for name, examples in parts.parts().items()}
    names = list(dict.fromkeys([*task.classes, *(name for count in counts.values() for name in count)]))
    return {name: {part: count[name] for part, count in counts.items()} for name in names}


def characters(examples: Sequence[Example]) -> dict[str, dict[str, Any]]:
    """Lengths of what is asked, earlier turns included, and of completions, in characters."""
    texts = {"prompt": [len(example.question) for example in examples], "completion": [len(example.completion) for example in examples]}
    return {name: asdict(lengths(values)) for name, values in texts.items()}


def _examples(step: Step) -> list[dict[str, str]]:
    """Some rows that a step took out, as far as the card may show them."""
    if step.name in PRIVATE_STEPS:
        return [{"step": step.name, "reason": row["reason"], "id": row["id"], "detail": "", "text": ""} for row in step.examples]
    return [
        {"step": step.name, "reason": row["reason"], "id": row["id"], "detail": shortened(row["detail"]), "text": shortened(row["text"])}
        for row in step.examples
    ]


def _duplicates(steps: Sequence[Step], kept: Iterable[Example]) -> dict[str, Any]:
    """Rows that left for a like one, by reason, and the clusters of like rows that are left."""
    gone: Counter[str] = Counter()
    for step in steps:
        gone.update({reason: rows for reason, rows in step.quarantined.items() if reason in DUPLICATES})
    sizes = Counter(example.metadata[CLUSTER] for example in kept if CLUSTER in example.metadata)
    several = [size for size in sizes.values() if size > 1]
    return {"taken_out": dict(gone), "clusters_left": len(several), "rows_in_clusters": sum(several)}


def _split(parts: Split, spec: SplitSpec) -> Mapping[str, Any]:
    total = len(parts.together())
    rest = total if not parts.by_held_out else total - len(parts.test)
    asked = {"Validation": (len(parts.validation), spec.validation, rest)}
    if not parts.by_held_out:
        asked = {"Test": (len(parts.test), spec.test, total), **asked}
    sentences = [
        f"{name}: {rows:,} rows, {rows / max(of, 1):.0%}, where {share:.0%} was asked." for name, (rows, share, of) in asked.items()
    ]
    if parts.by_held_out:
        sentences.insert(0, "Test: the `held_out` sources, which no other part has seen.")
    if any(rows < floor(LEAST * share * of) for rows, share, of in asked.values()):
        sentences.append("It is fewer since rows that are connected with many others, each like the next, are all in training.")
    if parts.fresh:
        sentences.append(f"Beside them {len(parts.fresh):,} rows of production, `fresh.jsonl`, which no training sees: a second test set.")
    text = f"{' '.join(sentences)} By a hash of the id (seed {spec.seed}), like prompts together" + (
        f", also those that share {spec.shared_words} words in a row" if spec.shared_words else ""
    )
    text += ", so that an example keeps its side when data grows."
    return {"by_held_out": parts.by_held_out, "validation": spec.validation, "seed": spec.seed, "said": text}
