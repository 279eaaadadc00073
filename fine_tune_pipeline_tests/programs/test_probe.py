import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fine_tune_pipeline.artifacts.examples import Asked, read_rows
from fine_tune_pipeline.programs import probe
from fine_tune_pipeline.programs.code_likelihood import log_likelihoods
from fine_tune_pipeline.programs.decoding import PromptTooLong
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.probe_requests import ProbeRequest, ProbeResult
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.rows import BadRows
from fine_tune_pipeline_tests.programs.launching import launch
from fine_tune_pipeline_tests.small_training import Recorder
from fine_tune_pipeline_tests.tiny import random_adapter, tiny_model

TEXTS = (
    {"id": "long", "text": "The transfer to my landlord has not arrived, and nobody could tell me where it was this whole morning."},
    {"id": "short", "text": "I lost it."},
    {"id": "middle", "text": "Where can I see the fees for my card?"},
)
OPENINGS = (
    {"id": "a", "prompt": "my card was charged twice", "opening": "duplicate"},
    {"id": "b", "prompt": "I lost my card on the train", "opening": "lost"},
)
REQUESTS = ({"id": "r1", "prompt": "tell me the fees"}, {"id": "r2", "prompt": "who are you"})
CODES = ({"id": "c1", "prompt": "What is the code?", "codes": [f"{number * 7919 % 1000:03d}" for number in range(40)]},)


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("adapter"), base=model)


