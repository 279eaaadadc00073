"""The rules for Prometheus: whole, and on names that the endpoint has."""

import re
from pathlib import Path

import yaml

import fine_tune_pipeline

RULES = Path(fine_tune_pipeline.__file__).parents[1] / "docker" / "prometheus" / "alerts.yaml"
NAMES = {
    "ftp_up",
    "ftp_requests_total",
    "ftp_request_seconds_bucket",
    "ftp_queue_waiting",
    "ftp_log_dropped_total",
    "ftp_registry_stale_seconds",
    "ftp_version_info",
}


def test_every_alert_has_an_expression_a_severity_and_a_summary():
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found = [
        (rule["alert"], rule["labels"]["severity"] in ("page", "ticket"), bool(rule["annotations"]["summary"])) for rule in group["rules"]
    ]
    assert len({name for name, _, _ in found}) == len(found) == 7
    assert all(known and said for _, known, said in found)
    balanced = [
        rule["expr"].count("(") == rule["expr"].count(")") and rule["expr"].count("{") == rule["expr"].count("}") for rule in group["rules"]
    ]
    assert all(balanced)


def test_alerts_ask_for_figures_that_the_endpoint_has():
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    assert {name for rule in group["rules"] for name in re.findall(r"ftp_\w+", rule["expr"])} == NAMES
