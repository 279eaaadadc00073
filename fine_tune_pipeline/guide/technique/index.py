"""What is looked up for a prompt: parts of the use case's documents or, where it names none, the training rows that are most like it."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.documents import Chunk, read_chunks
from fine_tune_pipeline.artifacts.examples import Example, read_examples, write_examples, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.dataset.cleaning.embedding import encoder_version
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.guide.technique.rows import Data, read_data
from fine_tune_pipeline.guide.technique.systems import embed_rows, max_new_tokens, untrained_format
from fine_tune_pipeline.programs.passages import CHUNKS, DOCUMENTS, FILE, TRAIN_VECTORS, TRAINING, VECTORS, Entry, Index, Source
from fine_tune_pipeline.programs.passages import read_index as read_folder
from fine_tune_pipeline.programs.retrieval import DEPTH, FUSION_K
from fine_tune_pipeline.programs.token_bounds import FRAME_TOKENS, most_tokens
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg
    import numpy as np

    from fine_tune_pipeline.resources.compute.base import Compute

ASSET = "retrieval_index"
PASSAGES, ROOM = "passages", "room_tokens"
"""Fields of `index.json` where a model is trained with context: passages for each row, and tokens for them and the question together."""

PARTS = ("train", "validation", "test")

SHOWN_ROWS = 5
"""Validation rows that are shown with the passage nearest to them."""


def learned_from(spec: UseCaseSpec) -> str:
    """The asset whose `train.jsonl` and `validation.jsonl` training reads: the dataset or, trained with context, the index, whose rows have
    what was looked up for them."""
    return ASSET if spec.dataset.format.context == "retrieved" else "dataset"


def read_index(artifact: Artifact) -> Index:
    """The index of an artifact of `retrieval_index`."""
    for name in (FILE, CHUNKS, VECTORS):
        artifact.file(name)
    return read_folder(artifact.folder)


def room_for(spec: UseCaseSpec, task: Task, train: Sequence[Example], *, context_tokens: int) -> int:
    """Tokens that question and passages may take together, beside the instruction, the frame and the answer."""
    answer = max_new_tokens([example.completion for example in train])
    return context_tokens - most_tokens(untrained_format(spec, task).instruction) - answer - FRAME_TOKENS


def build_index(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    folder: Path,
    *,
    spec: UseCaseSpec,
    task: Task,
    dataset: Artifact,
    base: Artifact | None = None,
) -> Built:
    """Write `chunks.jsonl`, `vectors.npy` and `index.json` into `folder`; words are counted anew whenever the index is read.

    Args:
        base: of a use case whose model is trained with context: its rows with what was looked up for them are written as well, as
            `train.jsonl`, `validation.jsonl` and `test.jsonl`.
    """
    import numpy as np

    data = read_data(dataset, spec)
    source, entries = _entries(dataset, data.train)
    apart = source == DOCUMENTS and bool(task.classes)
    parts = {} if base is None else {part: read_examples(dataset.file(f"{part}.jsonl")) for part in PARTS}
    texts = {
        "entries": [Example(entry.id, entry.text, "") for entry in entries],
        "own": data.train if apart else [],
        "rows": data.rows,
        **parts,
    }
    vectors = _embedded(context, compute, folder / "work", texts)
    index = Index(source, entries, vectors["entries"], vectors["own"] if apart else None)
    write_rows(folder / CHUNKS, (vars(entry) for entry in entries))
    np.save(folder / VECTORS, index.vectors)
    if apart:
        np.save(folder / TRAIN_VECTORS, vectors["own"])
    room = 0 if base is None else room_for(spec, task, data.train, context_tokens=base.json("base_model.json")["context_tokens"])
    for part, rows in parts.items():
        found = index.looked_up(rows, vectors[part], k=spec.dataset.format.passages, room=room)
        write_examples(folder / f"{part}.jsonl", found)
    width = int(index.vectors.shape[1])
    about = {"source": source, "chunks": len(entries), "width": width, "fusion_k": FUSION_K, "depth": DEPTH, "encoder": encoder_version()}
    # What the rows were made with, since the endpoint must look up alike.
    about |= {} if base is None else {PASSAGES: spec.dataset.format.passages, ROOM: room}
    (folder / FILE).write_text(json.dumps(about, indent=2), encoding="utf-8")
    return Built(metadata={**about, **_seen(index, data, vectors["rows"], task)})


def source_of(dataset: Artifact) -> Source:
    """What the index of this dataset holds: parts of documents, if there are any, else training rows."""
    return DOCUMENTS if next(read_chunks(dataset.folder), None) is not None else TRAINING


def _entries(dataset: Artifact, train: Sequence[Example]) -> tuple[Source, list[Entry]]:
    """Parts of documents, if the dataset has any, else the training rows; never a row of validation or test."""
    if source_of(dataset) == DOCUMENTS:
        return DOCUMENTS, [_of_chunk(chunk) for chunk in read_chunks(dataset.folder)]
    return TRAINING, [Entry(row.id, row.question, {"prompt": row.question, "completion": row.completion}) for row in train]


def _of_chunk(chunk: Chunk) -> Entry:
    """The headings above a part often hold the word that is asked for."""
    text = f"{chunk.heading}\n{chunk.text}" if chunk.heading else chunk.text
    title = ", ".join(filter(None, [chunk.document, f"page {chunk.page}" if chunk.page else "", chunk.heading]))
    return Entry(chunk.id, text, {"text": text}, title)


def _embedded(
    context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, texts: Mapping[str, Sequence[Example]]
) -> dict[str, "np.ndarray"]:
    """Vectors of all groups of texts, of one run of the encoder; the same text is embedded once."""
    import shutil

    import numpy as np

    once = list(dict.fromkeys(example.question for examples in texts.values() for example in examples))
    place = {text: number for number, text in enumerate(once)}
    vectors = embed_rows(context, compute, folder, [Example(str(number), text, "") for number, text in enumerate(once)])
    shutil.rmtree(folder)
    return {name: vectors[np.array([place[example.question] for example in examples], dtype=int)] for name, examples in texts.items()}


def _seen(index: Index, data: Data, vectors: "np.ndarray", task: Task) -> dict[str, Any]:
    """How well and how fast the validation rows find something."""
    index.retriever.search([""], vectors[:1], k=1)
    started = time.monotonic()
    found = index.nearest(data.rows, vectors, k=1)
    seconds = max(time.monotonic() - started, 1e-9)
    shown = [
        {"prompt": row.question, "nearest": entries[0].text, "answer": entries[0].passage.get("completion", "–")}
        for row, entries in list(zip(data.rows, found, strict=True))[:SHOWN_ROWS]
        if entries
    ]
    numbers = {"validation_rows": len(data.rows), "searches_per_second": round(len(data.rows) / seconds, 1), "found": shown}
    if not task.classes or index.source == DOCUMENTS:
        return numbers
    same = [
        bool(entries) and task.class_of(entries[0].passage["completion"]) == task.class_of(row.completion)
        for row, entries in zip(data.rows, found, strict=True)
    ]
    return {**numbers, "nearest_class_share": sum(same) / len(same)}
