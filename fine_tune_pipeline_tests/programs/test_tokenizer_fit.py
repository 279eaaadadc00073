"""A tokenizer that does not belong to the model in its folder is refused when it is loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.tokenizer_fit import ModelLimits, WrongTokenizer, model_limits, refuse_foreign
from fine_tune_pipeline_tests.small_training import Recorder, train_request, write_rows
from fine_tune_pipeline_tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model", chat=True)


def configured(model: Path, change: Callable[[dict[str, Any]], None], *, name: str = "config.json") -> None:
    config = json.loads((model / name).read_text(encoding="utf-8"))
    change(config)
    (model / name).write_text(json.dumps(config), encoding="utf-8")


def tokens_of(model: Path) -> int:
    return len(load_tokenizer(model))


def with_ends(model: Path, ends: Any) -> None:
    for name in ("config.json", "generation_config.json"):
        configured(model, lambda config: config.update(eos_token_id=ends), name=name)


def test_a_model_with_its_own_tokenizer_is_taken(model: Path):
    assert load_tokenizer(model).eos_token == "<eos>"
    assert model_limits(model) == ModelLimits(places=tokens_of(model), context_tokens=1024, end_ids=(1,))


def test_places_that_are_rounded_up_and_several_ends_are_usual(model: Path):
    places = tokens_of(model)
    configured(model, lambda config: config.update(vocab_size=places + 64))
    with_ends(model, [1, 4])
    assert len(load_tokenizer(model)) == places


def test_an_added_token_without_a_place_is_no_reason_if_it_is_not_in_use(model: Path):
    places = tokens_of(model)
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.add_tokens(["<image_soft_token>"])
    tokenizer.save_pretrained(model)
    assert len(load_tokenizer(model)) == places + 1


def test_a_vocabulary_larger_than_the_embedding_is_refused_before_any_row_is_read(model: Path, tmp_path: Path):
    places = tokens_of(model) - 20
    configured(model, lambda config: config.update(vocab_size=places))
    asked = train_request(tmp_path / "output", model=model, train=tmp_path / "missing.jsonl")
    with pytest.raises(
        WrongTokenizer, match=f"has a vocabulary of {places + 20} tokens and the model places for {places}; put the tokenizer"
    ):
        train.run(asked, Recorder())


def test_a_much_smaller_vocabulary_is_that_of_another_model(model: Path):
    count = tokens_of(model)
    configured(model, lambda config: config.update(vocab_size=2 * count + 1))
    with pytest.raises(WrongTokenizer, match=f"knows {count} tokens and the model has places for {2 * count + 1:,}: it is that of another"):
        load_tokenizer(model)


def test_an_end_of_the_model_that_is_a_word_to_the_tokenizer(model: Path):
    with_ends(model, 300)
    with pytest.raises(WrongTokenizer, match=r"ends an answer with token 300 \('.*' to the tokenizer\), which is no special token"):
        load_tokenizer(model)


def test_an_end_of_the_model_that_the_tokenizer_does_not_have(model: Path):
    configured(model, lambda config: config.update(vocab_size=800))
    with_ends(model, [700])
    with pytest.raises(WrongTokenizer, match=r"token 700 \(None to the tokenizer\)"):
        load_tokenizer(model)


@pytest.mark.parametrize("role", ["eos_token", "pad_token", "bos_token"])
def test_a_special_token_without_a_place(model: Path, role: str):
    places = tokens_of(model)
    tokenizer: PreTrainedTokenizerBase = tiny_tokenizer(chat=True)
    tokenizer.add_special_tokens({role: "<new>"})
    with pytest.raises(WrongTokenizer, match=f"{role} '<new>' is token {places}, and the model has places for {places}"):
        refuse_foreign(tokenizer, folder=model)


def test_limits_of_a_model_for_images_and_text_are_those_of_its_text(tmp_path: Path):
    config = {"text_config": {"vocab_size": 7, "max_position_embeddings": 9}, "eos_token_id": [1, 106], "max_position_embeddings": 5}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert model_limits(tmp_path) == ModelLimits(places=7, context_tokens=9, end_ids=(1, 106))


def test_of_a_folder_without_a_config_nothing_is_known(tmp_path: Path):
    assert model_limits(tmp_path) == model_limits("") == ModelLimits()


def test_a_tokenizer_without_an_end_stops_the_training(model: Path, tmp_path: Path):
    def endless(config: dict[str, Any]) -> None:
        config.pop("eos_token")

    configured(model, endless, name="tokenizer_config.json")
    data = write_rows(tmp_path / "train.jsonl")
    with pytest.raises(ValueError, match=r"names no eos_token; name one in tokenizer_config\.json"):
        train.run(train_request(tmp_path / "output", model=model, train=data), Recorder())
