"""What most tests of programs train; a module that wants another model or other rows has a fixture of its own under the same name."""

from pathlib import Path

import pytest

from fine_tune_pipeline_tests.small_training import write_rows
from fine_tune_pipeline_tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl")
