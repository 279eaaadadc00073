"""The whole family on made-up embeddings: how often it is wrong when nothing has changed, and what it finds. `bench/drift_power.py` does
the same with public data."""

from functools import cache

import numpy as np
import pytest

from fine_tune_pipeline.guide.deployment.monitoring.signals import Answers, Compared, Reference, Sample, Signal, judge

WIDTH, SUBJECTS, WINDOW, ALPHA = 24, 40, 100, 0.05
CENTRES = np.random.default_rng(0).normal(0, 1, (SUBJECTS + 6, WIDTH))
"""Of subjects; the last six are new."""


def sample(draw: np.random.Generator, rows: int, *, foreign: int = 0, new: int = 0, shift: float = 0.0) -> Sample:
    """Texts of known subjects, of which some are like nothing (`foreign`) or of a new subject, and answers less sure by `shift`."""
    subjects = draw.integers(0, SUBJECTS, rows)
    subjects[:new] = draw.integers(SUBJECTS, SUBJECTS + 6, new)
    vectors = CENTRES[subjects] + draw.normal(0, 0.45, (rows, WIDTH))
    vectors[new : new + foreign] = draw.normal(0, 1, (foreign, WIDTH))
    answers = Answers(
        sure=list(draw.normal(-0.3 - shift, 0.1, rows)),
        classes=[f"class {subject % 8}" for subject in subjects],
        lengths=list(draw.integers(5, 60, rows)),
        invalid=list(draw.random(rows) < 0.02),
        refused=[False] * rows,
    )
    return Sample(
        (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), list(draw.integers(10, 200, rows)), answers
    )


@cache
def reference(seed: int) -> Reference:
    draw = np.random.default_rng(1000 + seed)
    return Reference(train=sample(draw, 600).vectors, held_back=sample(draw, 500), seed=0)


def judged(seed: int, **changed: float) -> tuple[Signal, ...]:
    """One window against one of eight references."""
    window = sample(np.random.default_rng(seed), WINDOW, **changed)
    return judge(Compared(window=window, reference=reference(seed % 8)), alpha=ALPHA, texts=[str(place) for place in range(WINDOW)])


def alarms(seed: int, **changed: float) -> set[str]:
    return {signal.name for signal in judged(seed, **changed) if signal.alarm}


def test_the_false_alarm_rate_of_the_family_is_kept():
    # 5 % of 60 are 3; three standard deviations above are 8.
    assert sum(bool(alarms(seed)) for seed in range(60)) <= 8


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"foreign": 15}, "far_share"), ({"new": 20}, "new_subjects"), ({"shift": 0.06}, "confidence")],
)
def test_what_is_foreign_is_found_by_the_signal_that_is_made_for_it(changed: dict[str, float], named: str):
    assert sum(named in alarms(seed, **changed) for seed in range(10)) >= 9


def test_the_loudest_requests_are_the_foreign_ones():
    far = next(signal for signal in judged(3, foreign=15) if signal.name == "far_share")
    assert {int(text) for text in far.examples} <= set(range(15))
    new = next(signal for signal in judged(3, new=20) if signal.name == "new_subjects")
    assert {int(text) for text in new.examples} <= set(range(20))


def test_what_cannot_speak_takes_no_part_in_the_correction():
    names = {signal.name for signal in judged(1)}
    assert "refused" not in names
    assert {"far_share", "new_subjects", "confidence", "mean_embedding", "prompt_length", "class_shares", "answer_length"} <= names
