"""Benchmark files: read as sources are, looked for, and said in errors by their field."""

import pytest

from fine_tune_pipeline.guide.dataset.likeness.benchmarks import NoBenchmarkTexts, opened_benchmarks, read_benchmark, what
from fine_tune_pipeline.guide.dataset.sources.collect import NoExamples
from fine_tune_pipeline.guide.dataset.sources.files import MissingSource
from fine_tune_pipeline_tests.guide.dataset.make import jsonl, use_case


def benchmark(tmp_path, **given):
    return opened_benchmarks(use_case(tmp_path, benchmarks=[{"type": "jsonl", "path": "exam.jsonl", **given}]))[0]


def test_texts_are_made_by_the_template_and_rows_that_cannot_be_read_are_counted(tmp_path):
    jsonl(tmp_path / "exam.jsonl", [{"id": "q1", "question": "Why?", "choices": "a b"}, "not json", {"id": "q2", "question": "How?"}])
    found = read_benchmark(benchmark(tmp_path, text="{{ question }} {{ choices }}", name="exam"))
    assert (found.name, list(found.rows), list(found.texts), found.unreadable) == ("exam", ["q1"], ["Why? a b"], 2)


def test_a_csv_has_its_own_fields(tmp_path):
    (tmp_path / "exam.csv").write_text("text;answer\nWhy is it so;b\n", encoding="utf-8")
    assert list(read_benchmark(benchmark(tmp_path, type="csv", path="exam.csv", delimiter=";")).texts) == ["Why is it so"]


def test_a_benchmark_of_which_no_row_gives_a_text_is_an_error_that_names_it(tmp_path):
    jsonl(tmp_path / "exam.jsonl", [{"question": "Why?"}])
    with pytest.raises(NoExamples, match=r"dataset\.benchmarks\[0\] .*none of 1 rows.*'text' is undefined.*question"):
        read_benchmark(benchmark(tmp_path))
    jsonl(tmp_path / "exam.jsonl", [{"text": " "}])
    with pytest.raises(NoBenchmarkTexts, match=r"dataset\.benchmarks\[0\] .*none of 1 rows gave a text: every text is empty"):
        read_benchmark(benchmark(tmp_path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingSource, match=r"dataset\.benchmarks\[0\]"):
        benchmark(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"delimiter": ";"}, "delimiter: a jsonl file has no such field"),
        ({"type": "csv", "encoding": "martian"}, "encoding: got 'martian'"),
    ],
)
def test_a_field_of_another_type_of_file_is_a_mistake(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        use_case(tmp_path, benchmarks=[{"type": "jsonl", "path": "exam.jsonl", **given}])


def test_content_and_template_decide_the_dataset_not_the_place(tmp_path):
    for name in ("one.jsonl", "two.jsonl"):
        jsonl(tmp_path / name, [{"text": "Why?"}])
    one, two = (what([benchmark(tmp_path, path=path, name="exam")]) for path in ("one.jsonl", "two.jsonl"))
    assert one == two
    assert what([benchmark(tmp_path, path="one.jsonl", name="exam", text="{{ text }}!")]) != one
    assert what([]) == {}
