"""Slices that an evaluation found hard, read from its artifact."""

import pytest

from fine_tune_pipeline.artifacts.examples import write_examples, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Store, content_of
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.guide.dataset.more.hard import UnknownEvaluation, found_by, hard_slices, rows_in
from fine_tune_pipeline.guide.evaluation.build import SCORES
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.spec.more import HardSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, example

ROWS = [
    example(str(n), f"p{n}", ("apple", "pear")[n % 2], metadata={"shop": ("north", "south")[n < 40], "day": f"{n}"}) for n in range(100)
]


def scores(wrong):
    return {row.id: float(not wrong(int(row.id))) for row in ROWS}


def test_slices_that_are_surely_worse_are_found_worst_first():
    found = hard_slices(ROWS, scores(lambda n: n % 2 or n < 20), task=FRUIT, columns=["shop", "day"])
    assert [(one.column, one.value, one.rows) for one in found] == [("class", "pear", 50), ("shop", "south", 40)]
    assert (found[0].mean, found[0].overall) == (0.0, 0.4)


def test_few_rows_and_small_differences_say_nothing():
    assert hard_slices(ROWS, scores(lambda n: n % 10 == 1 or n == 2), task=FRUIT, columns=["shop", "day"]) == []


def test_where_less_is_better_the_larger_mean_is_hard():
    wrong = {row.id: float(int(row.id) % 2) for row in ROWS}
    assert [one.value for one in hard_slices(ROWS, wrong, task=FRUIT, columns=[], better="lower")] == ["pear"]


def test_rows_that_lie_in_a_slice():
    found = hard_slices(ROWS, scores(lambda n: n < 40), task=FRUIT, columns=["shop"])
    assert rows_in(found, ROWS[35:45], FRUIT) == {"35", "36", "37", "38", "39"}


def evaluated(store):
    """An evaluation of a dataset, as rooms above write them."""
    with store.draft("fruit", content_of(asset="dataset", version=1, what={}, upstream={})) as draft:
        write_examples(draft.folder / "test.jsonl", ROWS)
        dataset = draft.finish(Built())
    with store.draft("fruit", content_of(asset="evaluation_report", version=1, what={}, upstream={"dataset": dataset})) as draft:
        good = [{"system": "base", "id": row.id, "valid": 1.0, "exact_match": 1.0} for row in ROWS]
        own = [{"system": FINE_TUNED, "id": row.id, "valid": 1.0, "exact_match": float(int(row.id) % 2)} for row in ROWS]
        write_rows(draft.folder / SCORES, [*good, *own])
        return draft.finish(Built())


def test_an_evaluation_is_named_by_its_fingerprint(tmp_path):
    store = Store.at(str(tmp_path))
    report = evaluated(store)
    assert [one.value for one in found_by(store, "fruit", HardSpec(evaluation=report.fingerprint), task=FRUIT)] == ["apple"]
    with pytest.raises(UnknownEvaluation, match=r"hard\.evaluation: the store has no evaluation_report 'absent'"):
        found_by(store, "fruit", HardSpec(evaluation="absent"), task=FRUIT)


YAML = """
type: fine_tune_pipeline.use_case.FineTuneUseCase
attributes:
  name: fruit
  objective:
    goal: Tell apples from pears by what people say of them
    task: {type: classification, labels: [apple, pear]}
    success: [{metric: accuracy, at_least: 0.5}]
  dataset:
    sources: [{type: jsonl, path: rows.jsonl}]
"""


def test_the_command_names_the_last_evaluation_and_its_hard_slices(tmp_path, monkeypatch, capsys):
    (tmp_path / "defs.yaml").write_text(YAML, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path / "home"))
    from fine_tune_pipeline.places import places

    assert main(["hard", str(tmp_path / "defs.yaml")]) == 1
    report = evaluated(Store.at(places().store))
    assert main(["hard", str(tmp_path / "defs.yaml"), "--columns", "shop"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"evaluation {report.fingerprint}", "class apple: 0.00 on 50 test rows, 0.50 on all"]
