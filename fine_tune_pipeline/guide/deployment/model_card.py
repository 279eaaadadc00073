"""The model card of an export: what it was made of and how, what it reached, on which terms it may be passed on, how it is asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.catalogue import Licence
from fine_tune_pipeline.guide.base_model.catalogue_files import catalogue_of
from fine_tune_pipeline.guide.base_model.licence_tags import hub_tag
from fine_tune_pipeline.guide.deployment.how_to_use import Usage, how_to_use
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.technique.index import ASSET as RETRIEVAL_INDEX
from fine_tune_pipeline.guide.technique.index import source_of
from fine_tune_pipeline.guide.technique.systems import max_new_tokens, trained_format
from fine_tune_pipeline.guide.training.adapter import read_train_result
from fine_tune_pipeline.pages.document import Page, Section, markdown, table
from fine_tune_pipeline.programs.export_requests import ExportResult, Merge
from fine_tune_pipeline.programs.passages import Source
from fine_tune_pipeline.programs.requests import Technique, TrainResult
from fine_tune_pipeline.spec.base_model import HubModel, PinnedModel
from fine_tune_pipeline.spec.export import Format
from fine_tune_pipeline.spec.use_case import UseCaseSpec

CARD = "README.md"

ELSEWHERE = "path/to/base"
"""Stands in code for a base model that came from no hub."""

LIBRARIES: Mapping[Format, str] = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}

RELATIONS: Mapping[Format, str] = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
"""To the base model, as the Hub calls them."""

SPOKEN_SHARE = 0.05
"""Of the prompts, from which on a language is named."""

NO_ADVICE = "This is a table, not legal advice."


@dataclass(frozen=True)
class Provenance:
    """The artifacts behind an export; `evaluation` is None when this adapter was not evaluated."""

    adapter: Artifact
    base_model: Artifact
    dataset: Artifact
    evaluation: Artifact | None


@dataclass(frozen=True)
class Hub:
    """Where the hub has the base model; None where the candidate says nothing of it."""

    repo: str | None
    revision: str | None


@dataclass(frozen=True)
class Material:
    """All that a card is made of, read once for the cards of all formats. `index` is the fingerprint of what the model looks up,
    `looked_up` what that holds; None for a model that was trained without."""

    spec: UseCaseSpec
    result: ExportResult
    technique: Technique
    learned: Mapping[str, Any]
    trained: TrainResult
    adapter: str
    base: Mapping[str, Any]
    hub: Hub
    licence: Licence
    terms: Sequence[str]
    data: Mapping[str, Any]
    dataset: str
    report: Mapping[str, Any] | None
    max_new_tokens: int
    index: str | None = None
    looked_up: Source | None = None


def material(spec: UseCaseSpec, sources: Provenance, result: ExportResult) -> Material:
    """What the artifacts say; technique and hyper-parameters are those that the adapter was really made with."""
    made_of = sources.adapter.manifest.payload["what"]
    base = sources.base_model.json("base_model.json")
    answers = [example.completion for example in read_examples(sources.dataset.file("train.jsonl"))]
    index = sources.adapter.manifest.payload["upstream"].get(RETRIEVAL_INDEX)
    return Material(
        spec=spec,
        result=result,
        technique=Technique.model_validate(made_of["technique"]),
        learned={**made_of["technique"], **made_of["training"], "dtype": made_of["training_plan.dtype"]},
        trained=read_train_result(sources.adapter),
        adapter=sources.adapter.fingerprint,
        base=base,
        hub=hub_of(spec, base["id"]),
        licence=catalogue_of(spec).licence(base["licence"]),
        terms=_terms(sources.base_model.file("model")),
        data=sources.dataset.json("card.json"),
        dataset=sources.dataset.fingerprint,
        report=None if sources.evaluation is None else sources.evaluation.json("report.json"),
        max_new_tokens=max_new_tokens(answers),
        index=index,
        looked_up=None if index is None else source_of(sources.dataset),
    )


def hub_of(spec: UseCaseSpec, id: str) -> Hub:
    """By the use case's own entry, else by the catalogue, which knows no revision."""
    entry = next((one for one in spec.base_model.candidates if not isinstance(one, str) and one.id == id), None)
    if isinstance(entry, HubModel):
        return Hub(entry.repo, entry.revision)
    known = catalogue_of(spec).model(id) if entry is None or isinstance(entry, PinnedModel) else None
    return Hub(None if known is None else known.hub, entry.revision if isinstance(entry, PinnedModel) else None)


