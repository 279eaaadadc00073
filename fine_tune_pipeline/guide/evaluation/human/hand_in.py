"""Handing verdicts on pairs in from the command line: told at once what is wrong with them, and how many pairs still wait."""

from collections.abc import Sequence
from pathlib import Path

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.reviews import HANDOUT, ReviewFolder
from fine_tune_pipeline.guide.dataset.review.hand_in import HandedIn, put_in
from fine_tune_pipeline.guide.evaluation.human.judgements import Asked, read_judgements
from fine_tune_pipeline.guide.evaluation.human.ways import lines


def hand_in_pairs(folder: ReviewFolder, files: Sequence[Path]) -> HandedIn:
    """Copy files to where the next run looks for them; what is wrong with all that lies there is told.

    Whether answers to the rubric contradict a choice is told by the run, which knows the rubric.
    """
    put_in(folder, files)
    ids = [row["id"] for row in read_rows(folder.folder / HANDOUT)]
    judgements, refused = read_judgements(lines(folder), Asked(ids, handout=folder.folder.name))
    waiting = len(set(ids) - {judgement.pair for judgement in judgements})
    return HandedIn(folder.folder, len(judgements), [f"{row.id}: {row.detail}" for row in refused], waiting, 0)
