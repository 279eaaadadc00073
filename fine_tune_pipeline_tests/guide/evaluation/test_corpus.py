import random
from dataclasses import replace

import numpy as np
import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.corpus import drawn
from fine_tune_pipeline.guide.evaluation.scoring import NoRowCounts, Scores, check_means, score_rows, scored, statistics_rows
from fine_tune_pipeline.guide.objective.metrics import metric_named
from fine_tune_pipeline.guide.objective.task import classification

NAMES = ["a", "b", "c"]
TASK = classification(NAMES)


def answers(rows: list[Example], *, right: float, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [row.completion if draw.random() < right else draw.choice(NAMES) for row in rows]


def rows(count: int) -> list[Example]:
    draw = random.Random(1)
    return [Example(str(place), "?", draw.choice("aaaabc")) for place in range(count)]


def scores(count: int = 300, *, right: float = 0.8) -> Scores:
    test = rows(count)
    given = {"fine_tuned": answers(test, right=right, seed=2), "base_few_shot": answers(test, right=0.5, seed=3)}
    return scored(test, given, task=TASK, metrics=["accuracy", "macro_f1", "recall.c", "ece"])


def test_a_metric_of_all_rows_is_not_the_mean_of_its_scores():
    given = scores()
    f1 = given.mean("fine_tuned", "macro_f1")
    assert f1 != pytest.approx(given.mean("fine_tuned", "accuracy"), abs=1e-3)
    bounds = given.bounds("fine_tuned", "macro_f1", level=0.95)
    assert bounds.method == "bootstrap"
    assert bounds.lower < bounds.estimate == f1 < bounds.upper
    assert (bounds.lower, bounds.upper) == (pytest.approx(f1, abs=0.1), pytest.approx(f1, abs=0.1))


def test_bounds_cover_the_truth_about_as_often_as_they_say():
    """The truth is macro-F1 over a very large set of rows, of which small ones are drawn."""
    draw, metric = np.random.default_rng(5), metric_named("macro_f1", TASK)
    assert metric.corpus is not None
    wanted = draw.choice(3, size=40_000, p=[0.5, 0.3, 0.2])
    given = np.where(draw.random(40_000) < 0.7, wanted, draw.integers(0, 3, size=40_000))
    world = np.column_stack([wanted, given]).astype(float)
    truth, above = metric.corpus.value(world), 0
    for _ in range(200):
        sample = world[draw.integers(0, len(world), size=200)]
        found = drawn(metric.corpus, sample.tolist(), clusters=range(200), draws=300)
        above += truth > np.quantile(found, 0.05)
    assert above / 200 == pytest.approx(0.95, abs=0.05)


def test_the_gain_is_paired_so_a_system_is_never_better_than_itself():
    given = scores()
    same = replace(given, by_system={**given.by_system, "twin": given.by_system["fine_tuned"]},
                   statistics={**given.statistics, "twin": given.statistics["fine_tuned"]})  # fmt: skip
    gain = same.gain("fine_tuned", "macro_f1", over="twin", level=0.95)
    assert gain.lower < gain.estimate == 0 < gain.upper
    clear = given.gain("fine_tuned", "macro_f1", over="base_few_shot", level=0.95)
    assert 0 < clear.lower < clear.estimate < clear.upper


def test_less_calibration_error_is_a_gain():
    given = scores()
    gain = given.gain("fine_tuned", "ece", over="base_few_shot", level=0.95)
    assert gain.estimate == pytest.approx(given.mean("base_few_shot", "ece") - given.mean("fine_tuned", "ece"))
    assert gain.lower > 0


def test_faultless_answers_on_few_rows_have_a_lower_bound_below_one():
    bounds = scores(12, right=1.0).bounds("fine_tuned", "macro_f1", level=0.95)
    assert (bounds.estimate, bounds.upper) == (1.0, 1.0)
    assert 0.7 < bounds.lower < 0.9


def test_rows_of_one_customer_count_as_fewer():
    """Thirty answers, each ten times: who knows that they belong together is less sure."""
    once = rows(30)
    test = [replace(row, id=f"{row.id}-{copy}", metadata={"customer": row.id}) for row in once for copy in range(10)]
    given = [text for text in answers(once, right=0.7, seed=2) for _ in range(10)]
    widths = []
    for column in (None, "customer"):
        found = scored(test, {"fine_tuned": given}, task=TASK, metrics=["macro_f1"], cluster_by=column)
        bounds = found.bounds("fine_tuned", "macro_f1", level=0.95)
        widths.append(bounds.upper - bounds.lower)
    assert widths[1] > 2 * widths[0]


def test_recall_of_a_label_is_over_its_rows_only():
    given = scores()
    of_c = [place for place, row in enumerate(given.rows) if row.completion == "c"]
    assert given.mean("fine_tuned", "recall.c") == pytest.approx(given.part(of_c).mean("fine_tuned", "accuracy"))
    assert given.bounds("fine_tuned", "recall.c", level=0.95) == given.part(of_c).bounds("fine_tuned", "accuracy", level=0.95)
    nothing = given.part([place for place in range(len(given.rows)) if place not in of_c])
    with pytest.raises(NoRowCounts, match=r"recall\.c: none of"):
        nothing.mean("fine_tuned", "recall.c")


def test_what_is_written_for_evaluate_gives_the_same_numbers():
    given = scores(40)
    written, together = list(score_rows(given)), list(statistics_rows(given))
    assert all(("recall.c" in row) == (given.rows[place % 40].completion == "c") for place, row in enumerate(written))
    assert set(together[0]) == {"system", "id", "macro_f1", "ece"}
    means = {system: {name: given.mean(system, name) for name in given.metrics} for system in given.by_system}
    check_means(given, means)
