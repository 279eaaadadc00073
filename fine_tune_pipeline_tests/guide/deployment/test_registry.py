"""The registry: one version per adapter, aliases that move, and a clear word when it was emptied."""

from pathlib import Path

import pytest

from fine_tune_pipeline.guide.deployment.registry import ModelRegistry, NotRegistered
from fine_tune_pipeline.guide.deployment.release.steps import promote

# MLflow's tables ask SQLAlchemy for a strategy that 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning")

TAGS = {"fingerprint": "f1", "adapter_sha256": "a" * 64}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Making MLflow's tables takes seconds, so the tests share a database and have a model each."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def registry(uri: str, request: pytest.FixtureRequest) -> ModelRegistry:
    return ModelRegistry(uri=uri, use_case=request.node.name)


def test_the_same_fingerprint_is_registered_once(registry: ModelRegistry, tmp_path: Path):
    assert registry.aliases() == {}
    versions = [registry.register(tmp_path, run_id=None, tags=tags) for tags in (TAGS, TAGS, {**TAGS, "fingerprint": "f2"}, TAGS)]
    assert versions == [1, 1, 2, 1]


def test_a_promotion_moves_the_champion_and_remembers_the_one_before(registry: ModelRegistry, tmp_path: Path):
    for fingerprint in ("f1", "f2", "f3"):
        registry.register(tmp_path, run_id=None, tags={**TAGS, "fingerprint": fingerprint})
    promote(registry, 1)
    assert registry.aliases() == {"champion": 1}
    promote(registry, 2)
    promote(registry, 2)
    assert registry.aliases() == {"champion": 2, "previous": 1}
    promote(registry, 3)
    assert registry.aliases() == {"champion": 3, "previous": 2}


def test_a_version_that_the_registry_does_not_know_or_knows_otherwise_is_refused(registry: ModelRegistry, tmp_path: Path):
    version = registry.register(tmp_path, run_id=None, tags=TAGS)
    registry.confirm(version, adapter_sha256="a" * 64)
    with pytest.raises(NotRegistered, match="another adapter"):
        registry.confirm(version, adapter_sha256="b" * 64)
    with pytest.raises(NotRegistered, match="materialize it again"):
        registry.confirm(version + 1, adapter_sha256="a" * 64)
