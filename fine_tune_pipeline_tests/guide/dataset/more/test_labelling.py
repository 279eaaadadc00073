"""Votes, their weights, and rows that nobody can label."""

import math
import random
from collections import Counter

import pytest

from fine_tune_pipeline.guide.dataset.more.label_rules import (
    BrokenRule,
    MissingFunction,
    UnknownLabel,
    code_sha256,
    labelled_fields,
    voters,
)
from fine_tune_pipeline.guide.dataset.more.labelling import ASSUMED_ACCURACY, Voter, label
from fine_tune_pipeline.guide.objective.task import classification, extraction
from fine_tune_pipeline.spec.more import LabellingSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, OPEN, example, ids

BERRY = classification(["apple", "pear", "berry"])


def says(name, labels, accuracy=None, field="label"):
    """A rule that says these labels, by row id."""
    return Voter(name, field, lambda row: labels.get(row.id), accuracy)


def decide(rules, rows=("a",), *, labelled=(), task=FRUIT, sure=0.6):
    return label(
        [example(id_, f"row {id_}", "") for id_ in rows], labelled, voters=rules, task=task, fields=labelled_fields(task), sure=sure
    )


def test_the_weightier_vote_wins_over_the_larger_number():
    result = decide([says("good", {"a": "pear"}, 0.95), says("weak", {"a": "apple"}, 0.6), says("weak too", {"a": "apple"}, 0.6)])
    [row] = result.examples
    assert row.completion == "pear"
    assert row.metadata["labelled_by"] == "good"
    # Odds of independent rules: 19 for pear, 1.5 x 1.5 for apple.
    assert float(row.metadata["label_probability"]) == pytest.approx(19 / (19 + 2.25), abs=1e-3)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ([says("silent", {}, 0.9)], "no rule says anything of label"),
        ([says("one", {"a": "pear"}, 0.8), says("two", {"a": "apple"}, 0.8)], "probability 0.50"),
        ([says("chance", {"a": "pear"}, 0.5)], "probability 0.50"),
    ],
)
def test_a_row_without_a_winner_goes_to_the_quarantine(rules, why):
    result = decide(rules)
    [row] = result.quarantine
    assert (row.id, row.reason, result.examples) == ("a", "unlabelled", [])
    assert why in row.detail


def test_accuracy_is_estimated_on_labelled_rows_and_shrunk():
    labelled = [example(str(number), "x", "apple" if number < 8 else "pear") for number in range(10)]
    result = decide([says("rule", {str(number): "apple" for number in range(10)} | {"a": "apple"})], labelled=labelled)
    [line] = result.table
    assert (line["accuracy"], line["seen_on"]) == (9 / 12, 10)
    assert line["weight"] == pytest.approx(math.log(3))


def test_a_rule_that_met_few_labelled_rows_has_the_assumed_accuracy():
    [line] = decide([says("rule", {"1": "pear"})], labelled=[example("1", "x", "apple")]).table
    assert (line["accuracy"], line["seen_on"]) == (ASSUMED_ACCURACY, 0)


def test_coverage_overlap_and_conflict():
    rules = [
        says("first", {"a": "pear", "b": "pear", "c": "apple"}, 0.9),
        says("second", {"b": "pear", "c": "pear"}, 0.8),
        says("third", {}, 0.8),
    ]
    table = {line["rule"]: (line["coverage"], line["overlap"], line["conflict"]) for line in decide(rules, rows="abcd").table}
    assert table == {"first": (0.75, 0.5, 0.25), "second": (0.5, 0.5, 0.25), "third": (0, 0, 0)}


FORM = extraction(
    {"type": "object", "properties": {"kind": {"enum": ["x", "y"]}, "stars": {"enum": [1, 2]}}, "required": ["kind", "stars"]}
)


def test_every_field_of_an_extraction_needs_a_winner_and_values_keep_their_type():
    both = [says("kind", {"a": "x", "b": "y"}, 0.9, "kind"), says("stars", {"a": "2"}, 0.9, "stars")]
    result = decide(both, rows="ab", task=FORM)
    assert [(row.id, row.completion) for row in result.examples] == [("a", '{"kind": "x", "stars": 2}')]
    assert [(row.id, row.detail) for row in result.quarantine] == [("b", "no rule says anything of stars")]


def rules(*declared, folder=None):
    return voters(LabellingSpec.model_validate({"rules": [{"name": "r", **one} for one in declared]}), task=BERRY, folder=folder)


