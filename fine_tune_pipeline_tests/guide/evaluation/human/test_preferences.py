import json

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.cleaning.clean import clean
from fine_tune_pipeline.guide.dataset.sources.layouts import Record, read_row
from fine_tune_pipeline.guide.evaluation.human.judgements import Judgement
from fine_tune_pipeline.guide.evaluation.human.pairs import HandOut, Pair, Secret
from fine_tune_pipeline.guide.evaluation.human.preferences import preferences
from fine_tune_pipeline.spec.dataset import CleanSpec
from fine_tune_pipeline_tests.guide.dataset.make import OPEN

ROWS = [
    Example("r1", "how much is it today", "ten"),
    Example("r2", "and where", "Rome", history=[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]),
    Example("r3", "when is it open", "now"),
]
KEY = {
    "p1": Secret("r1", "fine_tuned", "base"),
    "p2": Secret("r1", "base", "fine_tuned", repeats="p1"),
    "p3": Secret("r2", "base", "fine_tuned"),
    "p4": Secret("r3", "fine_tuned", "base"),
}
PAIRS = [Pair("p1", "", "own1", "base1"), Pair("p2", "", "base1", "own1"), Pair("p3", "", "base2", "own2"), Pair("p4", "", "own3", "base3")]
HANDED_OUT = HandOut(pairs=PAIRS, key=KEY, identical=0, rows=3)


def test_what_most_people_prefer_is_a_row_that_a_source_reads():
    said = [("p1", "A", "ann"), ("p2", "B", "ann"), ("p1", "B", "bob"), ("p3", "A", "ann"), ("p3", "unusable", "bob")]
    found = preferences([Judgement(*one) for one in said], HANDED_OUT, ROWS)
    assert found[0] == {"id": "r1", "prompt": "how much is it today", "chosen": "own1", "rejected": "base1", "judgements": 3}
    records = [read_row(json.loads(json.dumps(row)), layout="preference", names={}, turns="last").records for row in found]
    assert records == [
        [Record("how much is it today", "own1", rejected="base1")],
        [Record("and where", "base2", history=list(ROWS[1].history), rejected="own2")],
    ]


def test_a_tie_says_nothing():
    said = [("p4", "A", "ann"), ("p4", "B", "bob"), ("p1", "equal", "ann"), ("p3", "unusable", "ann")]
    assert preferences([Judgement(*one) for one in said], HANDED_OUT, ROWS) == []


def test_comparisons_of_test_rows_are_kept_out_of_the_training_that_they_test():
    [row] = preferences([Judgement("p1", "A", "ann")], HANDED_OUT, ROWS)
    compared = Example("new", row["prompt"], row["chosen"], rejected=row["rejected"])
    held_out = Example("r1", "how much is it today", "ten", held_out=True)
    result = clean([held_out, compared], spec=CleanSpec(), task=OPEN)
    assert [(gone.id, gone.reason) for gone in result.quarantine] == [("new", "duplicate_of_held_out")]
