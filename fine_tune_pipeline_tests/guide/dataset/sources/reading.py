"""Opens a source of a test's folder."""

from pathlib import Path

from fine_tune_pipeline.guide.dataset.sources.opened import Opened, opened
from fine_tune_pipeline.spec.paths import is_url
from fine_tune_pipeline.spec.sources import Source


def open_at(folder: Path, source: Source) -> Opened:
    return opened(source, locate=lambda path: path if is_url(path) else str(folder / path), field="dataset.sources[0]")


def columns(source: Opened) -> list[dict | None]:
    return [row.columns for row in source.rows()]
