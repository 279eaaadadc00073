"""A small index over a few passages, as `retrieval_index` leaves it, and an encoder without weights that belongs to it."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fine_tune_pipeline.artifacts.examples import write_rows
from fine_tune_pipeline.programs.passages import CHUNKS, FILE, VECTORS, Entry, index_sha256
from fine_tune_pipeline.programs.serving.contract import Retrieval

ENCODER = "words 1"
WIDTH = 128
ROOM = 400


def word_vectors(texts: Sequence[str]) -> np.ndarray:
    """Bags of hashed words, unit length: float32 [texts, WIDTH]."""
    vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in ("x", *text.casefold().split()):
            vectors[row, zlib.crc32(word.encode("utf-8")) % WIDTH] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def small_index(
    folder: Path, texts: Sequence[str], *, encoder: str = ENCODER, embed: Callable[[Sequence[str]], np.ndarray] = word_vectors
) -> Path:
    """Write an index of parts of documents, two of which stand before each question."""
    folder.mkdir(parents=True)
    entries = [Entry(f"part-{place}", text, {"text": text}, f"guide.md, part {place}") for place, text in enumerate(texts)]
    write_rows(folder / CHUNKS, (vars(entry) for entry in entries))
    np.save(folder / VECTORS, embed(texts))
    about = {"source": "documents", "encoder": encoder, "passages": 2, "room_tokens": ROOM}
    (folder / FILE).write_text(json.dumps(about), encoding="utf-8")
    return folder


def retrieval(index: Path, *, passages: int = 2) -> Retrieval:
    """How a version says what it looks up."""
    return Retrieval(fingerprint="f" * 16, sha256=index_sha256(index), passages=passages, room_tokens=ROOM)
