"""What a user may write about the monitor, and the example of its page."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import fine_tune_pipeline
from fine_tune_pipeline.guide.deployment.monitoring.signals import FAMILY
from fine_tune_pipeline.spec.deployment import DeploymentSpec
from fine_tune_pipeline.spec.monitoring import MonitoringSpec, RetrainSpec

PAGE = (Path(fine_tune_pipeline.__file__).parents[1] / "docs" / "monitoring.md").read_text(encoding="utf-8")


def test_the_example_of_the_page_has_no_mistake():
    [example] = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    written = DeploymentSpec.model_validate(yaml.safe_load(example)["deployment"])
    assert (written.monitoring.webhook_env, written.retrain.drift_windows) == ("DRIFT_WEBHOOK", 2)


def test_the_page_names_every_signal_with_its_weight():
    for name, kind in FAMILY.items():
        [line] = [line for line in PAGE.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
        assert f"| {kind.weight:g}" in line


def test_more_windows_than_are_looked_at_cannot_be_asked_for():
    with pytest.raises(ValidationError, match="drift_windows 4 is above of_windows 3"):
        RetrainSpec(drift_windows=4)


def test_more_requests_than_a_window_has_cannot_be_asked_for():
    with pytest.raises(ValidationError, match="minimum_requests 100 is above window 60"):
        MonitoringSpec(window=60)


def test_a_url_is_no_name_of_a_variable():
    with pytest.raises(ValidationError, match="webhook_env"):
        MonitoringSpec(webhook_env="https://chat.example/secret")
