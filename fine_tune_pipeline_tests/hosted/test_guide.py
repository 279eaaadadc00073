"""The whole guide for a hosted base model, to an endpoint that runs as a process of its own and forwards to the provider."""

from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.guide.deployment.assets import endpoint, registered_model
from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, human_evaluation
from fine_tune_pipeline.guide.evaluation.safety.assets import safety
from fine_tune_pipeline.guide.objective.assets import objective
from fine_tune_pipeline.programs.serving.contract import ADMIN_KEY_VARIABLE, KEY_VARIABLE
from fine_tune_pipeline.resources.endpoint_client import EndpointError
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline_tests.guide.technique.stand_ins import answer
from fine_tune_pipeline_tests.hosted.stand_in import KEY, VARIABLE, Fault, provider_stand_in
from fine_tune_pipeline_tests.hosted.world import ASSETS, given_data, hosted_use_case, materialize, tuned_is_right

GUIDE = (objective, *ASSETS, safety, evaluation_report, human_evaluation, registered_model, endpoint)


def test_the_guide_ends_in_an_endpoint_that_forwards_to_the_tuned_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, KEY)
    for variable in (KEY_VARIABLE, ADMIN_KEY_VARIABLE):
        monkeypatch.setenv(variable, f"{variable} of this test")
    serving = Serving(folder=str(tmp_path / "serving"))
    running = serving.endpoint("triage")
    with provider_stand_in(answer=tuned_is_right) as provider:
        given_data(tmp_path)
        spec = hosted_use_case(tmp_path, provider, sections={"deployment": {"port": 0, "parity_prompts": 10}})
        try:
            result = materialize(tmp_path, spec, runs=tmp_path / "mlflow.db", only=GUIDE, serving=serving)
            checks = {each.check_name: (each.passed, each.description) for each in result.get_asset_check_evaluations()}
            assert result.success, checks
            assert checks["parity"][0], checks["parity"]
            assert "10 of 10 served answers equal the evaluated ones, want 90%" in str(checks["parity"][1])
            client = running.client()
            asked = client.answer(Asked("my card is lost, call Ann on 555-0100"), model=None)
            assert asked.text == answer("card", "high")
            provider.faults = [Fault("POST /v1/chat", 500, times=9)]
            with pytest.raises(EndpointError, match="the model's provider does not answer"):
                client.answer(Asked("my card is lost"), model=None)
            provider.faults = []
            assert client.answer(Asked("my card is lost"), model=None).text == answer("card", "high")
            assert running.status().state == "running"
        finally:
            running.stop()
        rows = running.traffic_log.window(3)
    assert sorted(row.request.status for row in rows) == [200, 200, 502]
    assert "555-0100" not in str(rows)
    assert [path for path in (tmp_path / "serving").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
