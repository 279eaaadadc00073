"""Numbers that programs measured for each answer: how sure the model was, and how near the answer is to the reference in meaning."""

import shutil
from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example, read_rows
from fine_tune_pipeline.guide.objective.measures.labels import CONFIDENCE
from fine_tune_pipeline.guide.objective.measures.texts import SIMILARITY
from fine_tune_pipeline.guide.objective.metrics import metric_named
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.systems import embed_rows

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

Measured = Mapping[str, Sequence[Mapping[str, float]]]
"""system -> numbers by name, one mapping per row."""


def confidences(path: Path, rows: Sequence[Example]) -> list[dict[str, float]]:
    """The probability that a system gave to each whole answer, in the order of `rows`; nothing for one that gives none.

    Args:
        path: a prediction file, whose `logprob` is the mean over the answer's tokens.
    """
    found = {row["id"]: row for row in read_rows(path)}
    return [_confidence(found[row.id]) for row in rows]


def with_similarity(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    folder: Path,
    rows: Sequence[Example],
    answers: Mapping[str, Sequence[str]],
    measured: Measured,
) -> Measured:
    """The same numbers and, for each answer, the cosine of its embedding and the reference's; every text is embedded once.

    Args:
        folder: the program's own; gone afterwards.
    """
    texts = list(dict.fromkeys([*(row.completion for row in rows), *(text for found in answers.values() for text in found)]))
    vectors = embed_rows(context, compute, folder, [Example(str(place), text, "") for place, text in enumerate(texts)])
    shutil.rmtree(folder)
    place = {text: number for number, text in enumerate(texts)}
    return {
        system: [
            {**numbers, SIMILARITY: float(vectors[place[text]] @ vectors[place[row.completion]])}
            for numbers, text, row in zip(measured[system], found, rows, strict=True)
        ]
        for system, found in answers.items()
    }


def asks_for_similarity(metrics: Sequence[str], task: Task) -> bool:
    """Whether anything must be embedded."""
    return any(SIMILARITY in metric_named(name, task).needs for name in metrics)


def _confidence(answer: Mapping[str, Any]) -> dict[str, float]:
    """The probability of the answer: among the closed list where all of it was scored, else of its tokens."""
    if of_all := answer.get("label_logprobs"):
        return {CONFIDENCE: 1 / sum(exp(other - of_all[answer["text"]]) for other in of_all.values())}
    logprob, tokens = answer.get("logprob"), answer.get("tokens")
    return {} if logprob is None or tokens is None else {CONFIDENCE: exp(logprob * tokens)}
