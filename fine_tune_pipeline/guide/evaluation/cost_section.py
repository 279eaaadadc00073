"""What the answers cost, as a section of the report."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.pages.document import Row, Section


def costs_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """Time, tokens and memory of every system."""
    columns = ("seconds per 1,000", "seconds", "prompt tokens", "new tokens")
    rows = [
        Row(
            (NAMES[cost["system"]], *(f"{cost[column]:,}" if column in cost else "–" for column in columns)),
            "own" if cost["system"] == FINE_TUNED else "",
        )
        for cost in report["costs"]
    ]
    text = (
        f"As measured where the predictions ran, in batches; peak memory {report['peak_memory_gib']:.2f} GiB. "
        "One answer at a time is timed at the endpoint."
    )
    yield Section("What the answers cost", text, ("system", *columns), tuple(rows))
