"""People look at examples: a JSONL hand-out, verdicts handed in beside it, and what follows from them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example, read_examples, write_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.guide.dataset.collect import FEEDBACK
from fine_tune_pipeline.guide.dataset.steps import EXAMPLES, MARK, made, out, read_steps, write_step
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.dataset import ReviewSpec

REFUSED_VERDICTS = "refused_verdicts.jsonl"
"""Verdicts that could not be used, with the reason; they are no examples, so they are not in the quarantine."""

VERDICTS = ("accept", "reject", "fix")

HOW = (
    'Write one line per row: {"id": "…", "verdict": "accept" | "reject" | "fix", "by": "your name"}; '
    'fix also needs "completion" (the right answer); "note" is optional.'
)


@dataclass(frozen=True)
class Verdict:
    """What one person says of one example; `completion` is the right answer of a `fix`."""

    id: str
    verdict: str
    by: str
    completion: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Reviewed:
    """Examples after the verdicts, those that people rejected, and ids that still wait for one."""

    examples: list[Example]
    quarantine: list[Quarantined]
    waiting: list[str]
    counts: dict[str, int]


def chosen(examples: Sequence[Example], spec: ReviewSpec, *, seed: int) -> list[Example]:
    """The examples that experts see: all that a step marked, all corrections from production, and a share of the rest by seed and id."""
    if spec.policy == "auto_accept":
        return []
    must = [example for example in examples if _must(example)]
    rest = [example for example in examples if not _must(example)]
    ranked = sorted(rest, key=lambda example: hashlib.sha256(f"{seed}:{example.id}".encode()).digest())
    picked = {example.id for example in (*must, *ranked[: max(1, round(spec.share * len(rest)))])}
    return [example for example in examples if example.id in picked]


def hand_out(scrubbed: Path, *, spec: ReviewSpec, reviews: ReviewFolder, seed: int) -> None:
    """Write the rows that people get, if the policy asks for people; always, since the folder is not the store's and may be gone."""
    if spec.policy == "experts":
        reviews.hand_out(handout(chosen(read_examples(scrubbed / EXAMPLES), spec, seed=seed)))


