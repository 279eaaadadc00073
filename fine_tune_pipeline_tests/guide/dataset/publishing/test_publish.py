"""The dataset's files, checks and card."""

import json
import random
from dataclasses import asdict, replace

import pyarrow.parquet as pq
import pytest

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.quarantine import read_quarantine
from fine_tune_pipeline.guide.dataset.likeness.contamination import Benchmark
from fine_tune_pipeline.guide.dataset.publishing.publish import checks, published
from fine_tune_pipeline.guide.dataset.publishing.split import Split, split
from fine_tune_pipeline.guide.dataset.steps import Step
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, OPEN, example, use_case
from fine_tune_pipeline_tests.guide.dataset.publishing.test_split import rows

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
        # What is looked up for a row comes after the dataset, so no table has a column of it.
        nested = [{**row, **{column: json.loads(row[column]) for column in ("history", "tools")}, "context": []} for row in rows]
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


def verdict(name, made, tmp_path, *, task=FRUIT, **dataset):
    spec = use_case(tmp_path, **{"minimum_examples": 20, **dataset}).dataset
    return next(check for check in checks(made, spec=spec, task=task) if check.name == name)


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
    assert "a3 ~ t (1.00)" in failed.description


SAID = "i was charged twice for the same coffee"


def test_no_leakage_fails_on_words_that_are_shared_and_names_them(tmp_path):
    leaking = parts(train=[example("t", f"hello {SAID} and so on and so forth"), *parts().train], test=[example("h", f"At noon {SAID}!")])
    failed = verdict("no_leakage", leaking, tmp_path)
    assert not failed.passed
    assert f"t ~ h (`{SAID}`)" in failed.description
    assert verdict("no_leakage", leaking, tmp_path, split={"shared_words": None}).passed
    template = {"type": "jsonl", "path": "rows.jsonl", "prompt": SAID + " {{ text }}"}
    assert verdict("no_leakage", leaking, tmp_path, sources=[template]).passed


@pytest.mark.parametrize("seed", range(4))
def test_the_check_passes_what_the_split_has_made_and_nothing_torn_apart(tmp_path, seed):
    draw = random.Random(seed)
    texts = [" ".join(draw.choices("abcdefgh", weights=[9, 5, 2, 2, 1, 1, 1, 1], k=draw.randrange(5, 25))) for _ in range(300)]
    examples = [example(str(n), text, ("apple", "pear")[n % 2], held_out=seed % 2 == 1 and n % 5 == 0) for n, text in enumerate(texts)]
    spec = use_case(tmp_path, split={"shared_words": 6, "seed": seed}).dataset
    made = split(examples, spec=spec.split, task=FRUIT)
    assert verdict("no_leakage", made, tmp_path, split={"shared_words": 6}).passed
    torn = replace(made, train=made.train[::2], test=[*made.test, *made.train[1::2]])
    assert not verdict("no_leakage", torn, tmp_path, split={"shared_words": 6}).passed


BENCHMARK = Benchmark("exam", texts=[f"Question 1: {SAID}, why?", "What is the fee for a new card abroad"], rows=["q1", "q2"], unreadable=1)


def test_rows_that_a_benchmark_holds_are_quarantined_and_counted_in_the_card(tmp_path):
    folder = tmp_path / "reviewed"
    folder.mkdir()
    leaking = [
        example("a", "what is the fee for a new card abroad?"),
        example("b", f"Hello, {SAID}; help me please with this matter"),
        example("c", "tell me a story", f"apple. Once {SAID} at noon"),
    ]
    write_examples(folder / "examples.jsonl", [*rows(197), *leaking])
    write_rows(folder / "steps.jsonl", map(asdict, STEPS))
    out = tmp_path / "out"
    out.mkdir()
    spec = use_case(tmp_path).dataset
    built = published(folder, out, spec=spec, task=OPEN, use_case="fruit", benchmarks=[BENCHMARK])
    assert {row.id: (row.reason, row.detail) for row in read_quarantine(out)} == {
        "a": ("duplicate_of_benchmark", "1.00 like q2 of the benchmark exam"),
        "b": ("shares_words_with_benchmark", f"shares `{SAID}` with q1 of the benchmark exam"),
        "c": ("shares_words_with_benchmark", f"shares `{SAID}` with q1 of the benchmark exam"),
    }
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    counts = {"duplicate_of_benchmark": 1, "shares_words_with_benchmark": 2}
    assert card["benchmarks"] == [{"benchmark": "exam", "rows": 2, "unreadable": 1, **counts}]
    assert "| exam | 2 | 1 | 1 | 2 |" in built.markdown["card"]
    assert {check.name: check.passed for check in built.checks}["no_contamination"]


@pytest.mark.parametrize(
    "row", [example("x", "what is THE fee for a new card abroad"), example("x", f"so {SAID}"), example("x", "y", SAID)]
)
def test_no_contamination_fails_on_one_such_training_row_and_names_it(tmp_path, row):
    spec = use_case(tmp_path, minimum_examples=20).dataset
    made = parts(train=[*parts().train, row])
    failed = next(check for check in checks(made, spec=spec, task=OPEN, benchmarks=[BENCHMARK]) if check.name == "no_contamination")
    assert not failed.passed
    assert "x ~ q" in failed.description
    assert "of exam" in failed.description


def test_without_benchmarks_nothing_is_said_to_be_clean_of_them(reviewed, tmp_path):
    out, built = publish(reviewed, tmp_path)
    assert "no_contamination" not in {check.name for check in built.checks}
    assert "so none was looked for" in (out / "card.md").read_text(encoding="utf-8")
