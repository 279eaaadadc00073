"""Personal data out of documents, by the same detector as out of examples: what is looked up for a prompt stands in it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.documents import FILE, Chunk, read_chunks, write_chunks
from fine_tune_pipeline.artifacts.examples import Example, write_examples
from fine_tune_pipeline.artifacts.parts import Gathered, total
from fine_tune_pipeline.artifacts.sequences import stored_examples
from fine_tune_pipeline.guide.dataset.scrubbing.residue import Residue

OPEN_TASK = {"type": "question_answering", "labels": None, "schema": None}
"""Of a chunk as an example: its text is the prompt, its heading the answer, and any text is valid."""

Scrub = Callable[[Path, Path], Gathered]
"""(JSONL of examples, folder for parts) -> what came of them."""


def scrubbed_documents(raw: Path, folder: Path, work: Path, scrub: Scrub) -> dict[str, Any]:
    """Write the chunks of `raw` without personal data into `folder`; gives the numbers for the UI.

    A chunk that still holds a checkable identifier is left out, and so is every chunk with personal data under the operator `remove`.
    What only a message or a page has beside its text (sender's id, subject, date) is left out of all.

    Args:
        work: for the parts; it stays when the work breaks off.
    """
    chunks = list(read_chunks(raw))
    if not chunks:
        return {}
    work.mkdir(parents=True, exist_ok=True)
    asked = work / "chunks.jsonl"
    write_examples(asked, (Example(str(place), chunk.text, chunk.heading) for place, chunk in enumerate(chunks)))
    done = scrub(asked, work / "parts")
    left = {int(place) for place in Residue.together([note["residue"] for note in done.notes], total=done.kept).ids}
    kept = work / "kept.jsonl"
    done.write(examples=kept, quarantine=work / "quarantine.jsonl")
    clean = [(int(row.id), row) for row in stored_examples(kept)]
    write_chunks(folder, (_clean(chunks[place], row) for place, row in clean if place not in left))
    numbers = {
        "document_chunks": len(chunks) - done.reasons.total() - len(left),
        "document_chunks_left_out": done.reasons.total() + len(left),
    }
    return {**numbers, "document_replacements": total(note["found"] for note in done.notes).total()}


def taken_documents(source: Path, folder: Path) -> None:
    """Copy the chunks beside the dataset, if there are any."""
    if (source / FILE).exists():
        shutil.copyfile(source / FILE, folder / FILE)


def _clean(chunk: Chunk, row: Example) -> Chunk:
    return replace(chunk, text=row.prompt, heading=row.completion, metadata={})
