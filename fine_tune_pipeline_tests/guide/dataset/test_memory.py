"""No step of this room holds its rows: what it needs for each further one is a place, or the little by which rows are compared."""

import gc
import random
import tracemalloc
from dataclasses import asdict
from functools import partial

from fine_tune_pipeline.artifacts import sequences
from fine_tune_pipeline.artifacts.examples import read_examples, write_rows
from fine_tune_pipeline.guide.dataset.cleaning.clean import cleaned
from fine_tune_pipeline.guide.dataset.likeness import leak_checks
from fine_tune_pipeline.guide.dataset.publishing import languages, record_schema
from fine_tune_pipeline.guide.dataset.publishing.publish import published
from fine_tune_pipeline.guide.dataset.review.review import reviewed
from fine_tune_pipeline.guide.dataset.review.round import NOBODY
from fine_tune_pipeline.guide.dataset.review.sample import Sample
from fine_tune_pipeline.guide.dataset.sources.collect import collected, gather
from fine_tune_pipeline.guide.dataset.steps import Step, read_steps
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline_tests.guide.dataset.make import jsonl, on_parts, use_case

LEAST, MOST = 1000, 2000

PLAIN_TEXT = 49 + 95
"""Bytes of a text of these rows, which have 91 characters on average."""

BOUNDS = {"raw": 100, "clean": 256 + PLAIN_TEXT, "review": 100, "dataset": 256 + PLAIN_TEXT}
"""Bytes for each further row; with 256 of a MinHash signature where near duplicates are looked for. As an object a row takes some 1,400."""


def rows(count):
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    for number in range(count):
        words = ["".join(draw.choices(letters, k=draw.randrange(2, 9))) for _ in range(14)]
        yield {"prompt": " ".join(words), "completion": ("apple", "pear")[number % 2], "id": f"message-{number}"}


def peaks(folder, count):
    """Step -> bytes that it needs at most beside what was there before."""
    spec = use_case(folder, review={"policy": "auto_accept"}, clean={"skip": ["label_disagrees"]})
    task = read_task(spec)
    jsonl(folder / "rows.jsonl", rows(count))
    gathered = gather(spec)
    steps = {
        "raw": lambda: collected(gathered, folder / "raw", seed=0),
        "clean": lambda: cleaned(
            folder / "raw",
            folder / "clean",
            parts=folder / "parts",
            spec=spec.dataset.clean,
            task=task,
            on_parts=partial(on_parts, rows=100),
        ),
        "review": lambda: reviewed(
            folder / "clean", folder / "review", spec=spec.dataset.review, sample=Sample([]), done=NOBODY, reviews=None, seed=0
        ),
        "dataset": lambda: published(folder / "review", folder / "dataset", spec=spec.dataset, task=task, use_case="fruit"),
    }
    found = {}
    for name, step in steps.items():
        (folder / name).mkdir()
        gc.collect()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        step()
        found[name] = tracemalloc.get_traced_memory()[1] - before
        if name == "clean":
            # The record that the step of personal data would leave.
            record = Step("scrub", count, count, notes={"personal_data": {}, "detector": "none"})
            write_rows(folder / name / "steps.jsonl", map(asdict, (*read_steps(folder / name), record)))
    assert len(read_examples(folder / "review" / "examples.jsonl")) == count
    return found


def test_memory_grows_by_little_more_than_the_texts_that_are_compared(tmp_path, monkeypatch):
    # What is bounded, but by more rows than these.
    monkeypatch.setattr(sequences, "_BLOCK", 1000)
    monkeypatch.setattr(leak_checks, "MOST_ROWS", 100)
    monkeypatch.setattr(languages, "MOST_ROWS", 100)
    monkeypatch.setattr(record_schema, "_GROUP_ROWS", 100)
    few, many, warm = tmp_path / "few", tmp_path / "many", tmp_path / "warm"
    for folder in (few, many, warm):
        folder.mkdir()
    tracemalloc.start()
    try:
        # Modules are loaded and models of languages read at the first use.
        peaks(warm, 100)
        small, large = peaks(few, LEAST), peaks(many, MOST)
    finally:
        tracemalloc.stop()
    growth = {name: (large[name] - small[name]) / (MOST - LEAST) for name in small}
    assert {name: bytes_ for name, bytes_ in growth.items() if bytes_ > BOUNDS[name]} == {}, growth
