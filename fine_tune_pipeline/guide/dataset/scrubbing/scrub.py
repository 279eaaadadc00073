"""Takes personal data out of examples, the same in prompt and completion, without breaking an answer that has a form."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fine_tune_pipeline.artifacts.examples import Example, write_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.parts import Gathered, Work, Worked, total
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.scrubbing.residue import CHECKABLE, Residue, residue, shown
from fine_tune_pipeline.guide.dataset.sources.shape import RESERVED_METADATA
from fine_tune_pipeline.guide.dataset.steps import Step, marked, of_parts, write_parts
from fine_tune_pipeline.guide.dataset.turns import with_words, words
from fine_tune_pipeline.guide.objective.task import Task, parsed, task_of
from fine_tune_pipeline.programs.pii.personal_data import Span, StandIn, known, merged, repeated, replaced, type_tag
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline.programs.pii.vault import sealed, together
from fine_tune_pipeline.programs.serving.nested import mapped, strings
from fine_tune_pipeline.spec.dataset import PiiSpec

SURE_SCORE = 0.6
"""A row with a finding below it is marked, so that experts see it: Presidio gives 0.4 to numbers that only look like a telephone's."""

VAULT = "vault.jsonl"
"""What hashes and pseudonyms stand for, sealed."""

_BATCH = 256
_SHOWN_ROWS = 5


class Detect(Protocol):
    """Finds personal data; `fine_tune_pipeline.programs.pii.scrubbing.Detector` is one."""

    @property
    def name(self) -> str:
        """Packages and versions, for the record."""

    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        """Spans of each text, merged and in order."""

    def patterns(self, text: str) -> list[Span]:
        """Spans by patterns alone, for short values."""


@dataclass(frozen=True)
class Scrubbed:
    """Examples without personal data, and what was taken out of them: entity -> replacements. `changed` are the ids of changed examples."""

    examples: list[Example]
    quarantine: list[Quarantined]
    found: Counter[str]
    changed: list[str]


def scrub(
    examples: Sequence[Example],
    *,
    detect: Detect,
    task: Task,
    stand_in: StandIn = type_tag,
    remove: bool = False,
    allow: Sequence[str] = (),
) -> Scrubbed:
    """Replace personal data, by its type such as `<PERSON>` or otherwise, or quarantine the examples that hold any.

    Args:
        examples: any number; they come back as many and in the same order, those in the quarantine aside.
        detect: finds the spans of texts.
        task: decides whether a completion is still valid; where a replacement would break it, the text is left and the example marked.
        stand_in: what is written instead.
        remove: quarantine instead of going on.
        allow: values that stay even where they are part of what was found elsewhere in the row.
    """
    spans = _detected(examples, detect, task)
    kept, quarantine, total, changed = [], [], Counter[str](), []
    for example in examples:
        new, found, unsure = _one(example, spans, detect, task, stand_in, allow)
        total.update(found)
        if found:
            changed.append(example.id)
        if found and remove:
            detail = f"holds {', '.join(sorted(found))}; shown here with it replaced"
            quarantine.append(Quarantined(id=example.id, reason="personal_data", detail=detail, original=new.row()))
        else:
            kept.append(marked(new, f"personal_data_unsure: {', '.join(unsure)}") if unsure else new)
    return Scrubbed(kept, quarantine, total, changed)


def scrub_work(settings: Mapping[str, Any]) -> Work:
    """The work on one part, for a process that has nothing but plain settings.

    Args:
        settings: `pii` as in the YAML, `task` as described, the name of the variable that holds the key of stand-ins, and `ner`, the
            folder of an adapted NER, where there is one.
    """
    from fine_tune_pipeline.programs.pii.scrubbing import detector

    pii, task = PiiSpec.model_validate(settings["pii"]), task_of(settings["task"])
    return partial(
        scrubbed_part,
        spec=pii,
        task=task,
        detect=detector(pii, ner=settings.get("ner")),
        stand_ins=StandIns.from_environment(pii, variable=settings["key_variable"]),
    )


