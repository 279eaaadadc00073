"""How many rows the test set will have, counted without reading what they say."""

import csv
from dataclasses import dataclass
from pathlib import Path

from fine_tune_pipeline.spec.paths import COMPRESSED, is_there
from fine_tune_pipeline.spec.sources import CsvSource, JsonlSource, ParquetSource, Source
from fine_tune_pipeline.spec.use_case import UseCaseSpec


@dataclass(frozen=True)
class HeldOut:
    """`rows` is None while the size cannot be known; `note` says why, or how it was counted. `missing` names files that are not there."""

    rows: int | None
    note: str
    missing: tuple[str, ...] = ()


def held_out_rows(spec: UseCaseSpec) -> HeldOut:
    """Rows of the held-out sources, before any is cleaned away; unknown for now when they are split off or come from SQL."""
    sources = spec.dataset.held_out
    if not sources:
        return HeldOut(None, "the test set is split off, so its size is known when the dataset is made")
    counts = [count_rows(source, spec) for source in sources]
    missing = tuple(
        f"dataset.held_out[{place}].path: {count} is not there; paths begin at the folder of the YAML file"
        for place, count in enumerate(counts)
        if isinstance(count, Path)
    )
    if any(not isinstance(count, int) for count in counts):
        return HeldOut(None, "a held-out source cannot be counted without reading it; known when the dataset is made", missing)
    return HeldOut(sum(count for count in counts if isinstance(count, int)), "rows of the held-out files, before cleaning")


def count_rows(source: Source, spec: UseCaseSpec) -> int | Path | None:
    """Rows, or the path of a file that is not there, or None when it cannot be told."""
    if not isinstance(source, JsonlSource | CsvSource | ParquetSource):
        return None
    place = spec.place(source.path)
    path = Path(place)
    if not is_there(place):
        return path
    if not path.is_file() or path.suffix.lower() in COMPRESSED:
        return None
    rows = _rows(source, path)
    return rows if source.sample is None or rows is None else min(rows, source.sample)


def _rows(source: JsonlSource | CsvSource | ParquetSource, path: Path) -> int | None:
    if isinstance(source, ParquetSource):
        return _parquet_rows(path)
    try:
        with path.open(encoding=source.encoding if isinstance(source, CsvSource) else "utf-8-sig", newline="") as stream:
            if isinstance(source, JsonlSource):
                return sum(1 for line in stream if line.strip())
            return max(0, sum(1 for row in csv.reader(stream, delimiter=source.delimiter) if row) - 1)
    except (UnicodeError, csv.Error):
        # `raw_examples` reads every row and says what is wrong with which; here the size is only not known.
        return None


def _parquet_rows(path: Path) -> int | None:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            return file.metadata.num_rows
    except ArrowInvalid:
        # As above: `raw_examples` says what is wrong with the file.
        return None
