"""Rows that a model cannot learn from stop the training before its first step, named by file and id."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from fine_tune_pipeline.programs import preflight, train
from fine_tune_pipeline.programs.mistakes.checklist import Checklist
from fine_tune_pipeline.programs.mistakes.texts import read_texts
from fine_tune_pipeline.programs.preflight_requests import MistakeCheck, PreflightRequest
from fine_tune_pipeline.programs.requests import Placement, PromptFormat, TrainRequest
from fine_tune_pipeline.programs.rows import BadRows
from fine_tune_pipeline.programs.tokenizer_fit import ModelLimits
from fine_tune_pipeline.programs.training.batches import NoLabelledTokens, Row, tokenised_rows
from fine_tune_pipeline.programs.training.row_checks import BeyondContext, TokenWithoutPlace, refuse_unlearnable
from fine_tune_pipeline_tests.small_training import ROWS, Recorder, preflight_request, train_request, write_rows
from fine_tune_pipeline_tests.tiny import CHAT_TEMPLATE, tiny_model, tiny_tokenizer

PLAIN, CHAT = PromptFormat(), PromptFormat(style="chat")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), chat=True)


def training(folder: Path, *, model: Path, rows: tuple[tuple[str, str, str], ...], **changes: Any) -> TrainRequest:
    return train_request(folder / "output", model=model, train=write_rows(folder / "train.jsonl", rows), **changes)


@pytest.mark.parametrize("format", [PLAIN, CHAT], ids=["plain", "chat"])
@pytest.mark.parametrize("completion", ["", " ", "\n\t\n  "])
def test_a_row_without_an_answer_is_named_with_its_file(completion: str, format: PromptFormat, model: Path, tmp_path: Path):
    asked = training(tmp_path, model=model, rows=(*ROWS, ("silent", "hello", completion))).model_copy(update={"format": format})
    said = rf"{tmp_path}/train\.jsonl: 1 of 25 rows have no token to learn from, their answers are empty: silent; give them a completion"
    with pytest.raises(NoLabelledTokens, match=said):
        train.run(asked, Recorder())
    assert list((tmp_path / "output").iterdir()) == []


@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_an_answer_that_the_tokenizer_makes_nothing_of(loss_on: str, tmp_path: Path):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("☂", "")
    rows = write_rows(tmp_path / "train.jsonl", (*ROWS, ("gone", "hello", "☂☂")))
    with pytest.raises(NoLabelledTokens, match="1 of 25 rows have no token to learn from, their answers are empty: gone"):
        tokenised_rows(rows, tokenizer=tokenizer, format=PLAIN, loss_on=loss_on)  # type: ignore[arg-type]


def failed(request: PreflightRequest) -> list[MistakeCheck]:
    """What preflight finds before it loads a model."""
    checks = Checklist()
    read_texts(request, checks)
    return [check for check in checks.all(unreached="not looked at") if check.passed is False]


def test_preflight_finds_an_empty_answer_in_plain_style_too(model: Path, tmp_path: Path):
    asked = training(tmp_path, model=model, rows=(*ROWS, ("silent", "hello", "")))
    [found] = failed(preflight_request(asked))
    assert (found.id, found.seen) == ("empty_label_mask", "1 of 25 rows have no token to learn from: silent")


def test_a_short_answer_is_an_answer(tmp_path: Path):
    rows = write_rows(tmp_path / "train.jsonl", (("a", "hello", "."), ("b", "hello", "漢"), ("c", "hello", "<eos>")))
    assert len(tokenised_rows(rows, tokenizer=tiny_tokenizer(), format=PLAIN, loss_on="completion")) == 3


def test_a_row_beyond_the_context_stops_training_and_preflight(model: Path, tmp_path: Path):
    asked = training(tmp_path, model=model, rows=(*ROWS, ("epic", "word " * 400, "long")), max_length=4096)
    with pytest.raises(
        BeyondContext, match=r"train\.jsonl: 1 of 25 rows are longer than the model's context of 1024 tokens .*: epic; shorten"
    ):
        train.run(asked, Recorder())
    [found] = [check for check in preflight.run(preflight_request(asked), Recorder()).mistakes if check.passed is False]
    assert found.id == "beyond_context"
    assert found.change.startswith("write training.max_length: 1024")


def test_a_row_that_is_left_out_does_not_count_as_beyond_the_context(model: Path, tmp_path: Path):
    asked = preflight_request(training(tmp_path, model=model, rows=(*ROWS, ("epic", "word " * 400, "long")), max_length=96))
    assert failed(asked.model_copy(update={"over_long_limit": 0.1})) == []


def test_a_token_without_a_place_is_named():
    rows = [Row("a", [2, 5, 1], [-100, 5, 1], 1), Row("b", [2, 5, 40, 1], [-100, 5, 40, 1], 1)]
    with pytest.raises(
        TokenWithoutPlace, match=r"t\.jsonl: 1 of 2 rows hold a token that the model has no place for, such as .* \(40 of 40\): b;"
    ):
        refuse_unlearnable(rows, source="t.jsonl", tokenizer=tiny_tokenizer(), limits=ModelLimits(places=40))
    refuse_unlearnable(rows, source="t.jsonl", tokenizer=tiny_tokenizer(), limits=ModelLimits(places=41))


def test_preflight_names_a_token_of_the_template_that_has_no_place(tmp_path: Path):
    folder = tiny_model(tmp_path / "model", chat=True)
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<start_of_turn>", "<start_of_turn><image>")
    tokenizer.save_pretrained(folder)
    asked = training(tmp_path, model=folder, rows=ROWS).model_copy(update={"format": CHAT})
    result = preflight.run(preflight_request(asked), Recorder())
    found = next(check for check in result.mistakes if check.id == "wrong_tokenizer")
    assert found.passed is False
    assert found.seen.startswith("24 of 24 rows hold a token that the model has no place for, such as '<image>' (")
    with pytest.raises(TokenWithoutPlace, match="such as '<image>'"):
        train.run(asked, Recorder())


def test_one_row_is_enough_to_train_and_to_preflight_and_is_shown_in_the_log(model: Path, tmp_path: Path):
    asked = training(tmp_path, model=model, rows=ROWS[:1], placement=Placement(micro_batch=4, threads=1))
    told = Recorder()
    seen = preflight.run(preflight_request(asked), told)
    [line] = [line for line in told.lines if line.startswith("what is learned")]
    assert line.endswith(
        "row row0-0: 4 of 18 tokens are learned:\n‹<bos>›Input: my card was charged twice for one coffee\nOutput:⟦ duplicate_charge‹<eos>›⟧"
    )
    assert [(check.id, check.seen) for check in seen.mistakes if check.passed is False] == []
    assert (seen.problems, seen.rows, len(seen.preview)) == ((), 1, 1)
    result = train.run(asked, Recorder())
    assert (result.rows, result.steps) == (1, 2)
    assert result.validation_losses[-1][1] < result.validation_losses[0][1]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_part_without_rows_stops_training_and_preflight(part: str, model: Path, tmp_path: Path):
    empty = tmp_path / f"empty-{part}.jsonl"
    empty.write_text("", encoding="utf-8")
    asked = training(tmp_path, model=model, rows=ROWS).model_copy(update={part: str(empty)})
    tried = preflight_request(asked).model_copy(update={"validation": asked.validation})
    for run, request in ((train.run, asked), (preflight.run, tried)):
        with pytest.raises(BadRows, match=rf"empty-{part}\.jsonl: is empty; want JSONL rows"):
            run(request, Recorder())  # type: ignore[operator]


def test_a_part_of_which_nothing_would_be_left_is_refused_whatever_the_limit(model: Path, tmp_path: Path):
    long = tmp_path / "validation.jsonl"
    long.write_text(json.dumps({"id": "v", "prompt": "word " * 60, "completion": "long"}) + "\n", encoding="utf-8")
    asked = preflight_request(training(tmp_path, model=model, rows=ROWS))
    [found] = failed(asked.model_copy(update={"validation": str(long), "over_long_limit": 0.5}))
    assert found.id == "truncation_share"
    assert "nothing would be left of validation: v" in found.seen
