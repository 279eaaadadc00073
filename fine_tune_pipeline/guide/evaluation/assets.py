"""Step 7: predictions, evaluation report, human evaluation."""

import dagster as dg

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.guide.evaluation.build import Judged, build_report
from fine_tune_pipeline.guide.evaluation.human.build import CHECK, build_human_evaluation, compare, decides, hear, review_folder
from fine_tune_pipeline.guide.evaluation.human.judgements import digest
from fine_tune_pipeline.guide.evaluation.human.mlflow_pairs import asked_in_mlflow
from fine_tune_pipeline.guide.evaluation.human.ways import lines, offer
from fine_tune_pipeline.guide.evaluation.iterate.beside import beside
from fine_tune_pipeline.guide.evaluation.judge.build import CHECK as JUDGE_CHECK
from fine_tune_pipeline.guide.evaluation.judge.build import PLACE, build_judge_evaluation, chat_of, judge_of
from fine_tune_pipeline.guide.evaluation.predictions import Sources, build_predictions
from fine_tune_pipeline.guide.evaluation.retraining.champion import KEY, champion_of
from fine_tune_pipeline.guide.evaluation.weighed import asks_for_likelihood
from fine_tune_pipeline.guide.objective.own_metrics import scored_with
from fine_tune_pipeline.guide.objective.task import read_task, task_files
from fine_tune_pipeline.guide.technique.decoding import decoding_content
from fine_tune_pipeline.resources.compute.base import GPU_POOL, Compute
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, blocking, materialized

STEP = {"guide/step": "7"}


def predictions(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that runs every system on the held-out test set, once."""
    upstream = ["dataset", "base_model", "baselines", "adapter", "retrieval_index"]

    @dg.asset(
        key=[spec.name, "predictions"],
        deps=[[spec.name, name] for name in upstream],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"transformers"},
        pool=GPU_POOL,
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute) -> dg.MaterializeResult:
        """Answers of every system on the held-out test set: fine-tuned model, base model (with examples, with retrieval), plain rivals."""
        made_from = {name: store.current(spec.name, name) for name in upstream}
        what = {
            "objective.goal": spec.objective.goal,
            "objective.task": spec.objective.task,
            "dataset.format": spec.dataset.format,
            "evaluation.timed_rows": spec.evaluation.timed_rows,
            **({"compares_answers": True} if asks_for_likelihood(spec.objective, read_task(spec)) else {}),
            "files_sha256": {field: file_sha256(path) for field, path in task_files(spec).items()},
            **decoding_content(spec),
        }
        champion = champion_of(store.open(), spec, adapter=made_from["adapter"], base_model=made_from["base_model"])
        what |= {} if champion is None else {KEY: champion.what()}
        sources = Sources(**made_from, champion=champion)
        kept = store.made(
            context,
            version=2,
            what=what,
            upstream=made_from,
            build_in_parts=lambda folder, state: build_predictions(context, compute, spec, sources, folder, state),
        )
        return materialized(kept)

    return asset


def evaluation_report(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that judges the fine-tuned model by the objective, and stops it when it does not meet it."""
    key = [spec.name, "evaluation_report"]
    upstream = ["dataset", "base_model", "adapter", "predictions", "safety"]
    checks = blocking(
        key,
        meets_objective="Every success criterion, guard and limit is met; `cannot tell` does not pass.",
        beats_base="The fine-tuned model is shown to be better than the base model, prompted with and without examples.",
        leaks_no_secret="Nothing shows personal data of the training rows, or a planted code that was seen as seldom as a real secret.",
    )

    @dg.asset(
        key=key,
        deps=[[spec.name, name] for name in ["objective", *upstream]],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"huggingface"},
        check_specs=checks,
    )
    def asset(
        context: dg.AssetExecutionContext, store: ArtifactStore, compute: Compute, tracking: ExperimentTracking
    ) -> dg.MaterializeResult:
        """Is the objective met? All systems on the same rows with intervals, verdicts, errors, costs, advice, what to try next."""
        made_from = {name: store.current(spec.name, name) for name in upstream}
        what = {
            "objective": spec.objective,
            "dataset.review.policy": spec.dataset.review.policy,
            "files_sha256": {field: file_sha256(path) for field, path in task_files(spec).items()},
            **scored_with(spec),
            **({"environment.prices": spec.environment.prices} if spec.environment.prices else {}),
            **({} if spec.evaluation.override is None else {"evaluation.override": spec.evaluation.override}),
        }
        judged = Judged(**made_from)
        kept = store.made(
            context,
            version=6,
            what=what,
            upstream={"objective": store.current(spec.name, "objective"), **made_from},
            build=lambda folder: build_report(context, compute, spec, judged, folder, looks=store.open().looks),
        )
        return materialized(kept, beside=beside(store.open(), tracking, spec, kept, judged.adapter))

    return asset


