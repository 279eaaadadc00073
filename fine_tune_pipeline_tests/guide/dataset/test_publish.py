"""The dataset's files, checks and card."""

import json
from dataclasses import asdict

import pyarrow.parquet as pq
import pytest

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.quarantine import read_quarantine
from fine_tune_pipeline.guide.dataset.publish import checks, published
from fine_tune_pipeline.guide.dataset.split import Split
from fine_tune_pipeline.guide.dataset.steps import Step
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, OPEN, example, use_case
from fine_tune_pipeline_tests.guide.dataset.test_split import rows

SOURCES = [{"source": "jsonl:rows.jsonl", "held_out": False, "rows": 203, "licence": "CC0-1.0"}]
VERDICTS = {"accept": 18, "fix": 1, "reject": 1, "not_sampled": 181}
REVIEW = {"policy": "experts", "handed_out": 20, "verdicts": VERDICTS, "reviewers": {"Kim": 20}}
STEPS = [
    Step("collect", 203, 203, notes={"sources": SOURCES}),
    Step("clean", 203, 201, quarantined={"exact_duplicate": 2}, fixed={"whitespace": 7}, notes={"marked": 3}),
    Step("scrub", 201, 201, notes={"personal_data": {"PERSON": 4}, "detector": "words 1.0"}),
    Step("review", 201, 200, quarantined={"rejected_by_expert": 1}, notes=REVIEW),
]


@pytest.fixture
def reviewed(tmp_path):
    folder = tmp_path / "reviewed"
    folder.mkdir()
    write_examples(folder / "examples.jsonl", rows(200))
    write_rows(folder / "steps.jsonl", map(asdict, STEPS))
    return folder


def publish(reviewed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    return out, published(reviewed, out, spec=use_case(tmp_path).dataset, task=FRUIT, use_case="fruit")


def test_the_parts_are_written_in_both_forms(reviewed, tmp_path):
    out, built = publish(reviewed, tmp_path)
    parts = {name: read_examples(out / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == 200
    for name, examples in parts.items():
        talks = read_rows(out / f"{name}.chat.jsonl")
        assert len(talks) == len(examples) == built.metadata[name]
        assert talks[0]["messages"] == [
            {"role": "user", "content": examples[0].prompt},
            {"role": "assistant", "content": examples[0].completion},
        ]
    assert read_quarantine(out) == []
    assert all(check.passed for check in built.checks)


def test_the_parts_are_tables_too(reviewed, tmp_path):
    out, _ = publish(reviewed, tmp_path)
    for name in ("train", "validation", "test"):
        rows = pq.read_table(out / f"{name}.parquet", schema=None).to_pylist(maps_as_pydicts="strict")
        nested = [{**row, **{column: json.loads(row[column]) for column in ("history", "tools")}} for row in rows]
        assert nested == [asdict(example) for example in read_examples(out / f"{name}.jsonl")]


def test_the_card_tells_what_was_done_and_the_counts_add_up(reviewed, tmp_path):
    out, _ = publish(reviewed, tmp_path)
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    assert card["licences"] == {"jsonl:rows.jsonl": "CC0-1.0"}
    assert card["quarantined"] == {"clean": {"exact_duplicate": 2}, "review": {"rejected_by_expert": 1}}
    assert card["personal_data"] == {"PERSON": 4}
    assert card["review"]["policy"] == "experts"
    assert all(step["in"] == step["kept"] + step["quarantined"] for step in card["steps"])
    assert all(before["kept"] == after["in"] for before, after in zip(card["steps"], card["steps"][1:], strict=False))
    assert sum(card["rows"].values()) == card["steps"][-1]["kept"] == 200
    for part, total in card["rows"].items():
        assert sum(counts[part] for counts in card["classes"].values()) == total


@pytest.mark.parametrize(
    "said", ["fixed 1, rejected 1", "Kim (20)", "181 examples outside the sample", "CC0-1.0", "| PERSON | 4 |", "| apple |", "words 1.0"]
)
def test_the_card_for_people_says_it_too(reviewed, tmp_path, said):
    out, built = publish(reviewed, tmp_path)
    assert said in (out / "card.md").read_text(encoding="utf-8") == built.markdown["card"]


def parts(train=None, validation=None, test=None, by_held_out=False):
    found = [example(f"{name}{n}", f"{name} {n} " * 4, ("apple", "pear")[n % 2]) for name in "abc" for n in range(10)]
    return Split(
        found[:10] if train is None else train, found[10:20] if validation is None else validation,
        found[20:] if test is None else test, [], by_held_out=by_held_out,
    )  # fmt: skip


def verdict(name, split, tmp_path, *, task=FRUIT, **dataset):
    spec = use_case(tmp_path, **{"minimum_examples": 20, **dataset}).dataset
    return next(check for check in checks(split, spec=spec, task=task) if check.name == name)


def test_schema_fails_on_one_wrong_answer_and_names_it(tmp_path):
    assert verdict("schema", parts(), tmp_path).passed
    failed = verdict("schema", parts(test=[example("wrong", "x", "plum")]), tmp_path)
    assert not failed.passed
    assert "wrong" in failed.description
    assert "plum" in failed.description


def test_minimum_size_counts_rows_of_the_sources_only_and_no_part_may_be_empty(tmp_path):
    assert verdict("minimum_size", parts(), tmp_path, minimum_examples=30).passed
    assert not verdict("minimum_size", parts(), tmp_path, minimum_examples=31).passed
    assert not verdict("minimum_size", parts(by_held_out=True), tmp_path, minimum_examples=30).passed
    empty = verdict("minimum_size", parts(validation=[]), tmp_path, minimum_examples=10)
    assert not empty.passed
    assert "validation" in empty.description


def test_classes_covered_looks_at_training_rows(tmp_path):
    assert verdict("classes_covered", parts(), tmp_path, minimum_per_class=5).passed
    failed = verdict("classes_covered", parts(), tmp_path, minimum_per_class=6)
    assert not failed.passed
    assert "apple (5)" in failed.description
    assert verdict("classes_covered", parts(), tmp_path, task=OPEN, minimum_per_class=6).passed


def test_no_leakage_fails_on_one_near_duplicate_across_parts_and_names_the_pair(tmp_path):
    assert verdict("no_leakage", parts(), tmp_path).passed
    failed = verdict("no_leakage", parts(test=[example("t", "a 3 a 3 a 3 a 3")]), tmp_path)
    assert not failed.passed
    assert "a3 ~ t" in failed.description
