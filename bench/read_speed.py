"""Reading a source of 200,000 rows: our readers beside `datasets`, each in a process of its own, CPU seconds and memory."""

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS = 200_000
KINDS = ("jsonl", "csv", "parquet")
WAYS = ("own", "streaming", "arrow")


def main() -> None:
    match sys.argv[1:]:
        case [kind, way, folder]:
            print(*measured(kind, way, folder), flush=True)
        case [folder]:
            write(Path(folder))
        case _:
            compare()


def compare() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: a child's peak of memory counts from that of its parent.
        subprocess.run([sys.executable, __file__, folder], check=True)
        for kind in KINDS:
            for way in WAYS:
                command = [sys.executable, __file__, kind, way, folder]
                seconds, mebibytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
                print(f"{kind:8} {way:10} {seconds:>6} CPU s {mebibytes:>5} MiB beyond the imports", flush=True)


def write(folder: Path) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    text = "where is order {} that I made {} days ago?"
    rows = [{"id": n, "prompt": text.format(n * 7919 % 1_000_003, n % 97), "completion": "delivery"} for n in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(folder / "rows.csv"), folder / "rows.parquet", row_group_size=50_000)


def measured(kind: str, way: str, folder: str) -> tuple[float, int]:
    found = own(kind, folder) if way == "own" else of_datasets(kind, folder, streaming=way == "streaming")
    next(found)
    before, start = peak_mebibytes(), time.process_time()
    assert sum(1 for _ in found) == ROWS
    return round(time.process_time() - start, 2), round(peak_mebibytes() - before)


def own(kind: str, folder: str) -> Iterator[Any]:
    """The rows, behind None once everything is imported."""

    from pydantic import TypeAdapter

    from fine_tune_pipeline.guide.dataset.sources.opened import opened
    from fine_tune_pipeline.spec.sources import Source

    source = {"type": kind, "path": f"{folder}/rows.{kind}"}
    spec = TypeAdapter(Source).validate_python(source)
    yield None
    yield from opened(spec, locate=str, field="bench").rows()


def of_datasets(kind: str, folder: str, *, streaming: bool) -> Iterator[Any]:
    """The same by `datasets`."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{folder}/cache-{kind}-{streaming}"}
    import datasets

    datasets.disable_progress_bars()
    yield None
    name = "json" if kind == "jsonl" else kind
    yield from datasets.load_dataset(name, data_files=f"{folder}/rows.{kind}", split="train", streaming=streaming)


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
