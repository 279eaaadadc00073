"""The endpoint's traffic as an artifact: closed windows, labels, and how the last requests went."""

import time
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.guide.deployment.monitoring.labels import LOOKED_THROUGH, grown, write_labels
from fine_tune_pipeline.guide.deployment.monitoring.traffic_summary import summary
from fine_tune_pipeline.guide.deployment.monitoring.windows import Traffic, cursor_of, cut, time_text, write_windows
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.spec.monitoring import MonitoringSpec


def build_production_traffic(
    log: TrafficLog, *, monitoring: MonitoringSpec, task: Task, state: str, before: Artifact | None, folder: Path
) -> Built:
    """Close the windows that are full, as they lie in the log, scrubbed: `windows/*.parquet`, `traffic.json` and `labels.jsonl`.

    Args:
        state: how the endpoint is, in a word.
        before: the last artifact, where its windows end this one's begin.
    """
    found = cut(log, cursor_of(before), window=monitoring.window, now=time.time())
    traffic = write_windows(found, folder, before=before, window=monitoring.window, dropped=log.dropped())
    labels = grown(before, log.window(LOOKED_THROUGH), task, sources=monitoring.feedback.sources)
    write_labels(labels, folder)
    metadata = {
        "endpoint": state,
        **summary(log.window(monitoring.window)),
        "closed_windows": traffic.cursor.closed,
        "new_windows": len(found.windows),
        "waiting": traffic.waiting,
        "labels": len(labels),
        "log_dropped": traffic.dropped,
        "requests_in_log": len(log),
    }
    return Built(metadata=metadata | _lines(traffic))


def _lines(traffic: Traffic) -> dict[str, Any]:
    """The windows as a table, the newest first; nothing while there is none."""
    lines = [
        {
            "window": one.number,
            "from": time_text(one.first),
            "to": time_text(one.last),
            "requests": one.requests,
            "versions": ", ".join(f"{count} x {version}" for version, count in one.versions.items()),
            "statuses": ", ".join(f"{count} x {status}" for status, count in one.statuses.items()),
            "sha256": one.sha256[:16],
        }
        for one in reversed(traffic.windows)
    ]
    told = {"windows": lines} if lines else {}
    return told | ({"left_out": "more requests than are read at once: the oldest have no window"} if traffic.left_out else {})
