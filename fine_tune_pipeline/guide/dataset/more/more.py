"""Rows beside those of the sources: labels by vote, variants, questions about documents. They join `raw_examples`, before any check."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.documents import read_chunks
from fine_tune_pipeline.artifacts.examples import Example, read_examples
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.quarantine import Quarantined, read_quarantine
from fine_tune_pipeline.guide.dataset.more.augment import Plan, planned, source_of, variant
from fine_tune_pipeline.guide.dataset.more.balance import NoClasses, balancing
from fine_tune_pipeline.guide.dataset.more.chat_model import Chat
from fine_tune_pipeline.guide.dataset.more.hard import Slice, rows_in
from fine_tune_pipeline.guide.dataset.more.label_rules import labelled_fields, voters
from fine_tune_pipeline.guide.dataset.more.labelling import is_unlabelled, label
from fine_tune_pipeline.guide.dataset.more.made_rows import LABELLED_BY, SYNTHETIC, kinds, most_made
from fine_tune_pipeline.guide.dataset.more.paraphrase import paraphrased
from fine_tune_pipeline.guide.dataset.more.questions import Passage, asked_about, chosen_passages
from fine_tune_pipeline.guide.dataset.steps import EXAMPLES, made, read_steps, write_step
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.more import ChatModel, MoreSpec, Paraphrases

Scrub = Callable[[Sequence[Example]], list[Example]]
"""Takes personal data out of examples; those that may not be used at all do not come back."""


class NothingToAskAbout(ValueError):
    """Questions are wanted, and no source holds documents."""


@dataclass(frozen=True)
class Means:
    """What rows are made with.

    `scrub` comes first: a slip in a name would hide it from the detector later, and a model's server is somebody else's place.
    """

    spec: MoreSpec
    task: Task
    seed: int
    folder: Path
    scrub: Scrub
    chat: Callable[[ChatModel], Chat]
    hard: Sequence[Slice] = ()


@dataclass(frozen=True)
class More:
    """All rows, those that could not be made or labelled, and tables of what was done."""

    examples: list[Example]
    quarantine: list[Quarantined]
    labelling: list[dict[str, Any]]
    made: list[dict[str, Any]]


def with_more(folder: Path, built: Built, means: Means) -> Built:
    """Add rows to those that `collected` wrote into `folder`; they count as rows of further sources.

    Raises:
        UnknownLabel, MissingFunction, BrokenRule: of labelling, names the rule.
        NoClasses, BrokenVariant, NothingToAskAbout: of augmentation, balance and questions.
        NoModelKey, ModelRefused, ModelUnreachable: of the models that are asked.
    """
    result = more(read_examples(folder / EXAMPLES), passages_of(folder), means)
    *before, step = read_steps(folder)
    quarantine = [*read_quarantine(folder), *result.quarantine]
    sources = [*step.notes["sources"], *result.made]
    tables = {"labelling": result.labelling, "hard_slices": [vars(one) for one in means.hard]}
    shown = {name: rows for name, rows in tables.items() if rows}
    step = made(step.name, kept=result.examples, quarantine=quarantine, fixed=step.fixed, notes={**step.notes, "sources": sources, **shown})
    write_step(folder, step, examples=result.examples, quarantine=quarantine, before=before)
    numbers = {**step.metadata(before=before), **_numbers(result.examples)}
    return built.model_copy(update={"metadata": {**built.metadata, **numbers, "sources": sources, **shown}})


def more(examples: Sequence[Example], passages: Sequence[Passage], means: Means) -> More:
    """Label what has no label, and make what the spec asks for, within its share."""
    spec = means.spec
    rows, unlabelled, table = _labelled(examples, means)
    origins = [row for row in examples if not row.held_out and row.completion.strip()]
    plans = [plan for plan in _plans(origins, means) if _changes_something(plan, means)]
    asked = chosen_passages(passages, spec.questions.chunks, seed=means.seed) if spec.questions else []
    room = most_made(sum(not row.held_out for row in rows), spec.most_share)
    plans = sorted(sorted(plans, key=lambda plan: plan.rank)[:room], key=lambda plan: plan.origin.id)
    variants, refused = _variants(plans, means)
    answered, unusable = _questions(asked, means)
    new, gone = _each_once([*variants, *answered]), [*refused, *unusable]
    return More([*rows, *new], [*unlabelled, *gone], table, _sources(new, gone))


def passages_of(folder: Path) -> list[Passage]:
    """Parts of documents that lie beside the examples."""
    return [Passage(chunk.id, chunk.text, chunk.place) for chunk in read_chunks(folder)]


def _labelled(examples: Sequence[Example], means: Means) -> tuple[list[Example], list[Quarantined], list[dict[str, Any]]]:
    spec = means.spec.labelling
    if spec is None:
        return list(examples), [], []
    open_, known = [row for row in examples if is_unlabelled(row)], [row for row in examples if not is_unlabelled(row) and not row.held_out]
    rules = voters(spec, task=means.task, folder=means.folder)
    result = label(open_, known, voters=rules, task=means.task, fields=labelled_fields(means.task), sure=spec.sure)
    new = {row.id: row for row in result.examples}
    rows = [new.get(row.id, row) for row in examples if row.id in new or not is_unlabelled(row)]
    return rows, result.quarantine, result.table


def _plans(origins: Sequence[Example], means: Means) -> list[Plan]:
    spec, task = means.spec, means.task
    for place, how in enumerate(spec.augment):
        unknown = sorted(set(how.classes) - set(task.classes))
        if unknown:
            wanted = ", ".join(task.classes) or "none: the task has no classes"
            raise NoClasses(f"dataset.more.augment[{place}].classes: got {unknown[0]!r}, want {wanted}")
    plans = planned(origins, spec, task=task, hard=rows_in(means.hard, origins, task), seed=means.seed)
    if spec.balance is not None and spec.balance.by == "repeat":
        plans += balancing(origins, plans, spec.balance, task=task, by=spec.augment)
    return plans


def _changes_something(plan: Plan, means: Means) -> bool:
    """Whether it should take a place within the share; what a model will say is not known before."""
    return isinstance(plan.how, Paraphrases) or variant(plan.origin, plan.how, number=plan.number, seed=means.seed) is not None


def _variants(plans: Sequence[Plan], means: Means) -> tuple[list[Example], list[Quarantined]]:
    """The planned variants, of scrubbed rows; a plan that finds nothing to change makes nothing."""
    needed = list({plan.origin.id: plan.origin for plan in plans}.values())
    clean = {row.id: row for row in means.scrub(needed)} if needed else {}
    found: list[Example] = []
    refused: list[Quarantined] = []
    for plan in plans:
        if plan.origin.id in clean and not isinstance(plan.how, Paraphrases):
            new = variant(clean[plan.origin.id], plan.how, number=plan.number, seed=means.seed)
            found += [] if new is None else [new]
    for how in dict.fromkeys(plan.how.ask.model_dump_json() for plan in plans if isinstance(plan.how, Paraphrases)):
        ask = ChatModel.model_validate_json(how)
        mine = [(clean[plan.origin.id], plan.number) for plan in plans if plan.origin.id in clean and getattr(plan.how, "ask", None) == ask]
        by_model, unusable = paraphrased(mine, means.chat(ask))
        found += by_model
        refused += unusable
    return found, refused


def _questions(passages: Sequence[Passage], means: Means) -> tuple[list[Example], list[Quarantined]]:
    spec = means.spec.questions
    if spec is None:
        return [], []
    if means.task.type in ("classification", "extraction"):
        raise NoClasses(f"dataset.more.questions: answers of the task {means.task.type} are not written about documents; leave it out")
    if not passages:
        raise NothingToAskAbout("dataset.more.questions: there are no documents to ask about; name some in dataset.documents")
    as_rows = [Example(id=passage.id, prompt=passage.text, completion="-") for passage in passages]
    texts = {row.id: row.prompt for row in means.scrub(as_rows)}
    scrubbed = [replace(passage, text=texts[passage.id]) for passage in passages if passage.id in texts]
    return asked_about(scrubbed, means.chat(spec.ask), each=spec.per_chunk)


def _each_once(rows: Sequence[Example]) -> list[Example]:
    """Ids hold a hash of the text: the same variant made twice is one row."""
    return list({row.id: row for row in rows}.values())


def _sources(new: Sequence[Example], refused: Sequence[Quarantined]) -> list[dict[str, Any]]:
    """Lines for the table of sources, one for each kind of made rows."""
    bad = Counter(row.id.rsplit("~", 1)[1].split("-")[0] for row in refused)
    good = kinds(new)
    return [_line(kind, good=good.get(kind, 0), bad=bad[kind]) for kind in dict.fromkeys([*good, *bad])]


def _line(kind: str, *, good: int, bad: int) -> dict[str, Any]:
    counts = {"rows": good + bad, "taken": good + bad, "examples": good, "quarantined": bad}
    return {"source": source_of(kind), "held_out": False, **counts, "licence": "as what it was made from"}


def _numbers(examples: Sequence[Example]) -> dict[str, int]:
    synthetic = sum(SYNTHETIC in row.metadata for row in examples)
    return {"made": synthetic, "labelled_by_rules": sum(LABELLED_BY in row.metadata for row in examples)}
