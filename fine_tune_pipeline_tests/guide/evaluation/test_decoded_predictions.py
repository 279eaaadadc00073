"""Every language model of the evaluation is asked with the decoding of the use case."""

import json
from html import unescape
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, predictions
from fine_tune_pipeline.programs.requests import PredictRequest, PredictResult
from fine_tune_pipeline_tests.guide.evaluation.world import PretendedCompute, before_evaluation, examples, resources, use_case

TRAIN, TEST = examples(60, start=1000), examples(40)


class Asked(PretendedCompute):
    """Keeps what the program was asked."""

    record: str

    def _predict(self, request: PredictRequest) -> PredictResult:
        request.write(self.record)
        return super()._predict(request)


def run(folder: Path, *, decoding: str) -> tuple[dict[str, Any], str]:
    """The request to the program, and the fingerprint of what came of it."""
    store = Store.at(str(folder / "store"))
    compute = Asked(answers={row.id: row.completion for row in TEST}, record=str(folder / "asked.json"))
    spec = use_case(folder, evaluation={"decoding": decoding})
    made = dg.materialize([predictions(spec), evaluation_report(spec)], resources=resources(folder, compute), raise_on_error=False)
    assert made.asset_materializations_for_node("triage__evaluation_report")
    return json.loads((folder / "asked.json").read_text(encoding="utf-8")), store.current("triage", "predictions").fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    before_evaluation(Store.at(str(tmp_path / "store")), train=TRAIN, test=TEST)
    return tmp_path


def test_all_systems_are_decoded_alike_and_the_decoding_belongs_to_the_answers_and_to_the_report(folder: Path):
    found = {decoding: run(folder, decoding=decoding) for decoding in ("greedy", "labels", "json_schema")}
    assert len({fingerprint for _, fingerprint in found.values()}) == 3
    for decoding, (asked, _) in found.items():
        said = {job["name"]: job.get("decoding") for job in asked["jobs"]}
        assert len(said) > 3
        assert {None if each is None else each["type"] for each in said.values()} == {None if decoding == "greedy" else decoding}
        assert {job["name"]: job.get("stop", []) for job in asked["jobs"]} == {
            name: [] if name.startswith("fine_tuned") else ["\n"] for name in said
        }
    assert len(found["labels"][0]["jobs"][0]["decoding"]["labels"]) == 8
    artifact = Store.at(str(folder / "store")).current("triage", "predictions")
    assert artifact.manifest.payload["what"]["evaluation.decoding"] == "json_schema"
    page = Store.at(str(folder / "store")).peek("triage", "evaluation_report")
    assert page is not None
    assert "decoded greedily inside the task's JSON Schema" in unescape(page.file("report.html").read_text(encoding="utf-8"))
