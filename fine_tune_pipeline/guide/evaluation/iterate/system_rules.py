"""Rules about what answers: its form, what is simpler to run, and another base model."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.iterate.findings import Findings, told
from fine_tune_pipeline.guide.evaluation.iterate.steps import Change, NextStep
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED, WITHOUT_CONTEXT
from fine_tune_pipeline.guide.objective.criteria import criterion_text
from fine_tune_pipeline.spec.fields import has_field, value_at
from fine_tune_pipeline.spec.objective import Criterion

FORMS = ("valid_json", "schema_valid", "valid_label")

DECODING = {"extraction": "json_schema", "classification": "labels"}
"""Task -> the way of decoding that gives every answer its form."""

WELL_FORMED = 0.98
"""Of the answers: guards usually ask 0.97 or 0.98."""

CUT = 0.01
"""Share of answers cut at the token limit: one in a hundred is a loop, more is a limit that is too short."""

PLAIN = ("classifier", "word_classifier")

RETRIEVAL = "base_retrieval"

CONTEXT = "dataset.format.context"


def format_failures(found: Findings) -> Iterator[NextStep]:
    """Answers that no program can read; constrained decoding cannot give others."""
    path, decoding = "evaluation.decoding", DECODING.get(found.spec.objective.task.type)
    for metric in FORMS:
        seen = found.figure(metric)
        if seen is None or seen["estimate"] >= WELL_FORMED:
            continue
        can = decoding is not None and has_field(path) and value_at(found.spec, path) != decoding
        yield NextStep(
            "format_failures", "Constrain decoding to the task's form",
            f"{metric} is {told(seen, found.report['n'])}, want {WELL_FORMED:g}",
            (found.change(path, decoding),) if can else (),
            f"{metric} of 1 but for answers cut at the token limit; what they say may still be wrong", "none: answers only, no training",
        )  # fmt: skip
        return


def answers_cut(found: Findings) -> Iterator[NextStep]:
    """The limit is what the longest training answer takes, so test answers are longer, or the model does not stop."""
    cut = found.report["unfinished"]
    seen = cut if isinstance(cut, Mapping) else {"estimate": cut}
    if seen["estimate"] > CUT:
        yield NextStep(
            "answers_cut", "Look for training answers that are shorter than the test's",
            f"{told(seen, found.report['n'])} of the answers were cut at the token limit",
            (), "answers that end by themselves", "people: a look at the cut answers",
        )  # fmt: skip


def retrieval_does_it(found: Findings) -> Iterator[NextStep]:
    """Retrieval alone is as good within what matters and misses no criterion that the fine-tuned model meets, so tuning is not needed."""
    alone, matters = found.gain(RETRIEVAL), found.spec.objective.evidence.smallest_gain
    if found.missing(RETRIEVAL) - found.missing(FINE_TUNED):
        return
    if alone is not None and alone["upper"] is not None and alone["upper"] < matters:
        yield NextStep(
            "retrieval_does_it", "Serve the base model with retrieval, and drop tuning",
            f"tuning gains {told(alone, found.report['n'])} over retrieval, surely less than the {matters:g} that matter",
            (), f"the same {found.metric} within {matters:g}", "no training; longer prompts",
        )  # fmt: skip


def retrieval_adds(found: Findings) -> Iterator[NextStep]:
    """Retrieval surely helps the base model (the whole intervals lie apart), tuning was done without it, and the objective is not met."""
    with_, without = found.figure(found.metric, RETRIEVAL), found.figure(found.metric, found.report["compared_base"])
    if found.met or with_ is None or without is None or not has_field(CONTEXT) or value_at(found.spec, CONTEXT) == "retrieved":
        return
    higher, lower = (without, with_) if found.report["metrics"][found.metric]["better"] == "lower" else (with_, without)
    if higher["low"] is not None and lower["high"] is not None and higher["low"] > lower["high"]:
        n = found.report["n"]
        yield NextStep(
            "retrieval_adds", "Train and answer with retrieved passages",
            f"{NAMES.get(RETRIEVAL, RETRIEVAL)} has {told(with_, n)}, {NAMES[found.report['compared_base']]} {told(without, n)}",
            (found.change(CONTEXT, "retrieved"),),
            f"what retrieval gives the base model in {found.metric}, and what tuning gives",
            f"longer prompts, a training of {found.minutes:.3g} minutes or more; each request is looked up before it is answered",
        )  # fmt: skip


def retrieval_unused(found: Findings) -> Iterator[NextStep]:
    """The model was trained with passages, and without them is as good within what matters: they make prompts longer for nothing.

    While the objective is missed, nothing that surely helps is taken away.
    """
    lead, matters = found.gain(WITHOUT_CONTEXT), found.spec.objective.evidence.smallest_gain
    if found.missed and lead is not None and lead["low"] is not None and lead["low"] > 0:
        return
    if lead is not None and lead["upper"] is not None and lead["upper"] < matters and value_at(found.spec, CONTEXT) == "retrieved":
        yield NextStep(
            "retrieval_unused", "Train and answer without retrieved passages",
            f"with them it gains {told(lead, found.report['n'])} over itself without them, surely less than the {matters:g} that matter",
            (found.change(CONTEXT, "none"),), f"the same {found.metric} within {matters:g}, with shorter prompts",
            f"a training of less than {found.minutes:.3g} minutes",
        )  # fmt: skip


def plain_system_does_it(found: Findings) -> Iterator[NextStep]:
    """A classifier that is at least as good costs next to nothing."""
    for system in PLAIN:
        gain = found.gain(system)
        if gain is not None and gain["estimate"] <= 0:
            yield NextStep(
                "classifier_does_it", f"Use {NAMES.get(system, system)} alone, or let it answer where it is sure",
                f"tuning gains {told(gain, found.report['n'])} over it, so it is at least as good",
                (), f"the same {found.metric} for a small part of the cost", "none: it is trained with every run",
            )  # fmt: skip
            return


def capacity_unused(found: Findings) -> Iterator[NextStep]:
    """Every target is met with more room than matters, so a smaller base model may do as well."""
    yield from _other_base(found, "smaller", "capacity_unused", "Try a smaller base model")


def cheaper_base_suffices(found: Findings) -> Iterator[NextStep]:
    """The same room, and a base model whose answers cost less."""
    yield from _other_base(found, "cheaper", "cheaper_base_suffices", "Try a base model that is cheaper to run")


def other_base(found: Findings) -> Iterator[NextStep]:
    """It costs a new training, so it comes last, and only if the objective is missed."""
    if found.other_bases and found.missed:
        first = found.other_bases[0]
        missed = next(verdict for verdict in found.report["verdicts"] if verdict["verdict"] == "not met")
        yield NextStep(
            "other_base", f"Try a {first['kind']} base model, {first['id']}",
            f"{first['reason']}; `{missed['criterion']}` is not met: {missed['reason']}",
            _first_candidate(found, first), f"more {found.metric}, if the base model is what holds it back",
            f"a training of {found.minutes:.3g} minutes times what the model is larger",
        )  # fmt: skip


def _other_base(found: Findings, kind: str, name: str, title: str) -> Iterator[NextStep]:
    other = next((base for base in found.other_bases if base["kind"] == kind), None)
    room = _room(found)
    matters = found.spec.objective.evidence.smallest_gain
    if other is not None and room is not None and room[0] >= matters:
        yield NextStep(
            name, f"{title}, {other['id']}",
            f"every target is met with {room[0]:.3f} or more to spare ({room[1]}), and {matters:g} is what matters; {other['reason']}",
            _first_candidate(found, other), f"the objective still met, with {found.metric} a little lower",
            f"a training, of less than {found.minutes:.3g} minutes if the model is smaller",
        )  # fmt: skip


def _room(found: Findings) -> tuple[float, str] | None:
    """By how much bounds pass targets, at least, and the criterion with the least room; None unless all are met and one is a target."""
    targets: list[Criterion] = [one for one in found.spec.objective.success if one.at_least is not None or one.at_most is not None]
    if not found.met or not targets:
        return None
    verdicts = {verdict["criterion"]: verdict for verdict in found.report["verdicts"]}
    rooms = []
    for one in targets:
        verdict = verdicts.get(criterion_text(one))
        if verdict is None or verdict["bound"] is None:
            return None
        room = verdict["bound"] - one.at_least if one.at_least is not None else (one.at_most or 0.0) - verdict["bound"]
        rooms.append((room, f"`{verdict['criterion']}`, bound {verdict['bound']:.3f}, n = {verdict['rows']}"))
    return min(rooms)


def _first_candidate(found: Findings, other: Mapping[str, Any]) -> tuple[Change, ...]:
    """The candidates with this one first, whether it stands among them or not."""
    before = value_at(found.spec, "base_model.candidates")
    named = [entry for entry in before if other["id"] in _names(entry)]
    return (found.change("base_model.candidates", [*(named or [other["id"]]), *(entry for entry in before if entry not in named)]),)


def _names(entry: Any) -> tuple[Any, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry.get(name) for name in ("id", "repo", "model"))
