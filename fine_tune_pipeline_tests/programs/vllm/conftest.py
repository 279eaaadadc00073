"""Weights for all tests of vLLM, two servers for each, and the key in the environment."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fine_tune_pipeline_tests.programs.vllm.fake_vllm import KEY, VARIABLE
from fine_tune_pipeline_tests.programs.vllm.world import Rig, Weights, make_weights, rig


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return make_weights(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


@pytest.fixture
def two(weights: Weights, tmp_path: Path) -> Iterator[Rig]:
    with rig(weights, tmp_path) as made:
        yield made


@pytest.fixture
def one(weights: Weights, tmp_path: Path) -> Iterator[Rig]:
    with rig(weights, tmp_path, servers=1) as made:
        yield made
