"""Answers that a broken run has left: a line for each batch, appended as soon as it is there, so that the next try goes on after it."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fine_tune_pipeline.programs.models import is_peft_folder, weight_files, weights_sha256
from fine_tune_pipeline.programs.requests import Contract, Prediction, PredictJob, PredictRequest

ENDS_BYTES = 1 << 16
"""Of each end of a file of weights, what stands for it: hashing a large model whole would take minutes."""


class KeptBatch(Contract):
    """What one batch gave, and the seconds that it took."""

    answers: tuple[Prediction, ...]
    seconds: float


class KeptAnswers:
    """The file of one job; `folder` None keeps nothing. Its name holds what decides the answers, so other work never finds it."""

    def __init__(self, folder: str | None, *, name: str, mark: str) -> None:
        self._path = None if folder is None else Path(folder) / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{mark}.jsonl"
        self.answers: dict[str, Prediction] = {}
        self.seconds = 0.0
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def add(self, answers: Sequence[Prediction], *, seconds: float) -> None:
        """Keep what a batch gave."""
        self._take(KeptBatch(answers=tuple(answers), seconds=seconds))
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(KeptBatch(answers=tuple(answers), seconds=seconds).model_dump_json().encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _take(self, batch: KeptBatch) -> None:
        self.answers.update((answer.id, answer) for answer in batch.answers)
        self.seconds += batch.seconds

    def _read(self, path: Path) -> None:
        """Take what is whole; a line that a kill has torn is cut off, so that the next one does not join it."""
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True):
            batch = _batch(line)
            if batch is None:
                break
            self._take(batch)
            whole += len(line)
        os.truncate(path, whole)


def job_mark(request: PredictRequest, job: PredictJob, *, rows: Mapping[str, Sequence[int]]) -> str:
    """Stands for all that decides the answers of a job: 16 hexadecimal digits. Paths and places are not in it.

    Args:
        rows: token ids of the prompts by the rows' ids.
    """
    decides = {
        "model": _weights_mark(request.model),
        "adapter": job.adapter and (weights_sha256(job.adapter) if is_peft_folder(job.adapter) else _weights_mark(job.adapter)),
        "dtype": request.dtype,
        "job": job.model_dump(mode="json", exclude={"name", "prompts", "output", "adapter", "shots", "timed_rows"}),
        "rows": {id: list(tokens) for id, tokens in rows.items()},
    }
    return _digest(decides)


def _batch(line: bytes) -> KeptBatch | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return KeptBatch.model_validate_json(line)
    except ValidationError:
        return None


def _weights_mark(folder: str) -> str:
    """Stands for a whole model: names, sizes and both ends of its files of weights."""
    return _digest([[path.name, path.stat().st_size, _ends(path)] for path in weight_files(folder)])


def _ends(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(ENDS_BYTES))
        file.seek(max(0, path.stat().st_size - ENDS_BYTES))
        digest.update(file.read())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()[:16]
