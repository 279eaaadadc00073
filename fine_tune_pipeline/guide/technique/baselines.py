"""What can be had without training, compared on validation rows, and whether fine-tuning can pay."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.objective.criteria import criterion_text
from fine_tune_pipeline.guide.objective.metrics import FIELD_MATCH, allowed_metrics, metric_named, score_one
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.advice import Scores, Spent, advise
from fine_tune_pipeline.guide.technique.answer_rows import read_answers
from fine_tune_pipeline.guide.technique.answers import Bench, Cost, answer_plainly, answer_prompted, shot_sets
from fine_tune_pipeline.guide.technique.bounds import lower_bound
from fine_tune_pipeline.guide.technique.index import read_index
from fine_tune_pipeline.guide.technique.recommendation import Recommendation, can_pay, overridden, tuned_as
from fine_tune_pipeline.guide.technique.rows import read_data
from fine_tune_pipeline.guide.technique.systems import FEW_SHOT, RETRIEVAL, embedded
from fine_tune_pipeline.programs.requests import Shot
from fine_tune_pipeline.spec.objective import Criterion
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

FILE = "baselines.json"
PASSAGES = "passages"
SHOTS = "shots.json"


@dataclass(frozen=True)
class Compared:
    """All systems on the same rows. `primary` is the metric of the first success criterion; `best_k` worked examples and `passages` looked
    up won on it."""

    scores: Scores
    costs: dict[str, Cost]
    primary: str
    best_k: int
    passages: int
    advice: Recommendation


def build_baselines(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    folder: Path,
    state: Path,
    *,
    spec: UseCaseSpec,
    task: Task,
    dataset: Artifact,
    base: Artifact,
    index: Artifact,
) -> Built:
    """Write `predictions/<system>.jsonl`, `baselines.json` and `shots.json` into `folder`; `state` stays when the work breaks off."""
    data = read_data(dataset, spec)
    places = {"answers": folder / "predictions", "work": folder / "work", "replies": state / "replies"}
    bench = Bench(spec=spec, task=task, data=data, index=read_index(index), **places)
    bench.answers.mkdir()
    context_tokens = base.json("base_model.json")["context_tokens"]
    shots = shot_sets(bench.data, spec, task, context_tokens=context_tokens)
    rows = embedded(context, compute, bench.work / "embed", data.rows)
    costs = answer_plainly(bench, rows)
    costs |= answer_prompted(context, compute, bench, rows, model=base.file("model"), shots=shots, context_tokens=context_tokens)
    shutil.rmtree(bench.work)
    compared = compare(bench, costs)
    write_shots(folder / SHOTS, shots[compared.best_k])
    table = systems_table(compared, task, level=spec.objective.evidence.level)
    (folder / FILE).write_text(json.dumps(_document(compared, bench, table), ensure_ascii=False, indent=2), encoding="utf-8")
    return _built(compared, bench, table)


def compare(bench: Bench, costs: dict[str, Cost]) -> Compared:
    """Score every system and choose the numbers of worked examples and of passages; the answers of the best are kept as `base_few_shot`
    and `base_retrieval` too."""
    spec, task = bench.spec, bench.task
    metrics = metrics_of(spec, task)
    scores = {
        name: _scores(read_answers(bench.answers / f"{name}.jsonl", bench.data.rows), bench.data.rows, task, metrics) for name in costs
    }
    sign = -1 if metric_named(metrics[0], task).better == "lower" else 1
    best = {}
    for kind in (FEW_SHOT, RETRIEVAL):
        # max() keeps the first of equals, and the fewest come first.
        best[kind] = max((name for name in costs if name.startswith(f"{kind}_")), key=lambda name: sign * fmean(scores[name][metrics[0]]))
        shutil.copyfile(bench.answers / f"{best[kind]}.jsonl", bench.answers / f"{kind}.jsonl")
    named = {**scores, **{kind: scores[name] for kind, name in best.items()}}
    costs = {**costs, **{kind: costs[name] for kind, name in best.items()}}
    numbers = {kind: int(name.rsplit("_", 1)[1]) for kind, name in best.items()}
    criteria = [*spec.objective.success, *spec.objective.guards]
    judged = [criterion for criterion in criteria if judged_here(criterion, task)]
    later = [criterion_text(criterion) for criterion in criteria if criterion not in judged]
    advice = advise(
        named,
        judged,
        task=task,
        level=spec.objective.evidence.level,
        later=later,
        spent={name: Spent(1000 * cost.seconds, prompt_tokens=cost.prompt_tokens or None) for name, cost in costs.items()},
        tuned_as=tuned_as(spec),
    )
    advice = overridden(advice, spec.evaluation.override)
    return Compared(named, costs, metrics[0], best_k=numbers[FEW_SHOT], passages=numbers[RETRIEVAL], advice=advice)


def metrics_of(spec: UseCaseSpec, task: Task) -> list[str]:
    """The metrics of all criteria that can be judged here, that of the first success criterion before the others; then the task's most
    telling one and, of an answer with several fields, each field with a closed list of values."""
    criteria = [item for item in (*spec.objective.success, *spec.objective.guards) if judged_here(item, task)]
    most_telling = next(name for name in allowed_metrics(task) if metric_named(name, task).averaged)
    # A dot in the metric's name means a nested field.
    fields = [f"{FIELD_MATCH}.{name}" for name in task.enum_fields if "." not in name]
    return list(dict.fromkeys([*(item.metric for item in criteria), most_telling, *fields]))


def judged_here(criterion: Criterion, task: Task) -> bool:
    """Whether a criterion can be judged on a few validation rows: it asks for the whole of them and for a mean of their scores.

    Others wait for step 7: slices are too small here, and what programs measure beside the answers is measured there.
    """
    return criterion.slice is None and metric_named(criterion.metric, task).averaged


def write_shots(path: Path, shots: Sequence[Shot]) -> None:
    """Write the chosen examples: a JSON list of {prompt, completion}."""
    path.write_text(json.dumps([shot.model_dump() for shot in shots], ensure_ascii=False, indent=2), encoding="utf-8")


def read_shots(path: Path) -> tuple[Shot, ...]:
    """The few-shot examples that validation chose."""
    return tuple(Shot(**row) for row in json.loads(path.read_text(encoding="utf-8")))


def systems_table(compared: Compared, task: Task, *, level: float) -> list[dict[str, Any]]:
    """Every system with its mean scores, the lower bound of the first metric, and what an answer costs."""
    metric = metric_named(compared.primary, task)
    rows = []
    for name, scores in compared.scores.items():
        cost = compared.costs[name]
        bound = lower_bound(scores[metric.name], low=metric.low, high=metric.high, level=level)
        rows.append(
            {
                "system": name,
                **{other: round(fmean(values), 4) for other, values in scores.items()},
                f"{metric.name} lower bound": round(bound, 4),
                "seconds per answer": round(cost.seconds, 3),
                "prompt tokens": round(cost.prompt_tokens, 1),
                "new tokens": round(cost.new_tokens, 1),
            }
        )
    return rows


def _scores(answers: Sequence[str], rows: Sequence[Example], task: Task, metrics: Sequence[str]) -> dict[str, list[float]]:
    each = [score_one(answer, row.completion, task=task, metrics=metrics, example=row) for answer, row in zip(answers, rows, strict=True)]
    return {metric: [scores[metric] for scores in each] for metric in metrics}


def _document(compared: Compared, bench: Bench, table: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rows": len(bench.data.rows),
        "primary_metric": compared.primary,
        "few_shot_examples": compared.best_k,
        PASSAGES: compared.passages,
        "looked_up_in": bench.index.source,
        "tuning_can_pay": can_pay(compared.advice),
        "advice": compared.advice.sentence,
        "recommendation": asdict(compared.advice),
        "systems": table,
    }


def _built(compared: Compared, bench: Bench, table: list[dict[str, Any]]) -> Built:
    figures = {f"{compared.primary}/{name}": fmean(scores[compared.primary]) for name, scores in compared.scores.items()}
    metadata: dict[str, Any] = {
        "validation_rows": len(bench.data.rows),
        "few_shot_examples": compared.best_k,
        "passages": compared.passages,
    }
    metadata |= {"recommendation": compared.advice.choice, "systems": table, **figures}
    advice = compared.advice
    check = Check(name="tuning_can_pay", passed=can_pay(advice), blocking=False, description=advice.sentence)
    return Built(metadata=metadata, markdown={"advice": advice.sentence}, checks=[check])