def scrubbed_part(examples: Sequence[Example], *, spec: PiiSpec, task: Task, detect: Detect, stand_ins: StandIns) -> Worked:
    """Take personal data out of some examples, and look whether any is left."""
    stand_in = stand_ins.fresh()
    result = scrub(examples, detect=detect, task=task, stand_in=stand_in, remove=spec.operator == "remove", allow=spec.allow)
    left = residue(result.examples, spec.entities, known=stand_in.issued)
    gone = {row.id for row in result.quarantine}
    changed = {"rows": len(result.changed), "kept": sum(id_ not in gone for id_ in result.changed)}
    notes = {"found": result.found, "changed": changed, "residue": left.rows, "sample": _sample(result), "detector": detect.name}
    if spec.vault:
        notes["vault"] = sealed(stand_in.given, key=stand_in.key)
    return Worked(result.examples, result.quarantine, notes)


def scrubbed(done: Gathered, folder: Path, *, spec: PiiSpec, before: Sequence[Step]) -> Built:
    """Write what came of the parts into `folder`.

    Args:
        before: the steps so far, with nothing in them that the data card must not show (`disclosed`).
    """
    found, changed = (dict(sorted(total(note[name] for note in done.notes).items())) for name in ("found", "changed"))
    left = Residue.together([note["residue"] for note in done.notes], total=done.kept)
    detector = done.notes[0]["detector"] if done.notes else "none"
    rows = changed.get("rows", 0)
    notes = {"personal_data": found, "rows_with_personal_data": rows, "detector": detector, "residue_rows": len(left.ids)}
    fixes = {"personal_data_replaced": changed["kept"]} if changed.get("kept") else {}
    step = of_parts("scrub", done, fixed=fixes, notes=notes)
    write_parts(folder, step, done, before=before)
    if spec.vault:
        write_rows(folder / VAULT, together(note["vault"] for note in done.notes))
    table = [{"entity": entity, "replacements": count} for entity, count in found.items()]
    numbers = {"rows_with_personal_data": rows, "replacements": sum(found.values()), "detector": detector}
    sample = [line for note in done.notes for line in note["sample"]][:_SHOWN_ROWS]
    return Built(
        metadata={**step.metadata(before=before), **numbers, "personal_data": table},
        markdown={"examples": "\n".join(sample) or "No personal data was found."},
        checks=[_residue_check(left, spec)],
    )


def _residue_check(left: Residue, spec: PiiSpec) -> Check:
    passed = left.share <= spec.residue_limit
    looked = ", ".join(kind for kind in CHECKABLE if kind in spec.entities) or "no kind"
    said = (
        f"{len(left.ids)} of {left.total} rows still hold a checkable identifier (looked for: {looked}); limit {spec.residue_limit:.1%}. "
        "Names and places cannot be checked so, and recall is never 1: the data card estimates the rest from rows that people looked at."
    )
    todo = f" Found {shown(left)}. Look at these rows of clean_examples: correct them in the source, or raise dataset.pii.residue_limit."
    return Check(
        name="pii_residue", passed=passed, description=said if passed else said + todo,
        metadata={"rows": len(left.ids), "share": left.share, "limit": spec.residue_limit},
    )  # fmt: skip


def _detected(examples: Sequence[Example], detect: Detect, task: Task) -> dict[str, list[Span]]:
    """Spans of every different text in prompts, earlier turns and free parts of completions."""
    texts = [text for example in examples for text in _texts(example, task)]
    once = list(dict.fromkeys(texts))
    spans: dict[str, list[Span]] = {}
    for start in range(0, len(once), _BATCH):
        batch = once[start : start + _BATCH]
        spans.update(zip(batch, detect(batch), strict=True))
    return spans


def _texts(example: Example, task: Task) -> list[str]:
    """All of an example that people wrote."""
    return [example.prompt, *_around(example), *_free_texts(example.completion, task)]


