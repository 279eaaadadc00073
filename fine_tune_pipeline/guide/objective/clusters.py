"""Which test rows share their fate, and so count as less than as many."""

from collections import Counter
from collections.abc import Sequence

from fine_tune_pipeline.artifacts.examples import Example

CLUSTER = "cluster"
"""Metadata that names rows which share their fate, such as near duplicates."""


def cluster_names(rows: Sequence[Example], *, cluster_by: str | None = None) -> list[str]:
    """What each row shares its fate with; a row that says nothing stands alone.

    Args:
        cluster_by: a column of metadata whose values name what rows share, before the marks of near duplicates.
    """
    columns = [CLUSTER] if cluster_by is None else [cluster_by, CLUSTER]
    return [next((found for name in columns if (found := row.metadata.get(name))), f"row {row.id}") for row in rows]


def cluster_sizes(names: Sequence[str]) -> list[int]:
    """How many rows each cluster has."""
    return list(Counter(names).values())
