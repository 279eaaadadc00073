"""The tolerance of `deployment.vllm`, and the score that is looked at where answers differ."""

from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Asked, Example
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.guide.deployment.parity import Evaluated, Parity
from fine_tune_pipeline.guide.deployment.vllm_parity import as_vllm_may
from fine_tune_pipeline.spec.deployment import DeploymentSpec
from fine_tune_pipeline_tests.guide.deployment.world import keep, use_case

ROWS = [Evaluated(id=str(place), asked=Asked(f"text {place}"), evaluated="right") for place in range(20)]


def parity(served: dict[str, str]) -> Parity:
    differences = tuple({"id": id, "evaluated": "right", "served": text} for id, text in served.items())
    return Parity(asked=20, equal=20 - len(served), differs_from_base=True, seconds=(1.0,), differences=differences)


@pytest.mark.parametrize(
    ("served", "tolerance", "passed", "scored"),
    [
        ({}, 0.9, True, False),
        ({"3": "wrong"}, 0.9, True, True),
        ({"3": "wrong"}, 0.98, False, True),
        ({str(place): "wrong" for place in range(3)}, 0.9, False, True),
        ({str(place): "wrong" for place in range(9)}, 0.5, False, True),
        ({str(place): "Right" for place in range(9)}, 0.5, True, True),
    ],
)
def test_a_share_of_other_answers_passes_while_they_score_the_same(
    tmp_path: Path, served: dict[str, str], tolerance: float, passed: bool, scored: bool
):
    test = [Example(id=row.id, prompt=row.asked.text, completion="right") for row in ROWS]
    dataset = keep(Store.at(str(tmp_path)), "dataset", mark="one", files={"test.jsonl": test})
    vllm = {"urls": ["http://a:1"], "adapters_at": "/x", "tolerance": tolerance}
    spec = use_case().model_copy(update={"deployment": DeploymentSpec.model_validate({"serving": "vllm", "vllm": vllm})})
    found = as_vllm_may(parity(served), spec, dataset=dataset, rows=ROWS)
    assert (found.passed, found.score is not None, found.least_share) == (passed, scored, tolerance)


def test_without_vllm_nothing_is_loosened(tmp_path: Path):
    dataset = keep(Store.at(str(tmp_path)), "dataset", mark="one", files={})
    found = parity({"3": "wrong"})
    assert as_vllm_may(found, use_case(), dataset=dataset, rows=ROWS) is found
    assert not found.passed
