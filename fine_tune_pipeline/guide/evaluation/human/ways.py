"""Pairs as files in the hand-out's folder and as a form for the browser, and what people hand in there. Neither knows the key."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.guide.dataset.review.files.exchange import json_lines
from fine_tune_pipeline.guide.dataset.review.verdicts import Line
from fine_tune_pipeline.guide.evaluation.human.pairs import Pair
from fine_tune_pipeline.guide.evaluation.human.rubric import ASKED
from fine_tune_pipeline.people.form import fill

FORM = "pairs.html"


def offer(folder: ReviewFolder, pairs: Sequence[Pair], *, formats: Sequence[str], questions: Mapping[str, str], use_case: str) -> Path:
    """Write the blind pairs for people; verdicts that are there already stay."""
    handout = folder.hand_out([asdict(pair) for pair in pairs])
    if "html" in formats:
        partial = folder.folder / f".{FORM}.partial"
        partial.write_text(form(pairs, questions=questions, use_case=use_case, name=folder.folder.name), encoding="utf-8")
        os.replace(partial, folder.folder / FORM)
    return handout


def form(pairs: Sequence[Pair], *, questions: Mapping[str, str], use_case: str, name: str) -> str:
    """The text of the form.

    Args:
        name: of the hand-out; it is in every verdict, since ids are the same in all hand-outs.
    """
    template = files("fine_tune_pipeline.guide.evaluation.human").joinpath("pairs_form.html").read_text(encoding="utf-8")
    handout = {
        "name": name,
        "storage": f"fine_tune_pipeline pairs of {use_case} {name}",
        "asked": ASKED,
        "questions": dict(questions),
        "rows": [asdict(pair) for pair in pairs],
    }
    return fill(template, title=f"Which answer is better? {use_case}", handout=handout)


def lines(folder: ReviewFolder) -> list[Line]:
    """What people handed in, file by file, the oldest first; a byte that is not UTF-8 costs its character, not the file."""
    found: list[Line] = []
    for path in sorted(folder.files_handed_in(), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        if path.suffix.casefold() in (".jsonl", ".json", ".txt"):
            found += json_lines(path.name, path.read_text(encoding="utf-8-sig", errors="replace"))
        else:
            found.append(Line(path.name, {"file": path.name}, "not a file of lines such as the verdicts.jsonl that the form gives"))
    return found
