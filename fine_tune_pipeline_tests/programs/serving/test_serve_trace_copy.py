"""The sample of the traffic in MLflow: scrubbed rows of the share, none in the way of answers, and gone with their user or their age."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from fine_tune_pipeline.programs.serving import trace_copy
from fine_tune_pipeline.programs.serving.trace_copy import TraceCopy, delete_traces_before, delete_traces_of, experiment_name, sampled
from fine_tune_pipeline_tests.artifacts.test_traffic import ROW
from fine_tune_pipeline_tests.waiting import wait_until

WAIT = 60.0


@pytest.fixture(scope="module", autouse=True)
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    address, before = f"sqlite:///{folder}/mlflow.db", mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
        patch.chdir(folder)
        yield address
    mlflow.set_tracking_uri(before)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")
def test_scrubbed_rows_are_copied_and_go_by_request_and_by_age(uri: str):
    copy = TraceCopy(uri=uri, use_case="bank", share=1.0)
    now = time.time()
    copy([replace(ROW, id=f"chatcmpl-{number}", ts=now - 1000 * number) for number in range(4)])
    copy.close(WAIT)
    assert (copy.copied, copy.left_out, copy.problem) == (4, 0, None)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(experiment_name("bank"))
    traces = client.search_traces(locations=[experiment.experiment_id])
    assert {trace.info.tags["request_id"] for trace in traces} == {f"chatcmpl-{number}" for number in range(4)}
    assert {(trace.data.spans[0].inputs["prompt"], trace.data.spans[0].outputs) for trace in traces} == {
        (ROW.prompt_scrubbed, ROW.answer_scrubbed)
    }
    assert delete_traces_of(uri, "bank", ["chatcmpl-1", "chatcmpl-nobody"]) == 1
    assert delete_traces_before(uri, "bank", ts=now - 1500) == 2
    assert [trace.info.tags["request_id"] for trace in client.search_traces(locations=[experiment.experiment_id])] == ["chatcmpl-0"]
    assert (delete_traces_of(uri, "shop", ["a"]), delete_traces_before(uri, "shop", ts=now)) == (0, 0)


def test_a_share_of_the_requests_is_taken_and_always_the_same():
    ids = [f"chatcmpl-{number:032x}" for number in range(4000)]
    taken = [each for each in ids if sampled(each, 0.1)]
    assert 330 < len(taken) < 470
    assert all(sampled(each, 0.2) for each in taken)
    assert (any(sampled(each, 0.0) for each in ids), all(sampled(each, 1.0) for each in ids)) == (False, True)


def test_when_mlflow_is_away_rows_are_left_out_and_counted_and_nobody_waits(tmp_path: Path):
    (tmp_path / "taken").write_text("a file where the database's folder should be", encoding="utf-8")
    copy = TraceCopy(uri=f"sqlite:///{tmp_path}/taken/mlflow.db", use_case="bank", share=1.0)
    begun = time.monotonic()
    copy([replace(ROW, id=str(number)) for number in range(trace_copy.QUEUE_ROWS + 100)])
    assert time.monotonic() - begun < 5
    wait_until(lambda: copy.left_out == trace_copy.QUEUE_ROWS + 100)
    assert (copy.copied, copy.problem is not None) == (0, True)
    copy.close(WAIT)
