"""Mistakes planted in rows, tokenizer and template are found before a model is loaded."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from fine_tune_pipeline.programs.mistakes.checklist import Checklist
from fine_tune_pipeline.programs.mistakes.data import eos_never_learned
from fine_tune_pipeline.programs.mistakes.names import MISTAKES
from fine_tune_pipeline.programs.mistakes.text import generation_never_stops, saved_tokenizer
from fine_tune_pipeline.programs.mistakes.texts import read_texts
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.preflight_requests import MistakeCheck
from fine_tune_pipeline.programs.prompts import Encoded, encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving import served_prompts
from fine_tune_pipeline.programs.serving.http_bodies import Message
from fine_tune_pipeline.programs.training.batches import Collate, Row
from fine_tune_pipeline_tests.small_training import ROWS, preflight_request, train_request, write_rows
from fine_tune_pipeline_tests.tiny import CHAT_TEMPLATE, tiny_model

CHAT = PromptFormat(style="chat")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model", chat=True)


def looked(model: Path, lines: list[dict[str, Any]], *, format: PromptFormat, **changes: Any) -> dict[str, MistakeCheck]:
    """What is found in the rows, by id."""
    data = model.parent / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    asked = preflight_request(train_request(model.parent / "output", model=model, train=data, max_length=changes.pop("max_length", 96)))
    checks = Checklist()
    read_texts(asked.model_copy(update={"format": format, **changes}), checks)
    return {check.id: check for check in checks.all(unreached="not looked at")}


def lines(**added: Any) -> list[dict[str, Any]]:
    return [{"id": id, "prompt": prompt, "completion": completion, **added} for id, prompt, completion in ROWS]


def configured(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = model / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    change(config)
    file.write_text(json.dumps(config), encoding="utf-8")


def template(model: Path, text: str) -> None:
    (model / "chat_template.jinja").write_text(text, encoding="utf-8")


def failed(found: dict[str, MistakeCheck]) -> list[str]:
    return [id for id, check in found.items() if check.passed is False]


@pytest.mark.parametrize("format", [PromptFormat(), CHAT], ids=["plain", "chat"])
def test_nothing_is_found_in_healthy_rows_and_every_mistake_has_a_line(model: Path, format: PromptFormat):
    found = looked(model, lines(), format=format)
    assert failed(found) == []
    assert list(found) == list(MISTAKES)
    assert [id for id, check in found.items() if check.passed] == list(MISTAKES)[:11]
    assert len(MISTAKES) == 19


def test_a_column_that_nothing_reads_is_named(model: Path):
    found = looked(model, lines(histroy=[{"role": "user", "content": "hello"}]), format=CHAT)
    assert failed(found) == ["unknown_columns"]
    assert found["unknown_columns"].seen == "no step reads histroy (24 rows)"


def test_a_missing_column_is_named_with_those_that_are_there(model: Path):
    renamed = [{"id": line["id"], "prompt": line["prompt"], "answer": line["completion"]} for line in lines()]
    found = looked(model, renamed, format=CHAT)
    assert failed(found) == ["unknown_columns"]
    assert found["unknown_columns"].seen.startswith("completion (24 rows) not there as text in ")
    assert found["unknown_columns"].seen.endswith("whose columns are answer, id, prompt")


def test_an_id_that_stands_twice_is_named_with_its_parts(model: Path, tmp_path: Path):
    other = write_rows(tmp_path / "validation.jsonl", (ROWS[0],))
    found = looked(model, [*lines(), lines()[3]], format=CHAT, validation=str(other))
    assert failed(found) == ["duplicate_ids"]
    assert found["duplicate_ids"].seen == "2 ids stand more than once: row0-0 (train, validation), row0-3 (train, train)"


def test_more_over_long_rows_than_allowed(model: Path):
    allowed, refused = (looked(model, lines(), format=PromptFormat(), max_length=64, over_long_limit=limit) for limit in (0.2, 0.1))
    assert failed(allowed) == []
    assert failed(refused) == ["truncation_share"]
    assert refused["truncation_share"].seen.startswith("4 of 24 rows (16.7%) are longer than max_length 64")
    assert refused["truncation_share"].change.startswith("raise training.max_length to 76")


def test_a_row_with_nothing_to_learn_is_named(model: Path):
    found = looked(model, [*lines(), {"id": "empty", "prompt": "hello", "completion": ""}], format=CHAT)
    assert failed(found) == ["empty_label_mask"]
    assert found["empty_label_mask"].seen == "1 of 25 rows have no token to learn from: empty"


def test_labels_on_prompts_are_seen_in_the_batch(model: Path, monkeypatch: pytest.MonkeyPatch):
    make = DataCollatorForLanguageModeling.torch_call

    def all_tokens(self: Any, rows: Any) -> dict[str, Any]:
        batch = make(self, rows)
        return {**batch, "labels": batch["input_ids"].clone()}

    monkeypatch.setattr(DataCollatorForLanguageModeling, "torch_call", all_tokens)
    found = looked(model, lines(), format=PromptFormat())
    assert "prompt_tokens_in_loss" in failed(found)
    assert "0 of 24 rows learn from their prompt (none); a batch of 24 rows has" in found["prompt_tokens_in_loss"].seen


def test_a_template_that_writes_two_begin_tokens(model: Path):
    template(model, "{{ bos_token }}" + CHAT_TEMPLATE)
    found = looked(model, lines(), format=CHAT)
    assert failed(found) == ["doubled_bos"]
    assert found["doubled_bos"].seen.startswith("24 of 24 rows have a second begin token, 0 do not begin with one: row0-0")


def test_a_tokenizer_with_nothing_to_pad_with_but_its_end_token(model: Path):
    def only_end(config: dict[str, Any]) -> None:
        config["pad_token"] = config["bos_token"] = config["eos_token"]
        config["extra_special_tokens"] = []

    configured(model, only_end)
    text = (model / "tokenizer.json").read_text(encoding="utf-8")
    for name in ("pad", "bos", "start_of_turn", "end_of_turn"):
        text = text.replace(f"<{name}>", f"<other_{name}>")
    document = json.loads(text)
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] == "<eos>"]
    (model / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    found = looked(model, lines(), format=PromptFormat())
    assert failed(found) == ["pad_equals_eos"]
    assert "has no pad token other than its end token '<eos>'" in found["pad_equals_eos"].seen
    assert found["pad_equals_eos"].change.startswith("name an unused vocabulary entry as pad_token")


def test_a_pad_token_that_ends_a_turn(model: Path):
    configured(model, lambda config: config.update(pad_token="<end_of_turn>"))
    found = looked(model, lines(), format=CHAT)
    assert failed(found) == ["pad_equals_eos"]
    assert found["pad_equals_eos"].seen == "the pad token '<end_of_turn>' is what ends an answer"


def test_a_missing_chat_template(model: Path):
    (model / "chat_template.jinja").unlink()
    found = looked(model, lines(), format=CHAT)
    assert failed(found) == ["chat_template"]
    assert "the tokenizer has no chat template" in found["chat_template"].seen
    assert "use the format style 'plain'" in found["chat_template"].change


def test_two_templates_of_which_servers_read_one_or_the_other(model: Path):
    configured(model, lambda config: config.update(chat_template="{{ messages[0].content }}"))
    found = looked(model, lines(), format=CHAT)
    assert failed(found) == ["chat_template"]
    assert found["chat_template"].seen.startswith("the folder has two different chat templates: chat_template.jinja (")


def test_an_answer_that_the_template_renders_otherwise(model: Path):
    found = looked(model, [*lines(), {"id": "spaces", "prompt": "hello", "completion": "  lost_card"}][-1:], format=CHAT)
    assert failed(found) == ["chat_template"]
    assert found["chat_template"].seen.startswith("row spaces is ")
    assert "in training and" in found["chat_template"].seen


def test_an_endpoint_that_strips_what_is_asked(model: Path, monkeypatch: pytest.MonkeyPatch):
    asked = [{**line, "prompt": f"{line['prompt']} "} for line in lines()]
    assert failed(looked(model, asked, format=PromptFormat())) == []
    whole = Message.text.fget
    monkeypatch.setattr(Message, "text", property(lambda message: whole(message).strip()))  # type: ignore[misc]
    found = looked(model, asked, format=PromptFormat())
    assert failed(found) == ["chat_template"]
    assert found["chat_template"].seen.startswith("row row0-0 is ")


def test_an_endpoint_with_another_template(model: Path, monkeypatch: pytest.MonkeyPatch):
    def changed(folder: str) -> PreTrainedTokenizerBase:
        tokenizer = load_tokenizer(folder)
        tokenizer.chat_template = CHAT_TEMPLATE.replace("assistant", "model")
        return tokenizer

    monkeypatch.setattr(served_prompts, "load_tokenizer", changed)
    found = looked(model, lines(), format=CHAT)
    assert failed(found) == ["chat_template"]
    assert "assistant" in found["chat_template"].seen
    assert "model" in found["chat_template"].seen


def test_tokens_that_differ_in_training_and_endpoint_though_their_text_does_not(model: Path, monkeypatch: pytest.MonkeyPatch):
    def letters(asked: Any, completion: None, *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat) -> Encoded:
        bos, first, *rest = encode(asked, completion, tokenizer=tokenizer, format=format).prompt_ids
        return Encoded([bos, *tokenizer.convert_tokens_to_ids([*tokenizer.convert_ids_to_tokens(first)]), *rest], [])

    monkeypatch.setattr(served_prompts, "encode", letters)
    found = looked(model, [{"id": "a", "prompt": "my card", "completion": "lost_card"}], format=PromptFormat())
    assert failed(found) == ["chat_template"]
    assert "row a is 'tokens [" in found["chat_template"].seen


def test_one_conversation_among_many_rows_is_held_against_the_endpoint_too(model: Path, monkeypatch: pytest.MonkeyPatch):
    history = [{"role": "user", "content": "my card"}, {"role": "assistant", "content": "what of it?"}]
    talk = {"id": "talk", "prompt": "it is lost", "completion": "lost_card", "history": history}
    rows = [*lines()[:11], talk, *lines()[11:]]
    assert failed(looked(model, rows, format=CHAT)) == []
    whole = Message.turn
    monkeypatch.setattr(Message, "turn", lambda message: {**whole(message), "content": "…"})
    found = looked(model, rows, format=CHAT)
    assert failed(found) == ["chat_template"]
    assert found["chat_template"].seen.startswith("row talk is ")


def test_a_row_that_cannot_be_asked_of_the_endpoint(model: Path):
    found = looked(model, [{"id": "blank", "prompt": " ", "completion": "lost_card"}], format=PromptFormat())
    assert failed(found) == ["chat_template"]
    assert found["chat_template"].seen.startswith("row blank cannot be asked of the endpoint: messages: the user message is empty")


def test_a_tokenizer_saved_without_its_template(model: Path):
    saved, base = (load_tokenizer(model) for _ in range(2))
    assert saved_tokenizer(saved, base=base) is None
    saved.chat_template = None
    verdict = saved_tokenizer(saved, base=base)
    assert verdict is not None
    assert verdict.seen.startswith("saved beside the trained model, chat_template is None")


def test_a_template_that_ends_an_answer_in_plain_text(model: Path):
    template(model, CHAT_TEMPLATE.replace("<end_of_turn>", "."))
    found = looked(model, lines(), format=CHAT)
    assert failed(found) == ["eos_never_learned"]
    assert "does not begin with a special token" in found["eos_never_learned"].seen


def test_a_row_whose_end_was_cut_off():
    rows = [Row("whole", [2, 5, 6, 1], [-100, 5, 6, 1], 1), Row("cut", [2, 5, 6], [-100, 5, 6], 1)]
    verdict = eos_never_learned(rows, end_id=1, collate=Collate(pad_id=0, flat=False))
    assert verdict.passed is False
    assert verdict.seen.startswith("1 of 2 rows do not end in a label of end token 1 (cut); a batch of 2 rows has 1 of them, want 1")


def test_an_end_that_padding_masks_out(monkeypatch: pytest.MonkeyPatch):
    make = DataCollatorForLanguageModeling.torch_call

    def without_ends(self: Any, rows: Any) -> dict[str, Any]:
        batch = make(self, rows)
        return {**batch, "labels": batch["labels"].masked_fill(batch["input_ids"] == 1, -100)}

    monkeypatch.setattr(DataCollatorForLanguageModeling, "torch_call", without_ends)
    verdict = eos_never_learned([Row("a", [2, 5, 1], [-100, 5, 1], 1)], end_id=1, collate=Collate(pad_id=0, flat=False))
    assert verdict.passed is False
    assert "a batch of 1 rows has 0 of them, want 1" in verdict.seen


def test_an_end_at_which_generation_goes_on(model: Path):
    rows = [Row("a", [2, 5, 4], [-100, 5, 4], 1)]
    base, tokenizer = load_model(model), AutoTokenizer.from_pretrained(str(model))
    said = generation_never_stops(rows, model=base, tokenizer=tokenizer, format=PromptFormat())
    assert said.passed is False
    assert said.seen == "rows end in '<end_of_turn>' (4), and generation stops at '<eos>' (1)"
    chat = generation_never_stops(rows, model=base, tokenizer=tokenizer, format=CHAT)
    assert chat.passed is True
    assert chat.change == "to serve it elsewhere, add [4] to eos_token_id in generation_config.json"
    beyond = [replace(row, labels=[-100, 5, 1]) for row in rows]
    assert generation_never_stops(beyond, model=base, tokenizer=tokenizer, format=CHAT).change == ""


def test_the_documentation_has_a_line_for_every_mistake():
    page = (Path(__file__).parents[3] / "docs" / "environment.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")]
    assert [(row[0].strip("`"), row[1]) for row in rows] == list(MISTAKES.items())
