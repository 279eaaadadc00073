"""A value set in a YAML text: what was there stays as it was."""

from typing import Any

import pytest
import yaml

from fine_tune_pipeline.spec.editing import Location, NotEditable, with_value

FLOW = "a:\n  training: {epochs: 2, effective_batch: 8}   # small steps\n  # the end\n"
BLOCK = "a:\n  training:\n    epochs: 2   # passes\n    # of rows\n    batch: 8\n\n  last: 1\n"
LIST = "a:\n  models:\n    # the small one\n    - small   # 270 M\n    - id: big\n      licence: MIT\n  last: 1\n"


@pytest.mark.parametrize(
    ("text", "location", "value", "wanted"),
    [
        (FLOW, ("a", "training", "epochs"), 3, FLOW.replace("epochs: 2", "epochs: 3")),
        (FLOW, ("a", "training", "rate"), 0.001, FLOW.replace("batch: 8}", "batch: 8, rate: 0.001}")),
        (FLOW, ("a", "technique"), {"type": "lora", "rank": 8}, FLOW.replace("steps\n", "steps\n  technique: {type: lora, rank: 8}\n")),
        (FLOW, ("a", "review", "policy"), "experts", FLOW.replace("steps\n", "steps\n  review: {policy: experts}\n")),
        (BLOCK, ("a", "training", "epochs"), 1.5, BLOCK.replace("epochs: 2 ", "epochs: 1.5 ")),
        (BLOCK, ("a", "training", "rate"), "auto", BLOCK.replace("batch: 8\n", "batch: 8\n    rate: auto\n")),
        ("a: {}\n", ("a", "b"), 1, "a: {b: 1}\n"),
        ("a:\n", ("a", "b", "c"), 1, "a: {b: {c: 1}}\n"),
        ("a: 1", ("b",), 2, "a: 1\nb: 2"),
        ("a:\r\n  b: 1\r\n", ("a", "c"), 2, "a:\r\n  b: 1\r\n  c: 2\r\n"),
        ("a: {b: &x 1}\n", ("a", "b"), 2, "a: {b: &x 2}\n"),
        ("a: >-\n  long\n  text\nb: 1\n", ("a",), "short", "a: short\nb: 1\n"),
        ("a: {b: auto}\n", ("a", "b"), "x, y: {z}", "a: {b: 'x, y: {z}'}\n"),
        (FLOW, ("a", "training"), {"epochs": 2, "effective_batch": 4, "seed": 1}, FLOW.replace("batch: 8}", "batch: 4, seed: 1}")),
        ("a: {type: auto}\n", ("a",), {"rank": 8}, "a: {rank: 8}\n"),
        ("a:\n- {b: 1}\n- b: 2\n  c: 3\n", ("a", 1, "b"), 4, "a:\n- {b: 1}\n- b: 4\n  c: 3\n"),
        ("a: [x, {y: 1}]\n", ("a",), ["new", "x", {"y": 1}], "a: [new, x, {y: 1}]\n"),
        ("a: ['x', y]   # kept\n", ("a",), ["y", "x"], "a: [y, 'x']   # kept\n"),
        ("a: []\n", ("a",), ["x"], "a: [x]\n"),
        (LIST, ("a", "models"), ["new", "small", {"id": "big", "licence": "MIT"}], LIST.replace("    # the", "    - new\n    # the")),
        (
            LIST,
            ("a", "models"),
            [{"id": "big", "licence": "MIT"}, "small"],
            "a:\n  models:\n    - id: big\n      licence: MIT\n    # the small one\n    - small   # 270 M\n  last: 1\n",
        ),
    ],
)
def test_one_value_is_set_and_all_else_stays(text: str, location: Location, value: Any, wanted: str):
    assert with_value(text, location, value) == wanted


def test_a_new_field_stands_where_the_order_of_fields_wants_it():
    text = "dataset: {x: 1}\ntraining:\n  seed: 0\n"
    found = with_value(text, ("technique", "type"), "lora", order=lambda _: ("objective", "dataset", "technique", "training"))
    assert found == "dataset: {x: 1}\ntechnique: {type: lora}\ntraining:\n  seed: 0\n"
    assert with_value("b: 1\n", ("a",), 2, order=lambda _: ("a", "b")) == "a: 2\nb: 1\n"


ANCHORED = "base: &t {epochs: 2}\nmine: *t\nother: {<<: *t, batch: 8}\n"


@pytest.mark.parametrize(
    ("text", "location", "said"),
    [
        (ANCHORED, ("base", "epochs"), "line 1  base.epochs: it lies in the anchor &t, which is used elsewhere too; change it by hand"),
        (ANCHORED, ("mine", "epochs"), "anchor &t"),
        ("a: &x 1\nb: *x\n", ("b",), "line 1  b: it lies in the anchor &x"),
        ("t: &t {s: {p: 1}}\nm: {<<: *t}\n", ("m", "s", "p"), "s comes from an anchor, by a merge key"),
        ("a: {b: 1}\n", ("a", "b", "c"), "no mapping"),
        ("a: [1]\n", ("a", 3, "b"), "the list has no such entry"),
        ("a: [1,  # one\n  2]\n", ("a",), "comments between its items"),
        ("a:\n  b: 1\n  # why\n  c: 2\n", ("a",), "there are comments in it"),
        ("x: &x 1\na: [*x, 2]\n", ("a",), "an item of the list is an alias"),
    ],
)
def test_what_cannot_be_set_alone_is_refused_by_name(text: str, location: Location, said: str):
    value = {"z": 1} if location == ("a",) and "why" in text else [9]
    with pytest.raises(NotEditable) as refused:
        with_value(text, location, value)
    assert said in str(refused.value)


def test_a_field_that_a_merge_key_gives_is_set_beside_it():
    found = with_value(ANCHORED, ("other", "epochs"), 3)
    assert yaml.safe_load(found) == {"base": {"epochs": 2}, "mine": {"epochs": 2}, "other": {"epochs": 3, "batch": 8}}
    assert found == ANCHORED.replace("batch: 8}", "batch: 8, epochs: 3}")


def test_an_equal_value_changes_nothing():
    assert with_value(BLOCK, ("a", "training", "epochs"), 2) == BLOCK
