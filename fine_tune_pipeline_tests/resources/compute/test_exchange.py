"""What a later try finds of an earlier one."""

from pathlib import Path

from fine_tune_pipeline.programs.requests import CheckpointPolicy
from fine_tune_pipeline.resources.compute.exchange import RESULT, answered, exchange
from fine_tune_pipeline_tests.small_training import train_request


def test_a_finished_training_is_known_again_unless_something_that_decides_it_has_changed(tmp_path: Path):
    request = train_request(tmp_path / "train", model=tmp_path, train=tmp_path / "train.jsonl")
    assert not answered(request)
    with exchange(request):
        (Path(request.output) / RESULT).write_text("{}", encoding="utf-8")
    assert answered(request)
    assert answered(request.model_copy(update={"checkpoints": CheckpointPolicy(minutes=1.0)}))
    assert not answered(request.model_copy(update={"model": "another"}))