def _around(example: Example) -> list[str]:
    """What stands beside prompt and completion: the words and the calls of earlier turns, the answer that was liked less."""
    turns = [text for message in example.history for text in words(message)]
    return [*turns, *([] if example.rejected is None else [example.rejected])]


def _free_texts(completion: str, task: Task) -> list[str]:
    """The parts of an answer that people wrote: all of it, or the values of a JSON answer, without what comes from a closed list."""
    if task.type == "classification":
        return []
    if task.type != "extraction":
        return [completion]
    closed = {value for values in task.enum_fields.values() for value in values}
    return [text for text in strings(parsed(completion)) if text not in closed]


def _one(
    example: Example, spans: Mapping[str, list[Span]], detect: Detect, task: Task, stand_in: StandIn, allow: Sequence[str]
) -> tuple[Example, Counter[str], list[str]]:
    """The example without personal data, what was replaced in it, and the entities that the detector or the task left unsure."""
    answers = _free_texts(example.completion, task)
    here = {text: spans[text] for text in _texts(example, task)}
    values = {value: entity for text, found in here.items() for value, entity in known(found, text, allow=allow).items()}
    full = {text: merged([*found, *repeated(values, text, besides=found)], text) for text, found in here.items()}
    completion, replaced_answers, left = _completion(example.completion, {text: full[text] for text in answers}, task, stand_in)
    metadata, columns = _metadata(example.metadata, detect, stand_in)
    around = _around(example)
    gone = [*(span for text in (example.prompt, *around, *replaced_answers) for span in full[text]), *columns]
    unsure = sorted({span.entity for span in gone if span.score < SURE_SCORE} | {span.entity for text in left for span in full[text]})
    clean = {text: replaced(text, full[text], stand_in) for text in (example.prompt, *around)}
    history = [with_words(message, clean) for message in example.history]
    rejected = None if example.rejected is None else clean[example.rejected]
    new = replace(example, prompt=clean[example.prompt], completion=completion, metadata=metadata, history=history, rejected=rejected)
    return new, Counter(span.entity for span in gone), unsure


def _completion(completion: str, spans: Mapping[str, list[Span]], task: Task, stand_in: StandIn) -> tuple[str, list[str], list[str]]:
    """The completion with the texts replaced one after the other as long as it stays valid; which were, and which had to be left."""
    done: dict[str, str] = {}
    left = []
    for text, found in spans.items():
        if not found:
            continue
        trial = {**done, text: replaced(text, found, stand_in)}
        if task.problem(_with(completion, trial, task)) is None:
            done = trial
        else:
            left.append(text)
    return _with(completion, done, task), list(done), left


def _with(completion: str, new: Mapping[str, str], task: Task) -> str:
    if not new:
        return completion
    if task.type != "extraction":
        return new[completion]
    return json.dumps(mapped(parsed(completion), new), ensure_ascii=False)


def _metadata(metadata: Mapping[str, str], detect: Detect, stand_in: StandIn) -> tuple[dict[str, str], list[Span]]:
    """Columns without identifiers that a pattern finds; names stay, since a model takes `App` or `Branch 7` for one."""
    gone: list[Span] = []
    result = dict(metadata)
    for name, value in metadata.items():
        # Only what may be an identifier is looked at: most columns are short words, the same in thousands of rows.
        if name not in RESERVED_METADATA and any(sign.isdigit() or sign == "@" for sign in value):
            spans = detect.patterns(value)
            result[name] = replaced(value, spans, stand_in)
            gone += spans
    return result, gone


def _sample(result: Scrubbed) -> list[str]:
    """Some changed prompts as they are now; what stood there before is in the artifact of the step before, and nowhere else."""
    changed = set(result.changed)
    rows = [example for example in result.examples if example.id in changed][:_SHOWN_ROWS]
    return [f"- `{example.id}` {_one_line(example.prompt)}" for example in rows]


def _one_line(text: str) -> str:
    # Markdown would take `<PERSON>` for HTML and hide it.
    return " ".join(text.replace("<", "&lt;").split())[:300]
