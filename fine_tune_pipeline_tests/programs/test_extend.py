"""Tokens added to a base model: what changes, and that nothing else does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import PhiConfig, PhiForCausalLM

from fine_tune_pipeline.programs.extend import KnownToken, TokenNotKept, exact_dtype
from fine_tune_pipeline.programs.extend_requests import ExtendRequest, ExtendResult
from fine_tune_pipeline.programs.models import load_model, load_tokenizer, weights_sha256
from fine_tune_pipeline_tests.extended import TOKENS, extend_model, extended
from fine_tune_pipeline_tests.programs.launching import launch
from fine_tune_pipeline_tests.tiny import Architecture, tiny_model, tiny_tokenizer


def numbers(folder: str | Path) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in load_model(folder).named_parameters()}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mixtral"])
def test_new_rows_are_the_mean_of_all_others_and_everything_else_stays(tmp_path: Path, architecture: Architecture, tied: bool):
    result = extended(tmp_path, architecture=architecture, tied=tied)
    before, after = numbers(tmp_path / "base"), numbers(result.model)
    count = len(load_tokenizer(tmp_path / "base"))
    grown = {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert before.keys() == after.keys()
    assert {name for name in before if before[name].shape != after[name].shape} == grown
    for name, tensor in before.items():
        assert torch.equal(after[name][: len(tensor)], tensor)
    for name in grown:
        mean = before[name].numpy().astype(np.float64).mean(0).astype(np.float32)
        assert np.array_equal(after[name][count:].numpy(), np.stack([mean, mean]))
    assert result.tokens == {TOKENS[0]: count, TOKENS[1]: count + 1}
    assert (result.rows, result.added_parameters) == (count + 2, 2 * 64 * len(grown))
    assert load_model(result.model).config.get_text_config().vocab_size == count + 2


def test_a_text_with_added_tokens_is_read_and_written_back_and_other_texts_are_read_as_before(tmp_path: Path):
    result = extended(tmp_path)
    tokenizer, before = load_tokenizer(result.model), load_tokenizer(tmp_path / "base")
    text = "so <intent>lost_card<end of intent> it is"
    for split_special_tokens in (True, False):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)["input_ids"]
        assert [id for id in ids if id >= len(before)] == list(result.tokens.values())
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    plain = "I lost my <card> on the train, <intention>"
    assert tokenizer.encode(plain) == before.encode(plain)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (before.pad_token_id, before.eos_token_id)


def test_places_that_a_padded_vocabulary_has_are_taken_and_begin_as_the_mean_of_the_rows_in_use(tmp_path: Path):
    base = tiny_model(tmp_path / "base", architecture="llama")
    count = len(load_tokenizer(base))
    weights = load_file(base / "model.safetensors")
    padding = torch.full((40, 64), 7.0)
    used = weights["model.embed_tokens.weight"]
    save_file({**weights, "model.embed_tokens.weight": torch.cat([used, padding])}, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "vocab_size": count + 40}))
    result = extend_model(tmp_path, base)
    after = numbers(result.model)["model.embed_tokens.weight"]
    assert (result.rows, result.added_parameters) == (count + 40, 0)
    torch.testing.assert_close(after[count : count + 2], used.double().mean(0).float().expand(2, -1), rtol=0, atol=1e-7)
    assert torch.equal(after[count + 2 :], padding[2:])


def test_the_same_input_gives_the_same_bytes_and_other_files_come_along(tmp_path: Path):
    first = extended(tmp_path / "first")
    (tmp_path / "first" / "base" / "LICENSE").write_text("terms", encoding="utf-8")
    second = extend_model(tmp_path / "second", tmp_path / "first" / "base")
    assert weights_sha256(first.model) == weights_sha256(second.model)
    for name in ("tokenizer.json", "config.json"):
        assert (Path(first.model) / name).read_bytes() == (Path(second.model) / name).read_bytes()
    assert (Path(second.model) / "LICENSE").read_text(encoding="utf-8") == "terms"


def test_bfloat16_weights_stay_bfloat16_and_mixed_ones_become_float32(tmp_path: Path):
    base = tiny_model(tmp_path / "base", architecture="llama")
    weights = load_file(base / "model.safetensors")
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(half, base / "model.safetensors", metadata={"format": "pt"})
    result = extend_model(tmp_path / "half", base)
    assert exact_dtype(result.model) == "bfloat16"
    kept = load_file(Path(result.model) / "model.safetensors")
    assert all(torch.equal(kept[name][: len(tensor)], tensor) for name, tensor in half.items())
    mixed = {**half, "model.norm.weight": weights["model.norm.weight"]}
    save_file(mixed, base / "model.safetensors", metadata={"format": "pt"})
    assert exact_dtype(base) == "float32"


def test_beside_a_sentencepiece_file_added_tokens_are_named_where_the_gguf_converter_looks(tmp_path: Path):
    base = tiny_model(tmp_path / "base", architecture="llama")
    (base / "tokenizer.model").write_bytes(b"")
    result = extend_model(tmp_path, base)
    named = json.loads((Path(result.model) / "added_tokens.json").read_text(encoding="utf-8"))
    assert result.tokens.items() <= named.items()


@pytest.mark.parametrize(
    ("token", "said"),
    [("<eos>", r"'<eos>' \(token 1\) already as one token; leave it out"), ("card", r"'card' \(token \d+\) already as one token")],
)
def test_a_token_that_there_is_already_is_named(tmp_path: Path, token: str, said: str):
    base = tiny_model(tmp_path / "base", architecture="llama")
    with pytest.raises(KnownToken, match=said):
        extend_model(tmp_path, base, ("<intent>", token))
    assert not (tmp_path / "model").exists()


def test_a_token_that_another_one_takes_apart_is_named(tmp_path: Path):
    base = tiny_model(tmp_path / "base", architecture="llama")
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens([AddedToken(" <int", normalized=False)])
    tokenizer.save_pretrained(base)
    with pytest.raises(TokenNotKept, match=r"'<intent>' in 'a <intent> b' should be one token, and the tokenizer reads \['a', ' <int'"):
        extend_model(tmp_path, base)
    assert not (tmp_path / "model").exists()


def test_a_biased_head_grows_too(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "base")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "eos_token_id": 1}
    model = PhiForCausalLM(PhiConfig(vocab_size=len(tokenizer), **shape, tie_word_embeddings=False))
    torch.nn.init.normal_(model.get_parameter("lm_head.bias"))
    model.save_pretrained(tmp_path / "base")
    result = extend_model(tmp_path, tmp_path / "base")
    before, after = numbers(tmp_path / "base")["lm_head.bias"], numbers(result.model)["lm_head.bias"]
    assert torch.equal(after[: len(before)], before)
    torch.testing.assert_close(after[len(before) :], before.mean().expand(2), rtol=0, atol=1e-6)


def test_as_a_program_it_leaves_a_result_that_names_every_token(tmp_path: Path):
    base = tiny_model(tmp_path / "base", architecture="llama")
    (tmp_path / "output").mkdir()
    result = ExtendResult.read(launch(ExtendRequest(output=str(tmp_path / "output"), model=str(base), tokens=TOKENS)))
    assert list(result.tokens) == list(TOKENS)
    assert weights_sha256(result.model) == weights_sha256(extend_model(tmp_path / "again", base).model)
