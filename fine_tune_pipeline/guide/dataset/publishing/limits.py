"""What a reader of the data card must know before trusting the dataset, in words, from the facts of this one."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.guide.dataset.scrubbing.residue_estimate import Estimate
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.dataset import DatasetSpec

FEW_TEST_ROWS = 200
"""Below it the 95 % interval of a share of one half is wider than 14 points."""

UNKNOWN_LICENCE = "not stated"

OTHER_LANGUAGE_SHARE = 0.02
"""From this share of rows on, another language is worth a word; single rows are as often a mistake of the identifier."""


def known_limits(content: Mapping[str, Any], *, task: Task, spec: DatasetSpec) -> list[str]:
    """Sentences, most important first.

    Args:
        content: of the card, as far as it is known.
    """
    return [
        *_unseen(content),
        *_personal_data(content, spec),
        *_test(content),
        *_classes(content, task, spec),
        *_synthetic(content),
        *_licences(content),
        *_languages(content),
        *_skipped(spec),
        "Lengths are counted in characters here; in tokens, which depend on the base model, by the asset `environment`.",
    ]


def _unseen(content: Mapping[str, Any]) -> Iterator[str]:
    total = sum(content["rows"].values())
    unseen = total - content["seen_by_people"]
    if unseen:
        yield f"{unseen:,} of {total:,} rows ({unseen / total:.0%}) were not looked at by any person."
    if content["marked_for_review"] and not content["seen_by_people"]:
        yield f"{content['marked_for_review']:,} rows were marked as doubtful by the steps, and nobody has decided about them."


def _personal_data(content: Mapping[str, Any], spec: DatasetSpec) -> Iterator[str]:
    looked = ", ".join(spec.pii.entities) or "nothing"
    yield f"Personal data was looked for as {looked}. No detector finds all of it: some may be left, above all names and places."
    sample = content["review"].get("residue_sample", {})
    yield Estimate(sample.get("looked_at", 0), sample.get("still_private", 0)).said(sum(content["rows"].values()))
    if content["residue_rows"]:
        yield f"{content['residue_rows']:,} rows still hold something that looks like an identifier (dataset.pii.residue_limit allows it)."


def _test(content: Mapping[str, Any]) -> Iterator[str]:
    rows = content["rows"]["test"]
    if rows < FEW_TEST_ROWS:
        yield f"The test has {rows:,} rows: differences of a few points cannot be told from chance."


def _classes(content: Mapping[str, Any], task: Task, spec: DatasetSpec) -> Iterator[str]:
    if not task.classes:
        return
    counts = content["classes"]
    short = [f"{name} ({counts[name]['train']})" for name in task.classes if counts[name]["train"] < 2 * spec.minimum_per_class]
    if short:
        yield f"Classes with fewer than {2 * spec.minimum_per_class} training rows: {some(short)}."
    untested = [name for name in task.classes if not counts[name]["test"]]
    if untested:
        yield f"Classes without a test row, of which the evaluation can say nothing: {some(untested)}."


def _synthetic(content: Mapping[str, Any]) -> Iterator[str]:
    made, total = sum(content["synthetic"].values()), sum(content["rows"].values())
    if made:
        yield f"{made:,} of {total:,} rows ({made / total:.0%}) are synthetic, {content['synthetic']['test']:,} of them in the test."


def _licences(content: Mapping[str, Any]) -> Iterator[str]:
    unknown = [source for source, licence in content["licences"].items() if licence == UNKNOWN_LICENCE]
    if unknown:
        yield f"The terms of these sources are not stated: {some(unknown)}."


def _languages(content: Mapping[str, Any]) -> Iterator[str]:
    found, total = content["languages"]["rows"], content["languages"]["looked_at"]
    known = [name for name in found if name != "unsure"]
    others = [f"{name} ({found[name] / total:.0%})" for name in known[1:] if found[name] >= OTHER_LANGUAGE_SHARE * total]
    if others:
        yield f"Most prompts are in {known[0]}; there are also {some(others)}, of which the evaluation may see too few rows."


def _skipped(spec: DatasetSpec) -> Iterator[str]:
    if spec.clean.skip:
        yield f"Rules and repairs that the use case leaves out: {', '.join(spec.clean.skip)}."
