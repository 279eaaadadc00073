"""Answers inside a JSON Schema, whatever the model would have said."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import validate
from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.programs.answering import Answering, answering
from fine_tune_pipeline.programs.decoding import Generated, shared_prefix
from fine_tune_pipeline.programs.decoding_requests import JsonDecoding
from fine_tune_pipeline.programs.json_guides import GuideMissing, UnsupportedSchema, json_guide
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.predict import run
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import PredictJob, PredictRequest, PromptFormat
from fine_tune_pipeline_tests.programs.test_predict import messages, restless_model, shots, write_prompts
from fine_tune_pipeline_tests.tiny import tiny_model

PLAIN = PromptFormat(instruction="Answer in JSON.")
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "intent": {"enum": ["fees", "fraud", "lost_card"]},
        "amount": {"type": "integer", "minimum": 0, "maximum": 99},
        "note": {"type": "string", "maxLength": 6},
        "where": {"$ref": "#/$defs/place"},
    },
    "required": ["intent", "amount", "note", "where"],
    "additionalProperties": False,
    "$defs": {"place": {"enum": ["App", None, 3]}},
}
ROOM = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return restless_model(tmp_path_factory.mktemp("base"), architecture="gemma3")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder)


def way_of(folder: Path, tokenizer: PreTrainedTokenizerBase, *, format: PromptFormat = PLAIN, **decoding: Any) -> Answering:
    wanted = JsonDecoding(**{"answer_schema": SCHEMA, "separators": (", ", ": "), **decoding})
    return answering(wanted, tokenizer=tokenizer, config=load_model(folder).config, format=format)


def prompts_of(tokenizer: PreTrainedTokenizerBase, *, worked: int = 0) -> list[list[int]]:
    return [encode(text, None, tokenizer=tokenizer, format=PLAIN, shots=shots(worked)).prompt_ids for text in messages(8)]


def said(answers: list[Generated]) -> list[tuple[str, int, bool]]:
    return [(answer.text, answer.tokens, answer.finished) for answer in answers]


def test_every_finished_answer_of_an_untrained_model_fits_the_schema(folder: Path, tokenizer: PreTrainedTokenizerBase):
    answers = way_of(folder, tokenizer).answers(load_model(folder), prompts_of(tokenizer), max_new_tokens=ROOM)
    assert all(answer.finished for answer in answers)
    assert len({answer.text for answer in answers}) > 1
    for answer in answers:
        validate(json.loads(answer.text), SCHEMA)


def test_answers_are_written_with_the_separators_of_the_training_set(folder: Path, tokenizer: PreTrainedTokenizerBase):
    for separators in ((", ", ": "), (",", ":")):
        way = way_of(folder, tokenizer, separators=separators)
        for answer in way.answers(load_model(folder), prompts_of(tokenizer)[:3], max_new_tokens=ROOM):
            assert answer.text == json.dumps(json.loads(answer.text), separators=separators, ensure_ascii="\\u" in answer.text)


def test_over_lines_white_space_is_bounded_and_the_answer_is_json(folder: Path, tokenizer: PreTrainedTokenizerBase):
    way = way_of(
        folder, tokenizer, separators=None, answer_schema={**SCHEMA, "required": ["intent"], "properties": {"intent": {"const": 1}}}
    )
    for answer in way.answers(load_model(folder), prompts_of(tokenizer)[:3], max_new_tokens=160):
        assert answer.finished
        assert json.loads(answer.text) == {"intent": 1}


def test_a_batch_answers_as_one_prompt_after_the_other(folder: Path, tokenizer: PreTrainedTokenizerBase):
    model, way, prompts = load_model(folder), way_of(folder, tokenizer), prompts_of(tokenizer, worked=3)
    prefix = shared_prefix(model, prompts)
    assert prefix is not None
    together = way.answers(model, prompts, max_new_tokens=ROOM, prefix=prefix)
    assert said(together) == said([way.answers(model, [prompt], max_new_tokens=ROOM)[0] for prompt in prompts])


def test_an_answer_that_is_cut_at_the_limit_is_not_finished(folder: Path, tokenizer: PreTrainedTokenizerBase):
    answers = way_of(folder, tokenizer).answers(load_model(folder), prompts_of(tokenizer)[:2], max_new_tokens=4)
    assert [(answer.tokens, answer.finished) for answer in answers] == [(4, False)] * 2
    assert all(answer.text.startswith('{"intent":') for answer in answers)


def test_each_token_is_the_likeliest_of_the_allowed_and_keeps_the_models_own_probability(folder: Path, tokenizer: PreTrainedTokenizerBase):
    model, way = load_model(folder), way_of(folder, tokenizer)
    prompt = prompts_of(tokenizer)[0]
    answer = way.answers(model, [prompt], max_new_tokens=ROOM)[0]
    assert way.guide is not None
    ids, kept, total = list(prompt), way.guide.begin(), 0.0
    for _ in range(answer.tokens):
        with torch.inference_mode():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(dim=-1)
        token = int(logprobs.masked_fill(~kept.allowed()[: len(logprobs)], -torch.inf).argmax())
        kept.take(token)
        ids.append(token)
        total += logprobs[token].item()
    assert tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip() == answer.text
    assert answer.logprob == pytest.approx(total / answer.tokens, abs=1e-3)


def test_in_chat_style_the_answer_begins_at_once_and_ends_with_the_turn(tmp_path: Path):
    folder, chat = tiny_model(tmp_path, chat=True), PromptFormat(style="chat")
    tokenizer = load_tokenizer(folder)
    way = way_of(folder, tokenizer, format=chat)
    prompt = encode("my card", None, tokenizer=tokenizer, format=chat).prompt_ids
    [answer] = way.answers(load_model(folder), [prompt], max_new_tokens=ROOM)
    assert answer.finished
    validate(json.loads(answer.text), SCHEMA)


@pytest.mark.parametrize(
    ("field", "keyword"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "format": "star-date"}, "star-date"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_before_any_model_is_loaded(
    field: dict[str, Any], keyword: str, folder: Path, tmp_path: Path
):
    without_weights = tmp_path / "model"
    without_weights.mkdir()
    for path in folder.glob("*.json"):
        (without_weights / path.name).write_bytes(path.read_bytes())
    job = PredictJob(
        name="base",
        prompts=write_prompts(tmp_path / "prompts.jsonl", ["fees"]),
        output=str(tmp_path / "out.jsonl"),
        format=PLAIN,
        decoding=JsonDecoding(answer_schema={"type": "object", "properties": {"a": field}}),
    )
    with pytest.raises(UnsupportedSchema, match=rf"(?s){keyword}.*decoding: greedy"):
        run(PredictRequest(output=str(tmp_path), model=str(without_weights), jobs=(job,)), Reporter(None))


def test_a_missing_package_is_named_with_its_extra(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(GuideMissing, match=r"pip install 'fine_tune_pipeline\[json\]'"):
        json_guide(JsonDecoding(answer_schema=SCHEMA), tokenizer=tokenizer, format=PLAIN, words=len(tokenizer))