@pytest.mark.parametrize(
    ("rule", "prompt", "holds"),
    [
        ({"type": "keywords", "words": ["bottle shaped"]}, "It is Bottle Shaped.", True),
        ({"type": "keywords", "words": ["pear"]}, "spears", False),
        ({"type": "keywords", "words": ["c++"]}, "I like C++ a lot", True),
        ({"type": "regex", "pattern": r"^\d+ pears"}, "12 pears", True),
        ({"type": "regex", "pattern": r"^\d+ pears"}, "no pears", False),
        ({"type": "equals", "column": "shop", "values": ["north"]}, "x", True),
        ({"type": "equals", "column": "ticket.queue.0", "values": ["p"]}, "x", True),
        ({"type": "equals", "column": "ticket.queue.7", "values": ["p"]}, "x", False),
        ({"type": "keywords", "column": "absent", "words": ["x"]}, "x", False),
    ],
)
def test_declared_rules_hold_or_abstain(rule, prompt, holds):
    [voter] = rules({"label": "pear", **rule})
    row = example("a", prompt, "", metadata={"shop": "north", "ticket": '{"queue": ["p"]}'})
    assert voter.vote(row) == ("pear" if holds else None)


def test_python_rules_lie_beside_the_yaml_and_see_columns_but_not_the_answer(tmp_path):
    (tmp_path / "own.py").write_text(
        "def fruit(row):\n    return 'berry' if sorted(row) == ['prompt', 'shop'] else None\n", encoding="utf-8"
    )
    [voter] = rules({"type": "python", "function": "own:fruit"}, folder=tmp_path)
    assert voter.vote(example("a", "x", "apple", metadata={"shop": "north"})) == "berry"
    before = code_sha256(LabellingSpec.model_validate({"rules": [{"type": "python", "name": "r", "function": "own:fruit"}]}), tmp_path)
    (tmp_path / "own.py").write_text("def fruit(row):\n    return 'plum'\n", encoding="utf-8")
    assert (
        code_sha256(LabellingSpec.model_validate({"rules": [{"type": "python", "name": "r", "function": "own:fruit"}]}), tmp_path) != before
    )
    [voter] = rules({"type": "python", "function": "own:fruit"}, folder=tmp_path)
    with pytest.raises(BrokenRule, match="gave 'plum' for row a, want None or one of apple"):
        voter.vote(example("a", "x", ""))


def test_mistakes_in_rules_are_named(tmp_path):
    with pytest.raises(UnknownLabel, match=r"rules\[0\] \(r\)\.label: got 'plum'"):
        rules({"type": "keywords", "words": ["x"], "label": "plum"})
    with pytest.raises(UnknownLabel, match="no closed list"):
        voters(
            LabellingSpec.model_validate({"rules": [{"type": "regex", "name": "r", "pattern": "x", "label": "y"}]}),
            task=OPEN,
            folder=tmp_path,
        )
    with pytest.raises(MissingFunction, match="is not there"):
        rules({"type": "python", "function": "absent:f"}, folder=tmp_path)
    (tmp_path / "own.py").write_text("def f(row):\n    return row['absent']\n", encoding="utf-8")
    with pytest.raises(MissingFunction, match="no function g"):
        rules({"type": "python", "function": "own:g"}, folder=tmp_path)
    with pytest.raises(BrokenRule, match="failed on row a"):
        rules({"type": "python", "function": "own:f"}, folder=tmp_path)[0].vote(example("a", "x"))
    with pytest.raises(ValueError, match="stands there twice"):
        rules({"type": "keywords", "words": ["x"], "label": "pear"}, {"type": "keywords", "words": ["y"], "label": "pear"})
    with pytest.raises(ValueError, match="want a regular expression"):
        rules({"type": "regex", "pattern": "(", "label": "pear"})


def test_rows_come_back_in_order():
    assert ids(decide([says("rule", {"b": "pear", "a": "apple"}, 0.9)], rows="ba").examples) == ["b", "a"]


def test_the_weighted_vote_beats_the_majority_and_its_probability_is_how_often_it_is_right():
    """Ten rules of known accuracy, most of them poor, on 2,000 rows; their accuracy is estimated on 200 labelled ones."""
    draw, names = random.Random(0), ["apple", "pear", "berry"]
    truth = {f"row{number}": draw.choice(names) for number in range(2200)}
    accuracies = [0.95, 0.9, 0.85, 0.6, 0.55, 0.5, 0.5, 0.45, 0.45, 0.4]

    def vote(right, accuracy):
        if draw.random() > 0.5:
            return None
        return right if draw.random() < accuracy else draw.choice([name for name in names if name != right])

    said = [{id_: vote(right, accuracy) for id_, right in truth.items()} for accuracy in accuracies]
    rules = [says(f"rule{number}", votes) for number, votes in enumerate(said)]
    known, open_ = list(truth)[:200], list(truth)[200:]
    labelled = [example(id_, "x", truth[id_]) for id_ in known]
    result = decide(rules, rows=open_, labelled=labelled, task=BERRY, sure=0.01)
    right = [row.completion == truth[row.id] for row in result.examples]
    majority = [Counter(filter(None, (votes[row.id] for votes in said))).most_common(1)[0][0] == truth[row.id] for row in result.examples]
    probability = sum(float(row.metadata["label_probability"]) for row in result.examples) / len(right)
    assert sum(right) / len(right) > sum(majority) / len(right) + 0.03
    assert probability == pytest.approx(sum(right) / len(right), abs=0.03)
