import json
from collections import Counter

import dagster as dg
import numpy as np
import pytest

from fine_tune_pipeline.artifacts.examples import Example, read_rows
from fine_tune_pipeline.guide.objective.task import Task, classification, extraction
from fine_tune_pipeline.guide.technique.systems import (
    choose_shots,
    classifier_answers,
    embed_rows,
    majority_answer,
    max_new_tokens,
    predict,
    trained_format,
    untrained_format,
    write_prompts,
)
from fine_tune_pipeline.programs.requests import PredictJob
from fine_tune_pipeline_tests.guide.technique.stand_ins import SCHEMA, RuleCompute, answer, examples, use_case
from fine_tune_pipeline_tests.tiny import tiny_tokenizer

EXTRACTION = extraction(SCHEMA)


def rows(*completions: str) -> list[Example]:
    return [Example(id=str(number), prompt=f"p{number}", completion=completion) for number, completion in enumerate(completions)]


def test_majority_is_the_most_frequent_completion_and_the_first_of_equals():
    assert majority_answer(rows("a", "b", "b")) == "b"
    assert majority_answer(rows("b", "a", "a", "b")) == "b"


@pytest.fixture
def clusters():
    """Unit vectors in three well separated directions, and the direction of each."""
    draw = np.random.default_rng(0)
    labels = [number % 3 for number in range(60)]
    vectors = np.eye(3)[labels] + draw.normal(0, 0.05, (60, 3))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def test_the_classifier_answers_with_labels_learned_from_vectors(clusters):
    vectors, labels = clusters
    train = rows(*(("red", "green", "blue")[label] for label in labels))
    answers = classifier_answers(
        train, train[:9], task=classification(["red", "green", "blue"]), train_vectors=vectors, row_vectors=vectors[:9]
    )
    assert answers == ["red", "green", "blue"] * 3


def test_for_extraction_each_closed_field_is_learned_by_itself_and_json_is_put_together_in_schema_order(clusters):
    vectors, labels = clusters
    schema = {
        "type": "object",
        "properties": {
            "level": {"enum": [1, 2]},
            "note": {"type": "string"},
            "colour": {"enum": ["red", "green", "blue"]},
            "seen": {"enum": ["yes"]},
        },
    }
    completions = [
        json.dumps({"colour": ("red", "green", "blue")[label], "level": 1 if label == 0 else 2, "note": "mostly this"}) for label in labels
    ]
    train = rows(*completions)
    answers = classifier_answers(train, train[:3], task=extraction(schema), train_vectors=vectors, row_vectors=vectors[:3])
    assert answers == [
        '{"level": 1, "note": "mostly this", "colour": "red"}',
        '{"level": 2, "note": "mostly this", "colour": "green"}',
        '{"level": 2, "note": "mostly this", "colour": "blue"}',
    ]


def test_a_field_that_is_sometimes_absent_is_learned_as_absent(clusters):
    vectors, labels = clusters
    train = rows(*(json.dumps({"colour": "red"} if label else {}) for label in labels))
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}}
    answers = classifier_answers(train, train[:2], task=extraction(schema), train_vectors=vectors, row_vectors=vectors[:2])
    assert answers == ["{}", '{"colour": "red"}']


def test_a_task_without_classes_has_no_classifier(clusters):
    vectors, _ = clusters
    train = rows(*["free text"] * 60)
    assert classifier_answers(train, train, task=Task(type="generation"), train_vectors=vectors, row_vectors=vectors) is None


def test_shots_are_spread_over_the_classes():
    train = examples(copies=10)
    shots = choose_shots(train, 6, task=EXTRACTION, seed=1)
    assert Counter(EXTRACTION.class_of(shot.completion) for shot in shots) == {"card": 3, "cash": 3}
    assert len({shot.prompt for shot in shots}) == 6


def test_shots_depend_on_the_seed_only_and_more_begin_with_the_fewer():
    train = examples(copies=10)
    four, eight = (choose_shots(train, k, task=EXTRACTION, seed=1) for k in (4, 8))
    assert eight[:4] == four == choose_shots(train, 4, task=EXTRACTION, seed=1)
    assert choose_shots(train, 4, task=EXTRACTION, seed=2) != four


def test_an_open_task_gets_any_rows_and_never_more_than_there_are():
    train = rows("one answer", "another", "a third")
    shots = choose_shots(train, 8, task=Task(type="generation"), seed=0)
    assert sorted(shot.completion for shot in shots) == ["a third", "another", "one answer"]


@pytest.mark.parametrize(
    "completion", [answer("card"), "the card is blocked, and the money is gone", "00341278", "übermäßig große Gebühren"]
)
def test_every_known_answer_fits_into_the_tokens_allowed(completion):
    tokenizer = tiny_tokenizer([completion, *(example.prompt for example in examples())])
    assert len(tokenizer(completion)["input_ids"]) + 1 <= max_new_tokens(["no", completion])


def test_a_prompt_file_never_holds_the_answer(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", rows("secret"))
    assert read_rows(tmp_path / "prompts.jsonl") == [{"id": "0", "prompt": "p0"}]


def test_untrained_systems_are_told_the_task_and_trained_ones_are_not(tmp_path):
    spec = use_case(tmp_path)
    assert "Answer with JSON only" in untrained_format(spec, EXTRACTION).instruction
    assert trained_format(spec).instruction == ""
    own = use_case(tmp_path, dataset={"sources": [{"type": "jsonl", "path": "x"}], "format": {"instruction": "Sort it."}})
    assert untrained_format(own, EXTRACTION).instruction == "Sort it."


def test_predictions_run_on_the_place_of_the_compute(tmp_path):
    job = PredictJob(
        name="base", prompts=str(tmp_path / "p.jsonl"), output=str(tmp_path / "o.jsonl"), format=trained_format(use_case(tmp_path))
    )
    write_prompts(tmp_path / "p.jsonl", rows("a"))
    for device, dtype, threads in (("cpu", "float32", 4), ("cuda", "bfloat16", None)):
        compute = RuleCompute(record=str(tmp_path / device), device=device, cores=4)
        result = predict(
            dg.build_asset_context(), compute, model=tmp_path, jobs=[job], folder=tmp_path / f"{device}-work", replies=tmp_path
        )
        [asked] = compute.asked("predict")
        assert (asked["device"], asked["dtype"], asked["threads"]) == (device, dtype, threads)
        assert result.jobs[0].rows == 1


def test_embeddings_have_a_row_for_each_example_in_order(tmp_path):
    compute = RuleCompute(record=str(tmp_path / "record"))
    vectors = embed_rows(dg.build_asset_context(), compute, tmp_path / "embed", examples(copies=1))
    assert vectors.shape[0] == 8
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    # "my card is lost 0" and "where is my cash 7" share two of five words.
    assert vectors[0] @ vectors[7] == pytest.approx(2 / 5)
