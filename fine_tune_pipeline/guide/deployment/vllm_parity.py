"""How far answers of vLLM may be from the evaluated ones: its batches and its bfloat16 move single answers, and must not move the score."""

from collections.abc import Sequence
from dataclasses import replace

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.deployment.kept_score import kept_score, paired
from fine_tune_pipeline.guide.deployment.parity import LEAST_SHARE, Evaluated, Parity
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.spec.use_case import UseCaseSpec


def as_vllm_may(parity: Parity, spec: UseCaseSpec, *, dataset: Artifact, rows: Sequence[Evaluated]) -> Parity:
    """The comparison by the use case's tolerance and, where more answers differ than here ever do, by their score; as it was without vLLM.

    Args:
        rows: those that were compared.
    """
    if spec.deployment.vllm is None:
        return parity
    loosened = replace(parity, least_share=spec.deployment.vllm.tolerance)
    if parity.share >= LEAST_SHARE:
        return loosened
    pairs = paired(read_examples(dataset.file("test.jsonl")), {row.id: row.evaluated for row in rows}, parity.differences)
    return replace(loosened, score=kept_score(pairs, task=read_task(spec)))
