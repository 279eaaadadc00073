"""The data card: where the examples came from, what was done to them, what is left, and who looked at it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.review import said
from fine_tune_pipeline.guide.dataset.split import Split
from fine_tune_pipeline.guide.dataset.steps import Step
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.dataset import SplitSpec

PERCENTILES = (50, 90, 99, 100)

OPEN = "(any answer)"
"""Stands for the class of an answer that has none."""


def card(steps: Sequence[Step], parts: Split, *, use_case: str, task: Task, spec: SplitSpec) -> dict[str, Any]:
    """The content of `card.json`; the Markdown card says the same in words.

    Args:
        steps: what every step did, the first one first, `split` last.
    """
    notes = {step.name: step.notes for step in steps}
    sources = notes["collect"]["sources"]
    return {
        "use_case": use_case,
        "rows": {name: len(examples) for name, examples in parts.parts().items()},
        "sources": sources,
        "licences": {line["source"]: line["licence"] for line in sources},
        "steps": [_step(step) for step in steps],
        "quarantined": {step.name: step.quarantined for step in steps if step.quarantined},
        "personal_data": notes["scrub"]["personal_data"],
        "personal_data_detector": notes["scrub"]["detector"],
        "marked_for_review": notes["clean"]["marked"],
        "review": {**notes["review"], "said": said(notes["review"])},
        "split": _split(parts, spec),
        "classes": classes(parts, task),
        "characters": {name: characters(examples) for name, examples in parts.parts().items()},
    }


def classes(parts: Split, task: Task) -> dict[str, dict[str, int]]:
    """Class -> rows in each part; every class of the task is there, also one without rows."""
    counts = {name: Counter(task.class_of(example.completion) or OPEN for example in examples) for name, examples in parts.parts().items()}
    names = list(dict.fromkeys([*task.classes, *(name for count in counts.values() for name in count)]))
    return {name: {part: count[name] for part, count in counts.items()} for name in names}


def characters(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Percentiles of the lengths of prompts and completions, in characters; `p100` is the longest."""
    texts = {"prompt": [len(example.prompt) for example in examples], "completion": [len(example.completion) for example in examples]}
    return {
        name: {f"p{share}": int(np.percentile(lengths, share, method="inverted_cdf")) for share in PERCENTILES}
        for name, lengths in texts.items()
        if lengths
    }


def markdown(content: Mapping[str, Any]) -> str:
    """The card for people."""
    lengths = [{"part": part, "text": text, **values} for part, texts in content["characters"].items() for text, values in texts.items()]
    quarantined = [
        {"step": step, "reason": reason, "rows": rows}
        for step, reasons in content["quarantined"].items()
        for reason, rows in reasons.items()
    ]
    personal = [{"entity": entity, "replacements": count} for entity, count in content["personal_data"].items()]
    sections = {
        "Rows": table([{"part": name, "rows": rows} for name, rows in content["rows"].items()]),
        "Sources": table(content["sources"]),
        "Steps": table(content["steps"]),
        "Taken out": table(quarantined),
        "Personal data replaced": table(personal) + f"\n\nFound by {content['personal_data_detector']}.",
        "Review": f"{content['review']['said']} Steps marked {content['marked_for_review']} examples as worth a look.",
        "Split": content["split"]["said"],
        "Classes": table([{"class": name, **counts} for name, counts in content["classes"].items()]),
        "Lengths in characters": table(lengths),
    }
    return f"# Data card of {content['use_case']}\n\n" + "\n".join(f"## {title}\n\n{text}\n" for title, text in sections.items())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows with the same columns."""
    if not rows:
        return "None."
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join(lines + [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows])


def _step(step: Step) -> dict[str, Any]:
    return {
        "step": step.name,
        "in": step.rows_in,
        "kept": step.kept,
        "fixed": sum(step.fixed.values()),
        "quarantined": sum(step.quarantined.values()),
    }


def _split(parts: Split, spec: SplitSpec) -> dict[str, Any]:
    where = "the `held_out` sources, which no other part has seen" if parts.by_held_out else f"split off ({spec.test:.0%})"
    text = (
        f"Test: {where}. Validation: {spec.validation:.0%} of the rest. By a hash of the id (seed {spec.seed}), like prompts together, "
        "so that an example keeps its side when data grows."
    )
    return {"by_held_out": parts.by_held_out, "validation": spec.validation, "seed": spec.seed, "said": text}


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
