"""People look at examples: what follows from their verdicts, and how the report says it."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fine_tune_pipeline.artifacts.examples import Example, write_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.artifacts.sequences import Chosen, stored_examples
from fine_tune_pipeline.guide.dataset.review.agreement import Agreement, agreement
from fine_tune_pipeline.guide.dataset.review.round import Round, spoken_of
from fine_tune_pipeline.guide.dataset.review.sample import ResidueSample, Sample, content_of, residue_sample
from fine_tune_pipeline.guide.dataset.review.verdicts import Settled
from fine_tune_pipeline.guide.dataset.scrubbing.residue_estimate import Estimate
from fine_tune_pipeline.guide.dataset.steps import EXAMPLES, Why, made, out, read_steps, write_step
from fine_tune_pipeline.people.agreement import WEAK
from fine_tune_pipeline.spec.dataset import ReviewSpec

REFUSED_VERDICTS = "refused_verdicts.jsonl"
"""Verdicts that could not be used, with the reason; they are no examples, so they are not in the quarantine."""

DISAGREEMENTS = "disagreements.jsonl"
"""Rows on which people disagree, with what each of them says."""

HOW = (
    'Write one line per row: {"id": "…", "verdict": "accept" | "reject" | "fix", "by": "your name"}; '
    'fix also needs "completion" (the right answer); "note" is optional. Or fill in review.html, handout.xlsx or handout.csv beside it, '
    "and hand that in: `fine-tune-pipeline review USE_CASE FILE`."
)

_SHOWN_ROWS = 20


@dataclass(frozen=True)
class Reviewed:
    """Examples after the verdicts, those that go no further, and ids that still wait; on those of `disputed` people disagree."""

    examples: Sequence[Example]
    quarantine: Sequence[Quarantined]
    waiting: list[str]
    disputed: list[str]
    counts: dict[str, int]


def review(examples: Sequence[Example], settled: Mapping[str, Settled], *, spec: ReviewSpec, sample: Sample) -> Reviewed:
    """Apply the verdicts; every example that goes on says in its metadata how it was reviewed.

    Args:
        settled: content -> what people say of it; it holds for every example that shows this content, in the sample or not.
    """
    asked = sample.ids
    kept, gone, waiting, disputed, counts = array("q"), {}, [], [], Counter[str]()

    def applied(example: Example) -> _Applied:
        return _applied(example, settled.get(content_of(example)) if settled else None, spec=spec, asked=asked, held_back=sample.held_back)

    def after(_: int, example: Example) -> Example:
        done = applied(example)
        return replace(done.example, metadata={**done.example.metadata, "review": done.how})

    for place, example in enumerate(examples):
        how, _, why = applied(example)
        counts[how] += 1
        if why is None:
            kept.append(place)
        else:
            gone[place] = why
        if how == "waiting":
            waiting.append(example.id)
            disputed += [example.id] if settled and content_of(example) in settled else []
    quarantine = Chosen(examples, list(gone), lambda place, example: out(example, *gone[place]))
    return Reviewed(Chosen(examples, kept, after), quarantine, waiting, disputed, dict(counts.most_common()))


def reviewed(scrubbed: Path, folder: Path, *, spec: ReviewSpec, sample: Sample, done: Round, reviews: ReviewFolder, seed: int) -> Built:
    """Apply what people said to the examples of the folder `scrubbed`, into `folder`."""
    examples = stored_examples(scrubbed / EXAMPLES)
    result = review(examples, done.settled, spec=spec, sample=sample)
    here = spoken_of(examples, done)
    verdicts = [verdict for verdict in done.verdicts if verdict.content in here]
    reviewers = dict(Counter(name for name, found in done.settled.items() if name in here for name in found.people).most_common())
    agreed = agreement(verdicts, seed=seed)
    residue = residue_sample(done.settled, sample)
    notes = {
        "policy": spec.policy, "handed_out": len(sample.rows), "verdicts": result.counts, "reviewers": reviewers,
        "sample": sample.table(), "residue_sample": residue._asdict(),
        "agreement": agreed.table(), "agreement_said": agreed.said,
    }  # fmt: skip
    fixed = {"completion_by_expert": result.counts["fix"]} if result.counts.get("fix") else {}
    step = made("review", kept=result.examples, quarantine=result.quarantine, fixed=fixed, notes=notes)
    before = read_steps(scrubbed)
    write_step(folder, step, examples=result.examples, quarantine=result.quarantine, before=before)
    write_rows(folder / REFUSED_VERDICTS, (asdict(row) for row in done.refused))
    disputes = _disputes(result, examples, done)
    write_rows(folder / DISAGREEMENTS, disputes)
    return Built(
        metadata={
            **step.metadata(before=before), "policy": spec.policy, "handed_out": len(sample.rows), "waiting": len(result.waiting),
            "refused_verdicts": len(done.refused), "reviewers": list(reviewers) or "nobody", **agreed.metadata(), **_seen(residue),
            **{name: rows[:_SHOWN_ROWS] for name, rows in (("sample", sample.table()), ("disagreements", disputes)) if rows},
        },
        markdown={"review": said(step.notes)},
        checks=[_check(result, sample, reviews, done.refused), _agreement_check(agreed, sample, done, spec)],
    )  # fmt: skip


def said(notes: Mapping[str, Any]) -> str:
    """Some sentences on how the examples were reviewed, the same in the UI and in the data card."""
    if notes["policy"] == "auto_accept":
        return "Review policy `auto_accept`: all examples were **accepted without any human look**."
    counts = notes["verdicts"]
    who = ", ".join(f"{name} ({rows})" for name, rows in notes["reviewers"].items()) or "nobody yet"
    unseen = counts.get("not_sampled", 0)
    return (
        f"Review policy `experts`: {notes['handed_out']} examples were handed out; accepted {counts.get('accept', 0)}, "
        f"fixed {counts.get('fix', 0)}, rejected {counts.get('reject', 0)}, still holding personal data {counts.get('personal_data', 0)}, "
        f"waiting {counts.get('waiting', 0)}. Reviewers: {who}. {unseen} examples outside the sample were accepted without a look."
        f"{_left_out(notes)} {notes.get('agreement_said', '')}"
    ).strip()


def _left_out(notes: Mapping[str, Any]) -> str:
    left = {row["part"]: row["left_out"] for row in notes.get("sample", []) if row["left_out"]}
    if not left:
        return ""
    parts = ", ".join(f"{part} {rows}" for part, rows in left.items())
    gone = notes["verdicts"].get("left_out", 0)
    return f" The limit `most` left {sum(left.values())} out ({parts}); {gone} of them may not go on unseen and are in the quarantine."


def _seen(residue: ResidueSample) -> dict[str, float]:
    upper = Estimate(residue.looked_at, residue.still_private).upper
    return {
        "random_rows_looked_at": residue.looked_at,
        "random_rows_with_personal_data": residue.still_private,
        "share_with_personal_data_at_most": round(upper, 4),
    }


class _Applied(NamedTuple):
    """How an example counts, the example as it goes on, and why it does not."""

    how: str
    example: Example
    why: Why | None


def _applied(example: Example, found: Settled | None, *, spec: ReviewSpec, asked: set[str], held_back: frozenset[str]) -> _Applied:
    if found is None or found.verdict is None:
        if found is None and example.id in held_back:
            why = Why("left_out_of_review", "marked, and above the limit dataset.review.most: nobody saw it")
            return _Applied("left_out", example, why)
        return _Applied(_unseen(example, spec, asked, disputed=found is not None), example, None)
    verdict, by = found.verdict, found.said
    if verdict.private is False:
        detail = f"{verdict.by} still sees personal data: {verdict.note or 'no note'}"
        return _Applied("personal_data", example, Why("personal_data_by_expert", detail))
    if verdict.verdict == "reject":
        return _Applied("reject", example, Why("rejected_by_expert", f"by {by}: {verdict.note or _answers(found) or 'no note'}"))
    completion = example.completion if verdict.completion is None else verdict.completion
    # An expert may find the answer right that people liked less: then there is nothing to compare.
    rejected = None if example.rejected == completion else example.rejected
    new = replace(example, completion=completion, rejected=rejected, metadata={**example.metadata, "reviewed_by": by})
    return _Applied(verdict.verdict, new, None)


def _answers(found: Settled) -> str:
    assert found.verdict is not None
    return ", ".join(f"{name}: no" for name in ("correct", "complete", "tone") if getattr(found.verdict, name) is False)


def _unseen(example: Example, spec: ReviewSpec, asked: set[str], *, disputed: bool) -> str:
    """How an example without a verdict counts."""
    if spec.policy == "auto_accept":
        return "auto_accept"
    return "waiting" if disputed or example.id in asked else "not_sampled"


def _disputes(result: Reviewed, examples: Sequence[Example], done: Round) -> list[dict[str, Any]]:
    rows = []
    for example in examples if result.disputed else []:
        if example.id in result.disputed:
            latest = {verdict.person: verdict for verdict in done.verdicts if verdict.content == content_of(example)}
            views = "; ".join(f"{verdict.by}: {verdict.completion or verdict.verdict}" for verdict in latest.values())
            rows.append({"id": example.id, "said": views, "prompt": example.prompt, "completion": example.completion})
    return rows


def _check(result: Reviewed, sample: Sample, reviews: ReviewFolder, refused: Sequence[Quarantined]) -> Check:
    total, waiting = len(sample.rows), set(result.waiting)
    done = sum(example.id not in waiting for example in sample.rows)
    numbers = {"verdicts": done, "handed_out": total, "refused_verdicts": len(refused)}
    if not waiting:
        seen = f"{total} of {total} handed-out examples have a verdict." if total else "Nothing was handed out; no human look is asked for."
        return Check(name="reviewed", passed=True, description=seen, metadata=numbers)
    reasons = f" {len(refused)} verdicts could not be used, the first: {refused[0].detail}." if refused else ""
    disputed = (
        f" On {len(result.disputed)} people disagree, so a third has to look: {', '.join(result.disputed[:5])}." if result.disputed else ""
    )
    return Check(
        name="reviewed", passed=False, metadata=numbers,
        description=f"waiting for people: {done} of {total} examples have a verdict.{disputed} Read {reviews.folder / 'handout.jsonl'} and "
        f"write {reviews.verdict_file}. {HOW}{reasons} Then materialize reviewed_examples again.",
    )  # fmt: skip


def _agreement_check(agreed: Agreement, sample: Sample, done: Round, spec: ReviewSpec) -> Check:
    """Warns while second looks are missing, or people agree little more than by chance."""
    if spec.policy == "auto_accept" or not sample.twice:
        return Check(name="agreement", passed=True, blocking=False, description="No row is for two people, so there is nothing to compare.")
    people = {example.id: done.settled.get(content_of(example)) for example in sample.rows if example.id in sample.twice}
    # Rows that nobody has judged yet are what the other check waits for.
    missing = sum(found is not None and len(found.people) < 2 and _may_go_on(found) for found in people.values())
    weak = agreed.beyond_chance is not None and agreed.beyond_chance.value < WEAK
    lacks = f" {missing} of {len(sample.twice)} rows for two people lack a second one." if missing else ""
    todo = f" Below {WEAK}: agree on what is right before more is judged; see {DISAGREEMENTS}." if weak else ""
    return Check(
        name="agreement", passed=not missing and not weak, blocking=False, description=f"{agreed.said}{lacks}{todo}",
        metadata={"missing_second_looks": missing, **agreed.metadata()},
    )  # fmt: skip


def _may_go_on(found: Settled) -> bool:
    return found.verdict is None or found.verdict.private is not False