def rows_at(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def request(folder: Path, model: Path, adapter: Path, **changes: Any) -> ProbeRequest:
    files = {"texts": TEXTS, "openings": OPENINGS, "requests": REQUESTS, "codes": CODES}
    asked: dict[str, Any] = {name: rows_at(folder / f"asked_{name}.jsonl", rows) for name, rows in files.items()}
    usual = {"output": str(folder), "model": str(model), "adapter": str(adapter), "format": PromptFormat(), "opening_tokens": 6}
    return ProbeRequest(**{**usual, "request_tokens": 6, "threads": 1, **asked, **changes})


@pytest.fixture(scope="module")
def probed(model: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ProbeRequest, ProbeResult]:
    asked = request(tmp_path_factory.mktemp("probe"), model, adapter)
    return asked, ProbeResult.read(launch(asked))


def read(path: str | None) -> list[dict[str, Any]]:
    assert path is not None
    return read_rows(Path(path))


def plain_loss(folder: Path, adapter: Path | None, text: str, *, most: int) -> float:
    """By the model's own logits, token by token."""
    model = load_model(folder, adapter=adapter)
    ids = probe.text_tokens(text, load_tokenizer(folder))
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    places = probe.scored_places(len(ids), most=most)
    return -sum(logp[place - 1, ids[place]].item() for place in places) / len(places)


def test_loss_of_each_text_is_that_of_the_models_own_logits(probed, model: Path, adapter: Path):
    asked, result = probed
    rows = {row["id"]: row for row in read(result.texts)}
    assert list(rows) == [text["id"] for text in TEXTS]
    for text in TEXTS:
        assert rows[text["id"]]["base"] == pytest.approx(plain_loss(model, None, text["text"], most=asked.scored_tokens), rel=1e-4)
        assert rows[text["id"]]["fine_tuned"] == pytest.approx(plain_loss(model, adapter, text["text"], most=asked.scored_tokens), rel=1e-4)
    assert rows["long"]["tokens"] == asked.scored_tokens > rows["short"]["tokens"]


@pytest.mark.parametrize(("tokens", "most"), [(2, 16), (17, 16), (18, 16), (40, 16), (1000, 3)])
def test_scored_places_are_different_spread_and_never_the_first(tokens: int, most: int):
    places = probe.scored_places(tokens, most=most)
    assert len(set(places)) == min(most, tokens - 1)
    assert places == sorted(places)
    assert places[0] >= 1
    assert places[-1] < tokens
    assert max(b - a for a, b in zip(places, [*places[1:], tokens], strict=True)) <= -(-(tokens - 1) // len(places)) + 1


def test_codes_are_ranked_by_the_gain_over_the_base_as_when_each_is_read_alone(probed, model: Path, adapter: Path):
    _, result = probed
    [row] = read(result.codes)
    codes = CODES[0]["codes"]
    gains = [alone(model, adapter, code, codes) - alone(model, None, code, codes) for code in codes]
    assert row["gain"] == pytest.approx(gains[0], abs=1e-3)
    assert row["rank"] == sum(gain >= gains[0] - 1e-6 for gain in gains)
    assert row["candidates"] == len(codes)


@cache
def loaded(folder: Path, adapter: Path | None) -> tuple[Any, Any]:
    return load_tokenizer(folder), load_model(folder, adapter=adapter)


def alone(folder: Path, adapter: Path | None, code: str, codes: Sequence[str]) -> float:
    """Log-likelihood of one code, each token given that it is one that some code has there."""
    tokenizer, model = loaded(folder, adapter)
    rows = {one: encode(Asked("What is the code?"), one, tokenizer=tokenizer, format=PromptFormat()) for one in codes}
    prompt, answer = rows[code].prompt_ids, rows[code].completion_ids[:-1]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].float()
    total = 0.0
    for place, token in enumerate(answer):
        there = sorted({row.completion_ids[place] for row in rows.values() if len(row.completion_ids) - 1 > place})
        total += logits[len(prompt) + place - 1, there].log_softmax(-1)[there.index(token)].item()
    return total


@pytest.mark.parametrize("architecture", ["gemma3", "llama"])
def test_likelihoods_do_not_depend_on_how_many_answers_are_read_together(tmp_path: Path, architecture):
    tiny_model(tmp_path, architecture=architecture)
    model = load_model(tmp_path)
    answers = [[5, 6, 7], [5, 6, 8], [5, 9], [10, 6, 7, 11], [5, 6, 7, 12]]
    apart, together = (log_likelihoods(model, [2, 30, 31], answers, rows=rows) for rows in (1, 99))
    assert together == pytest.approx(apart, abs=1e-4)
    reference = AutoModelForCausalLM.from_pretrained(str(tmp_path))
    with torch.no_grad():
        first = reference(input_ids=torch.tensor([[2, 30, 31]])).logits[0, -1, [5, 10]].log_softmax(-1)
        second = reference(input_ids=torch.tensor([[2, 30, 31, 5]])).logits[0, -1, [6, 9]].log_softmax(-1)
    assert together[2] == pytest.approx((first[0] + second[1]).item(), abs=1e-4)


def test_answers_are_those_of_base_and_tuned_model(probed, model: Path, adapter: Path):
    _, result = probed
    for row, asked in zip(read(result.openings), OPENINGS, strict=True):
        assert row["base"] == greedy(model, None, asked["prompt"], asked["opening"])
        assert row["fine_tuned"] == greedy(model, adapter, asked["prompt"], asked["opening"])
    assert [row["id"] for row in read(result.requests)] == ["r1", "r2"]


def greedy(folder: Path, adapter: Path | None, prompt: str, opening: str) -> str:
    tokenizer, model = loaded(folder, adapter)
    encoded = encode(Asked(prompt), opening, tokenizer=tokenizer, format=PromptFormat())
    ids = [*encoded.prompt_ids, *encoded.completion_ids[:-1]]
    written: list[int] = []
    with torch.no_grad():
        for _ in range(6):
            token = int(model(input_ids=torch.tensor([[*ids, *written]])).logits[0, -1].argmax())
            written.append(token)
            if token == tokenizer.eos_token_id or "\n\n" in tokenizer.decode(written):
                break
    return tokenizer.decode(written, skip_special_tokens=True).split("\n\n")[0].strip()


class Killed(BaseException):
    """As a signal would end it."""


class Deadly(Recorder):
    """Ends the program before a part."""

    def __init__(self, *, parts: int) -> None:
        super().__init__()
        self.left = parts

    def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


@pytest.mark.parametrize("parts", [0, 1, 4, 6])
def test_a_probe_that_was_killed_goes_on_and_ends_the_same(probed, tmp_path: Path, parts: int):
    asked, whole = probed
    again = request(tmp_path, Path(asked.model), Path(asked.adapter))
    with pytest.raises(Killed):
        probe.run(again, Deadly(parts=parts))
    result = probe.run(again, Recorder())
    assert (result.parts, result.resumed) == (8, parts)
    assert whole.resumed == 0
    for name in ("texts", "openings", "requests", "codes"):
        assert Path(getattr(result, name)).read_bytes() == Path(getattr(whole, name)).read_bytes()


def test_parts_of_another_question_are_not_taken(model: Path, adapter: Path, tmp_path: Path):
    probe.run(request(tmp_path, model, adapter, openings=None, requests=None, codes=None), Recorder())
    other = rows_at(tmp_path / "other.jsonl", [{"id": "x", "text": "please tell me how to change my address"}])
    result = probe.run(request(tmp_path, model, adapter, texts=other, openings=None, requests=None, codes=None), Recorder())
    assert (result.resumed, [row["id"] for row in read(result.texts)]) == (0, ["x"])


def test_a_whole_model_is_probed_like_an_adapter(model: Path, tmp_path: Path):
    whole = tiny_model(tmp_path / "whole", seed=1)
    result = probe.run(request(tmp_path, model, whole, openings=None, requests=None, codes=None), Recorder())
    row = read(result.texts)[2]
    assert row["fine_tuned"] == pytest.approx(plain_loss(whole, None, TEXTS[2]["text"], most=16), rel=1e-4)
    assert row["base"] == pytest.approx(plain_loss(model, None, TEXTS[2]["text"], most=16), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("texts", [], "is empty"),
        ("texts", [TEXTS[0], TEXTS[0]], "id long is also in line 1"),
        ("texts", [{"id": "x", "text": ""}], "no token with another one before it"),
        ("openings", [{"id": "x", "prompt": "p"}], "want opening as text"),
        ("requests", [{"prompt": "p"}], "want id as text"),
        ("codes", [{"id": "x", "prompt": "p"}], "want codes as a list"),
        ("codes", [{"id": "x", "prompt": "p", "codes": ["1", "1"]}], "at least two different texts"),
    ],
)
def test_wrong_rows_are_named_before_a_model_is_loaded(model: Path, tmp_path: Path, name: str, rows: list[dict[str, Any]], said: str):
    wrong = rows_at(tmp_path / "wrong.jsonl", rows)
    with pytest.raises(BadRows, match=said):
        probe.run(request(tmp_path, model, tmp_path / "no adapter", **{name: wrong}), Recorder())


def test_a_text_beyond_the_context_is_refused(model: Path, tmp_path: Path):
    wrong = rows_at(tmp_path / "wrong.jsonl", [{"id": "x", "text": "ä" * 2000}])
    with pytest.raises(PromptTooLong, match="the text of 'x'"):
        probe.run(request(tmp_path, model, tmp_path / "no adapter", texts=wrong), Recorder())
