import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from fine_tune_pipeline.guide.objective.task import Task, classification, extraction
from fine_tune_pipeline.guide.technique.decoding import (
    OpenAnswers,
    closed_answers,
    decoded,
    decoding_content,
    decoding_of,
    example_end,
    json_separators,
)
from fine_tune_pipeline.guide.technique.systems import NotAtProvider, predict
from fine_tune_pipeline.programs.decoding_requests import JsonDecoding, LabelDecoding
from fine_tune_pipeline.programs.hosted.requests import HostedModel, write_hosted
from fine_tune_pipeline.programs.requests import PredictJob, PromptFormat
from fine_tune_pipeline.spec.evaluation import EvaluationSpec
from fine_tune_pipeline_tests.guide.technique.stand_ins import SCHEMA, RuleCompute, use_case

EXTRACTION = extraction(SCHEMA)


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def job(name: str = "base", *, style: Any = "plain", adapter: str | None = None) -> PredictJob:
    return PredictJob(name=name, prompts="p", output="o", format=PromptFormat(style=style), adapter=adapter)


def test_a_closed_list_is_every_combination_as_the_training_set_writes_it():
    written = ['{"urgency":"low","intent":"cash"}', '{"urgency":"high","intent":"card"}']
    answers = closed_answers(EXTRACTION, written)
    wanted = [{"urgency": urgency, "intent": intent} for urgency, intent in product(("high", "low"), ("card", "cash"))]
    assert answers == [json.dumps(answer, separators=(",", ":")) for answer in wanted]


