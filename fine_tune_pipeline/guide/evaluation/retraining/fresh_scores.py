"""How good the answers to fresh rows are."""

from collections.abc import Sequence
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.evaluation.figure import SHOWN_LEVEL, figure_of
from fine_tune_pipeline.guide.evaluation.retraining.fresh import FINE_TUNED, FOLDER, SYSTEMS, answers_of
from fine_tune_pipeline.guide.evaluation.scoring import Scores, scored
from fine_tune_pipeline.guide.evaluation.statistics import two_sided, wilson
from fine_tune_pipeline.guide.objective.metrics import metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.answer_rows import read_all_answers


def fresh_scores(
    predictions: Artifact, rows: Sequence[Example], *, task: Task, metrics: Sequence[str], cluster_by: str | None
) -> Scores | None:
    """Scores of the answers to fresh rows, of metrics that need nothing but answer and reference; None where there are no rows."""
    here = [system for system in SYSTEMS if f"{FOLDER}/{system}.jsonl" in predictions.manifest.files]
    if not rows or not here:
        return None
    answers = {system: read_all_answers(answers_of(predictions.folder, system), rows) for system in here}
    plain = [name for name in metrics if metric_named(name, task).plain]
    return scored(rows, answers, task=task, metrics=plain, cluster_by=cluster_by)


def fresh_facts(scores: Scores) -> dict[str, Any]:
    """Figures of every system, and the fine-tuned model's paired gains over the others, as the report keeps them."""
    level = two_sided(SHOWN_LEVEL)
    others = [system for system in scores.by_system if system != FINE_TUNED]
    return {
        "n": len(scores.rows),
        "systems": {
            system: {name: figure_of(scores.bounds(system, name, level=level, share=wilson)) for name in scores.metrics}
            for system in scores.by_system
        },
        "gains": [
            {"metric": name, "over": system, **figure_of(scores.gain(FINE_TUNED, name, over=system, level=level))}
            for name, kind in scores.metrics.items()
            if kind.better != "neither"
            for system in others
        ],
    }
