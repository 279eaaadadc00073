"""What the versions of an endpoint look up: each has the index that it was trained with, in a copy of the server's own.

All share one encoder, which is given from outside (no torch here) and made when the first index is loaded.
"""

import asyncio
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.programs.passages import SERVED, Found, Index, index_sha256, read_index
from fine_tune_pipeline.programs.serving.contract import INDEXES, Retrieval


class WrongIndex(ValueError):
    """The files are not the index that a version was registered with, or another encoder made it."""


class IndexGone(LookupError):
    """The version was let go while it was asked."""


@dataclass(frozen=True)
class QuestionEncoder:
    """Gives unit vectors (float32 [texts, D]) of texts; `name` is its package and version."""

    name: str
    embed: Callable[[Sequence[str]], NDArray[np.float32]]


class Indexes:
    """The indexes behind the versions of one endpoint."""

    def __init__(self, state: Path, *, encoder: Callable[[], QuestionEncoder]) -> None:
        """
        Args:
            state: folder of the endpoint.
            encoder: called once, when the first index is loaded.
        """
        self._folder = state / INDEXES
        self._make_encoder = encoder
        self._encoder: QuestionEncoder | None = None
        self._loaded: dict[str, Index] = {}
        # One thread, beside the model's: a question takes milliseconds, in which the server must still listen.
        self._looking = ThreadPoolExecutor(max_workers=1, thread_name_prefix="look-up")
        self._counted = threading.Lock()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Questions whose passages are not found yet."""
        return self._waiting

    def keep(self, offered: Path, wanted: Retrieval) -> None:
        """Copy an index, so that a later change of the offered folder cannot change an answer.

        Raises:
            WrongIndex, DamagedIndex, OSError: nothing of it is kept.
        """
        folder = self._folder / wanted.sha256
        if folder.exists():
            return
        partial = folder.with_name(f".{uuid4().hex}.partial")
        try:
            partial.mkdir(parents=True)
            for name in SERVED:
                shutil.copyfile(offered / name, partial / name)
            _refuse_other_hash(partial, wanted.sha256)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def load(self, wanted: Retrieval) -> None:
        """Have an index that was kept in memory, ready to be searched.

        Raises:
            WrongIndex, DamagedIndex, OSError, ValueError: it cannot be searched as it was in training.
        """
        if wanted.sha256 in self._loaded:
            return
        folder = self._folder / wanted.sha256
        _refuse_other_hash(folder, wanted.sha256)
        index = read_index(folder)
        if self._encoder is None:
            self._encoder = self._make_encoder()
        if index.encoder != self._encoder.name:
            raise WrongIndex(
                f"{folder}: made by the encoder {index.encoder or 'that it does not name'}, this server has {self._encoder.name}; "
                "install the same version, or materialize retrieval_index and what follows it again"
            )
        # The words are counted now, not while somebody waits.
        assert index.retriever
        self._loaded[wanted.sha256] = index

    def let_go(self, *, keep: set[str]) -> None:
        """Forget all indexes but these, files included."""
        for sha256 in set(self._loaded) - keep:
            self._loaded.pop(sha256)
        for folder in self._folder.glob("*"):
            if folder.name not in keep:
                shutil.rmtree(folder)

    async def look_up(self, question: str, wanted: Retrieval) -> list[Found]:
        """What stands in the prompt of a question, the nearest last.

        Raises:
            IndexGone: nobody needs this index any more.
        """
        if (index := self._loaded.get(wanted.sha256)) is None:
            raise IndexGone("the version has just been replaced; ask again")
        return await asyncio.wrap_future(self._submit(index, question, wanted))

    def _submit(self, index: Index, question: str, wanted: Retrieval) -> "Future[list[Found]]":
        self._count(1)
        job = self._looking.submit(self._passages, index, question, wanted)
        job.add_done_callback(lambda _: self._count(-1))
        return job

    def _passages(self, index: Index, question: str, wanted: Retrieval) -> list[Found]:
        assert self._encoder is not None
        vectors = self._encoder.embed([question])
        [found] = index.fitting([question], vectors, k=wanted.passages, room=wanted.room_tokens)
        return found

    def _count(self, more: int) -> None:
        with self._counted:
            self._waiting += more


def _refuse_other_hash(folder: Path, wanted: str) -> None:
    seen = index_sha256(folder)
    if seen != wanted:
        raise WrongIndex(
            f"{folder}: the index has SHA-256 {seen[:12]}…, registered is {wanted[:12]}…; the files were changed after registration"
        )
