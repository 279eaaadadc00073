"""What all tests of the deployment room start from."""

from pathlib import Path

import pytest

from fine_tune_pipeline.guide.deployment.registry import ModelRegistry


@pytest.fixture(scope="package")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: each test gets a copy."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    assert ModelRegistry(uri=f"sqlite:///{path}", use_case="other").aliases() == {}
    return path