def test_a_field_that_may_be_absent_is_a_choice_too():
    task = extraction({"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}}, "required": ["a"]})
    answers = [json.loads(text) for text in closed_answers(task, ['{"a": 1}'])]
    assert answers == [{"a": a, **b} for a, b in product((1, 2), ({"b": True}, {"b": False}, {}))]


def test_combinations_that_the_schema_refuses_are_left_out():
    rule = {"if": {"properties": {"a": {"const": 1}}}, "then": {"properties": {"b": {"const": 1}}}}
    task = extraction({**schema(a={"enum": [1, 2]}, b={"enum": [1, 2]}), **rule})
    assert [json.loads(text) for text in closed_answers(task, [])] == [{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 2, "b": 2}]


def test_labels_are_spelled_as_in_most_training_answers():
    task = classification(["Lost card", "fees", "fraud"])
    assert closed_answers(task, ["lost_card", "lost card", "lost_card", "Fees"]) == ["lost_card", "Fees", "fraud"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (extraction(schema(intent={"enum": ["a", "b"]}, note={"type": "string"})), "note has none"),
        (extraction(schema(**{f"f{place}": {"type": "boolean"} for place in range(10)})), "1,024 answers for each row, want at most 512"),
        (extraction(schema(only={"const": 1})), "two answers at least"),
    ],
)
def test_answers_that_are_no_short_closed_list_are_refused(task: Task, message: str):
    with pytest.raises(OpenAnswers, match=message):
        closed_answers(task, [])


def test_a_schema_is_kept_in_the_key_order_and_with_the_separators_of_the_training_set(tmp_path: Path):
    spec = use_case(tmp_path, evaluation={"decoding": "json_schema"})
    decoding = decoding_of(spec, EXTRACTION, ['{"urgency":"low","intent":"cash"}'])
    assert isinstance(decoding, JsonDecoding)
    assert list(decoding.answer_schema["properties"]) == ["urgency", "intent"]
    assert decoding.answer_schema == SCHEMA
    assert decoding.separators == (",", ":")


@pytest.mark.parametrize(
    ("completions", "separators"),
    [
        (['{"a": 1, "b": "é"}'], (", ", ": ")),
        (['{"a": 1, "b": "\\u00e9"}'], (", ", ": ")),
        (['{"a":1,"b":2}', '{"a":1}', '{"a": 1}'], (",", ":")),
        (['{"a": 1,"b": 2}'], (",", ": ")),
        (['{\n  "a": 1\n}', '{\n  "a": 2\n}', '{"a": 1}'], None),
        ([], (", ", ": ")),
    ],
)
def test_separators_are_those_of_most_training_answers(completions: list[str], separators: tuple[str, str] | None):
    assert json_separators(completions) == separators


@pytest.mark.parametrize(
    ("completions", "style", "end"),
    [(["one", "two "], "plain", ("\n",)), (["one\n"], "plain", ("\n",)), (["one", "two\nlines"], "plain", ()), (["one"], "chat", ())],
)
def test_an_untrained_answer_ends_at_a_line_break_unless_answers_have_some(completions: Sequence[str], style: str, end: tuple[str, ...]):
    assert example_end(completions, style=style) == end


def test_every_system_is_decoded_alike_and_only_untrained_ones_end_with_the_example(tmp_path: Path):
    spec = use_case(tmp_path, evaluation={"decoding": "labels"})
    jobs = decoded([job(), job("fine_tuned", adapter="adapter")], spec, EXTRACTION, ['{"intent": "card", "urgency": "low"}'])
    assert isinstance(jobs[0].decoding, LabelDecoding)
    assert jobs[0].decoding == jobs[1].decoding
    assert len(jobs[0].decoding.labels) == 4
    assert [one.stop for one in jobs] == [("\n",), ()]


def test_greedy_is_the_default_and_leaves_no_trace(tmp_path: Path):
    spec = use_case(tmp_path)
    assert decoding_content(spec) == {}
    assert decoded([job()], spec, EXTRACTION, ["a\nb"]) == [job()]
    assert "decoding" not in EvaluationSpec().model_dump()
    assert decoding_content(use_case(tmp_path, evaluation={"decoding": "labels"})) == {"evaluation.decoding": "labels"}
    with pytest.raises(ValidationError, match="'greedy', 'labels' or 'json_schema'"):
        use_case(tmp_path, evaluation={"decoding": "beam"})


@pytest.mark.parametrize(
    ("decoding", "task", "message"),
    [
        ("labels", {"type": "generation"}, "got labels for a generation task, which has not a closed list of answers; want greedy"),
        ("json_schema", {"type": "classification", "labels": ["a", "b"]}, "which has not a JSON Schema; want greedy or labels"),
    ],
)
def test_a_decoding_that_the_task_cannot_have_is_refused_with_those_it_can(decoding: str, task: Any, message: str, tmp_path: Path):
    metric = "rouge_l" if task["type"] == "generation" else "accuracy"
    objective = {"goal": "Answer the question of a customer", "task": task, "success": [{"metric": metric, "at_least": 0.6}]}
    with pytest.raises(ValidationError, match=message):
        use_case(tmp_path, objective=objective, evaluation={"decoding": decoding})


def test_a_hosted_model_cannot_be_held_to_a_list(tmp_path: Path):
    hosted = HostedModel(model="gpt", base_url="https://x", api_key_variable="KEY", context_tokens=100)
    model = write_hosted(tmp_path / "model", hosted)
    asked = job().model_copy(update={"decoding": LabelDecoding(labels=("a", "b"))})
    compute = RuleCompute(record=str(tmp_path / "record"))
    with pytest.raises(NotAtProvider, match="got labels, but gpt stays at its provider"):
        predict(dg.build_asset_context(), compute, model=model, jobs=[asked], folder=tmp_path / "work", replies=tmp_path)


def test_answers_of_a_broken_run_are_kept_where_the_state_lies(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('{"id": "1", "prompt": "a"}\n', encoding="utf-8")
    one = job().model_copy(update={"prompts": str(tmp_path / "p.jsonl"), "output": str(tmp_path / "o.jsonl")})
    compute = RuleCompute(record=str(tmp_path / "record"))
    predict(dg.build_asset_context(), compute, model=tmp_path, jobs=[one], folder=tmp_path / "work", replies=tmp_path / "state" / "replies")
    assert [asked["parts"] for asked in compute.asked("predict")] == [str(tmp_path / "state" / "replies")]
    assert (tmp_path / "state" / "replies").is_dir()