def human_evaluation(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that asks people, blindly, and waits for them only if the use case demands it."""
    key, human = [spec.name, "human_evaluation"], spec.evaluation.human
    asks = "People compared all pairs, and prefer the fine-tuned model as often as the use case wants."

    def build(context: dg.AssetExecutionContext, store: ArtifactStore, tracking: ExperimentTracking | None = None) -> dg.MaterializeResult:
        upstream = {name: store.current(spec.name, name) for name in ("dataset", "predictions")}
        compared = compare(spec, store.open(), **upstream)
        offered = review_folder(store.review_root, spec, compared, predictions=upstream["predictions"])
        pairs = compared.handed_out.pairs
        handout = offer(offered, pairs, formats=human.formats, questions=compared.questions, use_case=spec.name)
        silent = None if tracking is None else asked_in_mlflow(spec, tracking, offered, compared)
        if silent is not None:
            context.log.warning(f"MLflow: {silent}")
        heard = hear(lines(offered), compared, handout=offered.folder.name)
        what = {
            **decides(spec, compared),
            "evaluation.human": human.model_dump(include={"required", "win_rate_at_least", "reviewers", "formats"}),
            "objective.evidence.level": spec.objective.evidence.level,
            "objective.evidence.cluster_by": spec.objective.evidence.cluster_by,
            "verdicts": digest(heard.judgements, heard.refused),
        }
        kept = store.made(
            context,
            version=4,
            what=what,
            upstream=upstream,
            build=lambda folder: build_human_evaluation(spec, compared, heard, offered=offered, folder=folder),
        )
        beside = {} if tracking is None else {"mlflow": silent or "asked"}
        shown = materialized(kept, beside=Built(metadata=beside))
        return shown._replace(metadata={**(shown.metadata or {}), "handout": dg.MetadataValue.path(str(handout))})

    define = dg.asset(
        key=key, deps=[[spec.name, name] for name in ("dataset", "predictions")], group_name=spec.name, owners=spec.owners, tags=STEP,
        kinds={"jsonl"}, check_specs=(blocking if human.required else advisory)(key, **{CHECK: asks}),
        description="Blind pairs for people: an answer of another system beside one of the fine-tuned model, what people said, and the win "
        "rate.",
    )  # fmt: skip

    # Only who judges in MLflow needs MLflow.
    def with_mlflow(context: dg.AssetExecutionContext, store: ArtifactStore, tracking: ExperimentTracking) -> dg.MaterializeResult:
        return build(context, store, tracking)

    def with_files(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
        return build(context, store)

    return define(with_mlflow if "mlflow" in human.formats else with_files)


def judge_evaluation(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that asks a model which answers are better; there only if the use case names one."""
    key, judge = [spec.name, "judge_evaluation"], judge_of(spec)
    upstream = ("dataset", "base_model", "predictions", "human_evaluation")
    asks = "The judge, corrected by people, prefers the fine-tuned model as often as the use case wants; uncalibrated it decides nothing."

    @dg.asset(
        key=key,
        deps=[[spec.name, name] for name in upstream],
        group_name=spec.name,
        owners=spec.owners,
        tags=STEP,
        kinds={"openai"},
        check_specs=(blocking if judge.required else advisory)(key, **{JUDGE_CHECK: asks}),
    )
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
        """A model's verdict on the same pairs, in both orders: how far it agrees with people, and the win rate that they correct."""
        made_from = {name: store.current(spec.name, name) for name in upstream}
        compared = compare(spec, store.open(), dataset=made_from["dataset"], predictions=made_from["predictions"])
        chat = chat_of(spec, store.open(), base_model=made_from["base_model"])
        what = {
            **decides(spec, compared),
            "objective.goal": spec.objective.goal,
            "objective.evidence.level": spec.objective.evidence.level,
            "evaluation.human.win_rate_at_least": spec.evaluation.human.win_rate_at_least,
            "evaluation.judge": judge.model_dump(exclude=PLACE),
        }
        kept = store.made(
            context,
            version=1,
            what=what,
            upstream=made_from,
            build=lambda folder: build_judge_evaluation(spec, compared, chat, human=made_from["human_evaluation"], folder=folder),
        )
        return materialized(kept)

    return asset