def card(content: Material, paths: Mapping[Format, str]) -> str:
    """Markdown below the metadata header of the Hub.

    Args:
        paths: the formats that this card is of, and their folders seen from it.
    """
    report = content.report
    said = "It was not evaluated." if report is None else report["recommendation"]["sentence"]
    sections = [section for make in _SECTIONS for section in make(content)]
    page = Page(title=content.spec.name, advice=said, about=f"Made for: {content.spec.objective.goal}", sections=sections)
    usage = Usage(
        name=content.spec.name,
        base=content.hub.repo if content.hub.repo and content.hub.revision else ELSEWHERE,
        revision=content.hub.revision,
        technique=content.technique,
        format=trained_format(content.spec),
        max_new_tokens=content.max_new_tokens,
        paths=dict(paths),
        gguf="" if content.result.gguf is None else Path(content.result.gguf.file).name,
        looked_up=content.looked_up,
    )
    return "\n".join([header(content, list(paths)), markdown(page), how_to_use(usage)])


def header(content: Material, formats: Sequence[Format]) -> str:
    """The metadata header: the first format is the one that a page of the Hub is about."""
    from huggingface_hub import EvalResult, ModelCardData

    tag = hub_tag(content.licence.id)
    link = content.licence.source or ""
    other = tag == "other"
    first = formats[0] if formats else "adapter"
    facts = ModelCardData(
        model_name=content.spec.name,
        language=_languages(content.data),
        license=tag,
        license_name=content.licence.id.removeprefix("LicenseRef-").lower() if other else None,
        license_link=link if other and link.startswith("https://") else None,
        library_name=LIBRARIES[first],
        pipeline_tag="text-generation",
        base_model=content.hub.repo,
        base_model_relation=RELATIONS[first] if content.hub.repo else None,
        tags=["fine_tune_pipeline", content.technique.type],
        eval_results=[EvalResult(**result) for result in _results(content)] or None,
    )
    return f"---\n{facts.to_yaml()}\n---\n"


def _results(content: Material) -> Iterator[dict[str, Any]]:
    for metric, found in {} if content.report is None else content.report["systems"][FINE_TUNED].items():
        yield {
            "task_type": "text-generation",
            "dataset_type": content.spec.name,
            "dataset_name": f"{content.spec.name} {content.dataset}",
            "dataset_split": "test",
            "metric_type": metric,
            "metric_value": found["estimate"],
        }


def _languages(data: Mapping[str, Any]) -> list[str] | None:
    found = data["languages"]
    spoken = [name for name, rows in found["rows"].items() if len(name) == 2 and rows >= SPOKEN_SHARE * found["looked_at"]]
    return spoken or None


def _made_of(content: Material) -> Iterator[Section]:
    base = content.base
    facts = {
        "base model": base["id"],
        "its repository": content.hub.repo or "none that is known",
        "its revision": content.hub.revision or "told by the hash of its weights",
        "SHA-256 of its weights": base["weights_sha256"],
        "hashes of where they came from": ", ".join(f"{name} {digest}" for name, digest in base.get("source", {}).items()),
        "technique": content.technique.label,
        "SHA-256 of what was trained": content.trained.adapter_sha256,
        "artifact": f"adapter {content.adapter}",
        "formats": ", ".join(content.result.formats) or "none",
    }
    yield table("What it is", [{"fact": name, "value": value} for name, value in facts.items() if value])


def _looked_up(content: Material) -> Iterator[Section]:
    if content.index is None:
        return
    most, kind = content.spec.dataset.format.passages, content.looked_up
    text = (
        f"It was trained with up to {most} passages before each question, the nearest last, looked up in the artifact retrieval_index "
        f"{content.index} ({kind}). The endpoint of this project looks them up by itself; whoever serves these files elsewhere has to, "
        "since the figures below are of answers with passages."
    )
    yield Section("What it needs beside its weights", text)


def _licence(content: Material) -> Iterator[Section]:
    licence = content.licence
    text = (
        f"The base model is under {licence.id}; commercial use: {licence.commercial}; read the terms"
        f"{f' ({licence.source})' if licence.source else ''} before you use or pass on what was made of it. {NO_ADVICE} What they ask:"
    )
    there = f"Their text lies beside the weights: {', '.join(content.terms)}." if content.terms else (
        "Their text came with no file of the base model: put it beside the weights before you pass them on, where they ask for it."
    )  # fmt: skip
    changed = "What was changed: the weights, by fine-tuning, as this card says."
    yield Section("Licence of the base model", text, items=(*(part.strip() for part in licence.obligations.split(";")), there, changed))