def handout(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The rows that people get."""
    return [
        {"id": example.id, "prompt": example.prompt, "completion": example.completion, "source": example.source, "why": _why(example)}
        for example in examples
    ]


def read_verdicts(
    rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, Example], task: Task
) -> tuple[dict[str, Verdict], list[Quarantined]]:
    """The latest verdict on each example, and the rows that are none, with the reason.

    Args:
        rows: as handed in, oldest first.
        wanted: the examples that were handed out, by id.
        task: a fix must be a valid answer of it.
    """
    latest: dict[str, Verdict] = {}
    refused = []
    for row in rows:
        problem = _problem(row, wanted, task)
        if problem is None:
            latest[str(row["id"])] = Verdict(
                str(row["id"]),
                row["verdict"],
                row["by"].strip(),
                row.get("completion") if row["verdict"] == "fix" else None,
                str(row.get("note") or ""),
            )
        else:
            refused.append(Quarantined(id=str(row.get("id", "")), reason=problem[0], detail=problem[1], original=dict(row)))
    return latest, refused


def review(examples: Sequence[Example], verdicts: Mapping[str, Verdict], *, spec: ReviewSpec, sample: Sequence[Example]) -> Reviewed:
    """Apply the verdicts; every example says in its metadata how it was reviewed."""
    seen = {example.id for example in sample}
    kept, quarantine, waiting, counts = [], [], [], Counter[str]()
    for example in examples:
        verdict = verdicts.get(example.id)
        if verdict is not None and verdict.verdict == "reject":
            counts["reject"] += 1
            quarantine.append(out(example, "rejected_by_expert", f"by {verdict.by}: {verdict.note or 'no note'}"))
            continue
        if verdict is None:
            how = _unseen(example, spec, seen)
            kept.append(replace(example, metadata={**example.metadata, "review": how}))
            waiting += [example.id] if how == "waiting" else []
        else:
            how = verdict.verdict
            completion = example.completion if verdict.completion is None else verdict.completion
            metadata = {**example.metadata, "review": how, "reviewed_by": verdict.by}
            kept.append(replace(example, completion=completion, metadata=metadata))
        counts[how] += 1
    return Reviewed(kept, quarantine, waiting, dict(counts.most_common()))


def reviewed(scrubbed: Path, folder: Path, *, spec: ReviewSpec, task: Task, reviews: ReviewFolder, seed: int) -> Built:
    """Apply what people handed in to the examples of the folder `scrubbed`, into `folder`."""
    examples = read_examples(scrubbed / EXAMPLES)
    sample = chosen(examples, spec, seed=seed)
    given = reviews.verdicts() if spec.policy == "experts" else []
    verdicts, refused = read_verdicts(given, {example.id: example for example in sample}, task)
    result = review(examples, verdicts, spec=spec, sample=sample)
    reviewers = dict(Counter(verdict.by for verdict in verdicts.values()).most_common())
    notes = {"policy": spec.policy, "handed_out": len(sample), "verdicts": result.counts, "reviewers": reviewers}
    fixed = {"completion_by_expert": result.counts["fix"]} if result.counts.get("fix") else {}
    step = made("review", kept=result.examples, quarantine=result.quarantine, fixed=fixed, notes=notes)
    before = read_steps(scrubbed)
    write_step(folder, step, examples=result.examples, quarantine=result.quarantine, before=before)
    write_rows(folder / REFUSED_VERDICTS, (asdict(row) for row in refused))
    return Built(
        metadata={
            **step.metadata(before=before), "policy": spec.policy, "handed_out": len(sample), "waiting": len(result.waiting),
            "refused_verdicts": len(refused), "reviewers": list(reviewers) or "nobody",
        },
        markdown={"review": said(step.notes)},
        checks=[_check(result, sample, reviews, refused)],
    )  # fmt: skip


def said(notes: Mapping[str, Any]) -> str:
    """A sentence on how the examples were reviewed, the same in the UI and in the data card."""
    if notes["policy"] == "auto_accept":
        return "Review policy `auto_accept`: all examples were **accepted without any human look**."
    counts = notes["verdicts"]
    who = ", ".join(f"{name} ({rows})" for name, rows in notes["reviewers"].items()) or "nobody yet"
    unseen = counts.get("not_sampled", 0)
    return (
        f"Review policy `experts`: {notes['handed_out']} examples were handed out; accepted {counts.get('accept', 0)}, "
        f"fixed {counts.get('fix', 0)}, rejected {counts.get('reject', 0)}, waiting {counts.get('waiting', 0)}. "
        f"Reviewers: {who}. {unseen} examples outside the sample were accepted without a look."
    )


def _check(result: Reviewed, sample: Sequence[Example], reviews: ReviewFolder, refused: Sequence[Quarantined]) -> Check:
    done, total = len(sample) - len(result.waiting), len(sample)
    numbers = {"verdicts": done, "handed_out": total, "refused_verdicts": len(refused)}
    if not result.waiting:
        seen = f"{total} of {total} handed-out examples have a verdict." if total else "Nothing was handed out; no human look is asked for."
        return Check(name="reviewed", passed=True, description=seen, metadata=numbers)
    reasons = f" {len(refused)} verdicts could not be used, the first: {refused[0].detail}." if refused else ""
    return Check(
        name="reviewed", passed=False, metadata=numbers,
        description=f"waiting for people: {done} of {total} examples have a verdict. Read {reviews.folder / 'handout.jsonl'} and write "
        f"{reviews.verdict_file}. {HOW}{reasons} Then materialize reviewed_examples again.",
    )  # fmt: skip


def _problem(row: Mapping[str, Any], wanted: Mapping[str, Example], task: Task) -> tuple[str, str] | None:
    id_, verdict, by = str(row.get("id", "")), row.get("verdict"), row.get("by")
    if id_ not in wanted:
        return "unknown_id", f"id {id_!r} was not handed out; copy ids from the hand-out"
    if verdict not in VERDICTS:
        return "unknown_verdict", f"{id_}: verdict is {verdict!r}, want one of {', '.join(VERDICTS)}"
    if not isinstance(by, str) or not by.strip():
        return "no_reviewer", f"{id_}: `by` is {by!r}, want the name of who decided"
    if verdict == "fix":
        completion = row.get("completion")
        if not isinstance(completion, str):
            return "invalid_fix", f"{id_}: fix needs `completion`, a text; got {completion!r}"
        problem = task.problem(completion)
        if problem is not None:
            return "invalid_fix", f"{id_}: {problem}"
    return None


def _unseen(example: Example, spec: ReviewSpec, seen: set[str]) -> str:
    """How an example without a verdict counts."""
    if spec.policy == "auto_accept":
        return "auto_accept"
    return "waiting" if example.id in seen else "not_sampled"


def _must(example: Example) -> bool:
    return MARK in example.metadata or example.source == FEEDBACK


def _why(example: Example) -> str:
    if MARK in example.metadata:
        return example.metadata[MARK]
    return "correction from production" if example.source == FEEDBACK else "sample"
