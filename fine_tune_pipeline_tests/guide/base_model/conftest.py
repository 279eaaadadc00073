from pathlib import Path

import pytest

from fine_tune_pipeline_tests.hub import fake_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub on this machine, which the client takes for the real one."""
    with fake_hub(tmp_path, monkeypatch) as fake:
        yield fake


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of the hub's client between its tries take no time."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
