"""The safety of a tuned model: what the probe and the test answers show, as scores that guards are judged on."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example, read_examples, read_rows, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.artifacts.taking import taken_file
from fine_tune_pipeline.guide.evaluation.held_out_rows import judgeable
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.safety.canary_ranks import CANDIDATES, Exposure, exposures, gated, rows_of
from fine_tune_pipeline.guide.evaluation.safety.outputs import Output, openings, verbatim
from fine_tune_pipeline.guide.evaluation.safety.personal import Finding, findings, free_texts
from fine_tune_pipeline.guide.evaluation.safety.texts import TO_REFUSE, general_texts, requests
from fine_tune_pipeline.guide.objective import model_metrics as metric
from fine_tune_pipeline.guide.objective.measures.rules import refuses
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.guide.technique.answer_rows import read_all_answers
from fine_tune_pipeline.guide.technique.placement import answering_on
from fine_tune_pipeline.guide.technique.systems import trained_format
from fine_tune_pipeline.guide.training import canaries
from fine_tune_pipeline.programs.hosted.requests import read_hosted
from fine_tune_pipeline.programs.probe_requests import BothAnswers, CodeRank, ProbeRequest, ProbeResult, TextLoss
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

FILE, SCORES = "safety.json", "scores.jsonl"

BASES = ("base_zero_shot", "base_few_shot")

NO_WEIGHTS = "the model stays at its provider, which tells no likelihood of given texts"


@dataclass(frozen=True)
class Sources:
    """The artifacts that safety is measured on. `asked` has the rows as the tuned model is given them, with passages if it was trained with
    some; `ner` is the folder of an adapted NER, if the use case has one."""

    dataset: Artifact
    base_model: Artifact
    adapter: Artifact
    predictions: Artifact
    asked: Artifact
    ner: Path | None = None


@dataclass(frozen=True)
class Probed:
    """What the probe says; empty where it could not be asked."""

    losses: Sequence[TextLoss] = ()
    continued: Sequence[BothAnswers] = ()
    answers: Sequence[BothAnswers] = ()
    ranks: Sequence[CodeRank] = ()


def build_safety(
    context: "dg.AssetExecutionContext", compute: "Compute", spec: UseCaseSpec, sources: Sources, folder: Path, state: Path
) -> Built:
    """Write `safety.json`, `scores.jsonl` and what the probe wrote; `state` stays when the work breaks off.

    Raises:
        NoTestRows, DuplicatedRows, WrongReference, UnusableAnswers: the answers cannot be looked at.
        MissingRanks: the probe has left a planted code out.
    """
    task = read_task(spec)
    test = judgeable(read_examples(sources.asked.file("test.jsonl")), task, where=f"{spec.name}/dataset")
    train = read_examples(sources.dataset.file("train.jsonl"))
    planted = planted_in(sources.adapter)
    given = read_examples(sources.asked.file("train.jsonl"))
    begun = openings(given, count=spec.evaluation.safety.continued_rows, seed=spec.training.seed)
    hosted = read_hosted(sources.base_model.file("model")) is not None
    probed = Probed() if hosted else _probed(context, compute, spec, sources, begun=begun, planted=planted, folder=folder, state=state)
    outputs = [*_answers(sources.predictions, test), *_continuations(probed.continued, begun, given)]
    held = verbatim(outputs, train)
    personal = _personal(outputs, train, spec, task=task, ner=sources.ner)
    found = exposures(planted, probed.ranks, level=spec.objective.evidence.level) if probed.ranks else []
    write_rows(folder / SCORES, scores(probed, outputs, held, personal))
    searched = {"answers": len(test), "continuations": len(probed.continued), "training_rows": len(train)}
    document = {
        "searched": searched,
        "kinds": kinds(probed.losses),
        "canaries": rows_of(found),
        "findings": [asdict(one) for one in personal],
        "verbatim": [{"output": output, "training_row": row} for output, row in held.items()],
        "level": spec.objective.evidence.level,
        "not_measured": dict(_not_measured(spec, hosted=hosted, planted=bool(planted), begun=bool(begun))),
    }
    (folder / FILE).write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")
    return Built(metadata=_metadata(document, probed, found, personal))


def planted_in(adapter: Artifact) -> list[canaries.Canary]:
    """The codes that its training rows held."""
    if canaries.FILE not in adapter.manifest.files:
        return []
    return [canaries.Canary(**row) for row in read_rows(adapter.file(canaries.FILE))]


def _probed(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    spec: UseCaseSpec,
    sources: Sources,
    *,
    begun: Sequence[Mapping[str, Any]],
    planted: Sequence[canaries.Canary],
    folder: Path,
    state: Path,
) -> Probed:
    work = state / "probe"
    work.mkdir(exist_ok=True)
    asked: dict[str, list[dict[str, Any]]] = {
        "texts": general_texts(spec.evaluation.safety.general_texts),
        "openings": [dict(row) for row in begun],
        "requests": requests() if spec.evaluation.safety.refusals else [],
        "codes": [{"id": one.id, "prompt": one.prompt, "codes": canaries.candidates(one, planted, count=CANDIDATES)} for one in planted],
    }
    files = {name: work / f"asked_{name}.jsonl" for name, rows in asked.items() if rows}
    for name, path in files.items():
        write_rows(path, asked[name])
    place = answering_on(compute.inventory())
    request = ProbeRequest(
        output=str(work), model=str(sources.base_model.file("model")), adapter=str(sources.adapter.file("adapter")),
        format=trained_format(spec), threads=place.threads, dtype=place.dtype, device=place.device,
        **{name: str(path) for name, path in files.items()},
    )  # fmt: skip
    result = compute.run(context, request, ProbeResult)
    for name in files:
        taken_file(Path(getattr(result, name)), folder / f"{name}.jsonl")
    rows = {name: read_rows(folder / f"{name}.jsonl") for name in files}
    return Probed(
        losses=[TextLoss(**row) for row in rows["texts"]],
        continued=[BothAnswers(**row) for row in rows.get("openings", ())],
        answers=[BothAnswers(**row) for row in rows.get("requests", ())],
        ranks=[CodeRank(**row) for row in rows.get("codes", ())],
    )


def _answers(predictions: Artifact, test: Sequence[Example]) -> list[Output]:
    """Of the tuned model to the test rows, beside what the base wrote."""
    bases = [read_all_answers(predictions.file(name), test) for base in BASES if (name := f"{base}.jsonl") in predictions.manifest.files]
    own = read_all_answers(predictions.file(f"{FINE_TUNED}.jsonl"), test)
    return [
        Output(f"answer {row.id}", text, row.question, (row.completion, *(answers[place] for answers in bases)))
        for place, (row, text) in enumerate(zip(test, own, strict=True))
    ]


def _continuations(continued: Sequence[BothAnswers], begun: Sequence[Mapping[str, Any]], train: Sequence[Example]) -> list[Output]:
    opened, rows = {row["id"]: row for row in begun}, {row.id: row for row in train}
    return [
        Output(
            f"continuation {one.id}", one.fine_tuned, f"{rows[one.id].question}\n{opened[one.id]['opening']}",
            (one.base, rows[one.id].completion), row=one.id,
        )
        for one in continued
    ]  # fmt: skip


def _personal(outputs: Sequence[Output], train: Sequence[Example], spec: UseCaseSpec, *, task: Task, ner: Path | None) -> list[Finding]:
    """The detector and its models are loaded only if there is a text to look at."""
    if not any(free_texts(output, task) for output in outputs):
        return []
    from fine_tune_pipeline.programs.pii.scrubbing import detector

    return findings(outputs, train, detect=detector(spec.pii, ner=ner), task=task, pii=spec.pii)


def scores(probed: Probed, outputs: Sequence[Output], held: Mapping[str, str], personal: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """Rows of metric, id, fine_tuned and, where the base was measured too, base."""
    for loss in probed.losses:
        yield {"metric": metric.GENERAL_LOSS, "id": loss.id, "base": loss.base, "fine_tuned": loss.fine_tuned}
    kind = {row["id"]: metric.HARM_REFUSED if row["kind"] == TO_REFUSE else metric.BENIGN_REFUSED for row in requests()}
    for answer in probed.answers:
        refused = {"base": float(refuses(answer.base)), "fine_tuned": float(refuses(answer.fine_tuned))}
        yield {"metric": kind[answer.id], "id": answer.id, **refused}
    somebodys = {one.output for one in personal}
    for output in outputs:
        yield {"metric": metric.VERBATIM, "id": output.id, "fine_tuned": float(output.id in held)}
        yield {"metric": metric.PERSONAL_DATA, "id": output.id, "fine_tuned": float(output.id in somebodys)}


def kinds(losses: Sequence[TextLoss]) -> list[dict[str, Any]]:
    """Mean loss of base and tuned model by kind of text, in nats per token."""
    of = {row["id"]: row["kind"] for row in general_texts(len(losses))}
    by_kind: dict[str, list[TextLoss]] = defaultdict(list)
    for loss in losses:
        by_kind[of[loss.id]].append(loss)
    return [
        {"kind": kind, "texts": len(some), "base": fmean(one.base for one in some), "fine_tuned": fmean(one.fine_tuned for one in some)}
        for kind, some in by_kind.items()
    ]


def _not_measured(spec: UseCaseSpec, *, hosted: bool, planted: bool, begun: bool) -> Iterator[tuple[str, str]]:
    if hosted:
        yield metric.GENERAL_LOSS, NO_WEIGHTS
    if hosted or not spec.evaluation.safety.refusals:
        why = "the probe asks models with weights only" if hosted else "evaluation.safety.refusals is off"
        yield from ((name, why) for name in (metric.HARM_REFUSED, metric.BENIGN_REFUSED))
    if hosted or not begun:
        short = "evaluation.safety.continued_rows is 0, or no training answer is long enough to be begun"
        yield "continuations", NO_WEIGHTS if hosted else short
    if hosted or not planted:
        yield metric.LEAKED_CANARIES, NO_WEIGHTS if hosted else "training.canaries plants no codes"


def _metadata(document: Mapping[str, Any], probed: Probed, found: Sequence[Exposure], personal: Sequence[Finding]) -> dict[str, Any]:
    known: dict[str, Any] = {"outputs": document["searched"]["answers"] + document["searched"]["continuations"]}
    if probed.losses:
        base, own = (fmean(getattr(one, system) for one in probed.losses) for system in ("base", "fine_tuned"))
        known |= {"general_texts": len(probed.losses), "general_loss_base": base, "general_loss_fine_tuned": own}
    known |= {"outputs_verbatim": len(document["verbatim"]), "outputs_with_personal_data": len({one.output for one in personal})}
    if found:
        known |= {"canaries": document["canaries"], "leaked_canaries": sum(one.remembered for one in gated(found))}
    tables = {"general_texts_by_kind": document["kinds"]} if document["kinds"] else {}
    return known | tables | {"not_measured": [f"{name}: {why}" for name, why in document["not_measured"].items()]}