def _training(content: Material) -> Iterator[Section]:
    trained, losses = content.trained, content.trained.validation_losses
    figures = {
        "steps": trained.steps,
        "training rows": trained.rows,
        "tokens, over all epochs": trained.tokens,
        "trainable parameters": trained.trainable_parameters,
        "training loss, first and last": f"{_short(trained.first_loss)}, {_short(trained.final_loss)}",
        "validation loss, before and after": f"{_short(losses[0][1])}, {_short(losses[-1][1])}" if losses else "",
        "seconds": round(trained.seconds),
    }
    yield table("Technique and hyper-parameters", [{"setting": name, "value": value} for name, value in content.learned.items()])
    yield table("Figures of the training", [{"figure": name, "value": value} for name, value in figures.items() if value != ""])


def _data(content: Material) -> Iterator[Section]:
    data = content.data
    rows = ", ".join(f"{count:,} {name}" for name, count in data["rows"].items())
    yield table("Data", data["steps"], text=f"Artifact dataset {content.dataset}. Rows: {rows}. What was done to them, step by step:")
    yield table("Sources of the data", [{name: line[name] for name in ("source", "rows", "licence")} for line in data["sources"]])
    records = [{"entity": entity, "replacements": count} for entity, count in data["personal_data"].items()]
    text = f"{data['rows_with_personal_data']:,} rows held some; found by {data['personal_data_detector']}, and replaced."
    yield table("Personal data in the training rows", records, text=text)
    yield Section("Known limits of the data", items=tuple(data["limits"]))


def _evaluation(content: Material) -> Iterator[Section]:
    report = content.report
    if report is None:
        yield Section("Evaluation", "None: this adapter was not evaluated when it was exported.")
        return
    systems = report["systems"]
    records = [
        {"metric": metric, **{system: _interval(found[metric]) for system, found in systems.items()}} for metric in report["table_metrics"]
    ]
    text = f"Of the fine-tuned model as it was trained, on {report['n']} held-out rows; in brackets the 95 % intervals."
    yield table("Evaluation", records, text=text)
    columns = ("criterion", "verdict", "reason")
    yield table("The objective", [{name: verdict[name] for name in columns} for verdict in report["verdicts"]])


def _merged(content: Material) -> Iterator[Section]:
    if content.result.refused:
        yield Section("Merged weights", f"None: {content.result.refused}.")
    elif content.result.whole and set(content.result.formats) & {"merged", "gguf"}:
        yield Section("Merged weights", "Nothing was merged: full tuning changed all weights of the model.")
    elif content.result.merge is not None:
        yield Section("Merged weights", merge_said(content.result.merge))
    if content.result.gguf is not None:
        said = (
            f"Made of these by {content.result.gguf.converter}, with weights in {content.result.gguf.type}; its answers were not compared."
        )
        yield Section("GGUF file", said)


def merge_said(merge: Merge) -> str:
    """How far the merged model is from what was trained, in sentences."""
    said = (
        f"The adapter was laid into the unquantised base model and stored in {merge.stored_dtype}. On the answers to {merge.prompts} "
        f"validation prompts ({merge.positions} tokens) no logit differs by more than {merge.largest_difference:.2g} from that of the "
        f"adapter beside the base model, {merge.allowed:.2g} are allowed; the adapter itself changes them by up to {merge.effect:.2g}. "
        f"The likeliest token is the same at {merge.same_choices} of {merge.positions}."
    )
    if merge.quantised_difference is None:
        return said
    return (
        f"{said} The adapter was trained beside a base model in nf4: from that one the logits differ by up to "
        f"{merge.quantised_difference:.2g}, and the likeliest token is the same at {merge.quantised_same_choices} of {merge.positions}."
    )


_SECTIONS = (_made_of, _looked_up, _licence, _training, _data, _evaluation, _merged)


def _terms(model: Path) -> list[str]:
    return sorted(path.name for path in model.iterdir() if path.name.startswith(("LICENSE", "NOTICE", "USE_POLICY")))


def _interval(found: Mapping[str, Any]) -> str:
    return f"{_short(found['estimate'])} [{_short(found['low'])}, {_short(found['high'])}]"


def _short(number: float | None) -> str:
    return "none" if number is None else f"{number:.3g}"
