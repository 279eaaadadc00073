import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.models import (
    AdapterMismatch,
    IncompleteWeights,
    NoPadToken,
    NotAnAdapter,
    NoWeights,
    PickledWeights,
    attach,
    bfloat16_speedup,
    load_model,
    load_tokenizer,
    peak_memory_bytes,
    weights_sha256,
)
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline_tests.tiny import Architecture, random_adapter, tiny_model, tiny_tokenizer

IDS = torch.tensor([[2, 40, 50, 60, 70]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("adapter"), base=folder)


def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("architecture", ["gemma3", "llama"])
def test_the_tiny_model_is_the_same_each_time(architecture: Architecture, tmp_path: Path):
    first = tiny_model(tmp_path / "1", architecture=architecture)
    second = tiny_model(tmp_path / "2", architecture=architecture)
    assert weights_sha256(first) == weights_sha256(second)
    assert weights_sha256(first) != weights_sha256(tiny_model(tmp_path / "3", architecture=architecture, seed=1))


def test_the_tiny_model_learns_by_lora_in_a_few_steps(folder: Path):
    tokenizer = load_tokenizer(folder)
    pairs = [("my card was charged twice", "duplicate_charge"), ("I lost my card", "lost_card"), ("change my address", "change_address")]
    rows = [encode(prompt, completion, tokenizer=tokenizer, format=PromptFormat()) for prompt, completion in pairs]
    torch.manual_seed(0)
    base = load_model(folder)
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses: list[float] = []
    for _ in range(30):
        loss = torch.zeros(())
        for row in rows:
            ids = torch.tensor([row.prompt_ids + row.completion_ids])
            labels = torch.tensor([[-100] * len(row.prompt_ids) + row.completion_ids])
            loss = loss + model(input_ids=ids, labels=labels).loss / len(rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 3
    assert losses[-1] < 0.5


def test_a_model_comes_in_evaluation_mode_and_the_wanted_precision(folder: Path):
    model = load_model(folder, dtype="bfloat16")
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "weights.pt", "model.ckpt"])
def test_pickled_weights_are_refused_unread(name: str, folder: Path, tmp_path: Path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / name).write_bytes(b"not even a pickle: it must not be opened")
    with pytest.raises(PickledWeights, match=name):
        load_model(tmp_path)


def test_a_pickled_adapter_is_refused(folder: Path, adapter: Path, tmp_path: Path):
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    torch.save(load_file(adapter / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    with pytest.raises(PickledWeights, match=r"adapter_model\.bin"):
        load_model(folder, adapter=tmp_path)


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(NoWeights, match=r"config\.json"):
        load_model(tmp_path)
    with pytest.raises(NoWeights, match="no such folder"):
        load_model(tmp_path / "missing")


def test_weights_that_are_not_all_there_are_refused_not_filled_with_random_numbers(folder: Path, tmp_path: Path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    lost = "model.layers.1.mlp.up_proj.weight"
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IncompleteWeights, match=lost):
        load_model(tmp_path)


def test_an_adapter_changes_the_model_and_unload_gives_the_base_back(folder: Path, adapter: Path):
    model = load_model(folder)
    assert isinstance(model, PreTrainedModel)
    before = logits(model)
    tuned = attach(model, adapter=adapter)
    assert not tuned.training
    assert not torch.allclose(logits(tuned), before, atol=0.1)
    tuned.unload()
    assert torch.equal(logits(model), before)


def test_a_lora_adapter_adds_its_scaled_product_to_the_weights(folder: Path, adapter: Path):
    tuned = logits(load_model(folder, adapter=adapter))
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    merged = load_model(folder)
    weights = dict(merged.named_parameters())
    parts = load_file(adapter / "adapter_model.safetensors")
    for name, down in parts.items():
        if "lora_A" in name:
            target = name.removeprefix("base_model.model.").replace("lora_A.", "")
            up = parts[name.replace("lora_A", "lora_B")]
            weights[target].data += config["lora_alpha"] / config["r"] * (up @ down)
    assert torch.allclose(tuned, logits(merged), atol=1e-3)


def test_the_adapter_of_a_full_fine_tuning_is_loaded_instead_of_the_base(folder: Path, tmp_path: Path):
    whole = tiny_model(tmp_path, seed=7)
    model = load_model(folder, adapter=whole)
    assert torch.equal(logits(model), logits(load_model(whole)))
    assert not torch.equal(logits(model), logits(load_model(folder)))


def test_a_folder_that_is_no_adapter_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(NotAnAdapter, match=r"adapter_config\.json"):
        load_model(folder, adapter=tmp_path)


@pytest.mark.parametrize("change", ["other layer names", "other shapes", "other architecture"])
def test_an_adapter_of_another_base_is_refused_not_silently_ignored(change: str, folder: Path, adapter: Path, tmp_path: Path):
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    if change == "other layer names":
        weights = {name.replace("layers.1.", "layers.9."): tensor for name, tensor in weights.items()}
    elif change == "other shapes":
        weights = {name: tensor[:, :4].contiguous() if "lora_A" in name else tensor for name, tensor in weights.items()}
    else:
        weights = {name.replace("self_attn", "attention"): tensor for name, tensor in weights.items()}
    save_file(weights, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterMismatch, match="base model"):
        load_model(folder, adapter=tmp_path)


def test_the_weights_hash_of_one_file_is_that_of_the_file(folder: Path, adapter: Path):
    assert weights_sha256(folder) == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert weights_sha256(adapter) == hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_the_weights_hash_of_several_files_follows_their_names_and_nothing_else(tmp_path: Path):
    (tmp_path / "b.safetensors").write_bytes(b"second")
    (tmp_path / "a.safetensors").write_bytes(b"first")
    expected = hashlib.sha256(b"firstsecond").hexdigest()
    assert weights_sha256(tmp_path) == expected
    (tmp_path / "README.md").write_text("changed", encoding="utf-8")
    assert weights_sha256(tmp_path) == expected
    (tmp_path / "a.safetensors").write_bytes(b"FIRST")
    assert weights_sha256(tmp_path) != expected


@pytest.mark.parametrize("pad", [None, "<eos>"], ids=["no pad token", "pad is the end token"])
def test_the_pad_token_is_never_the_end_token(pad: str | None, tmp_path: Path):
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token == "<pad>"
    assert loaded.pad_token_id != loaded.eos_token_id
    assert loaded.padding_side == "right"
    assert len(loaded) == size


def test_a_vocabulary_without_anything_to_pad_with_is_refused(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    stored = tmp_path / "tokenizer.json"
    stored.write_text(stored.read_text(encoding="utf-8").replace("<pad>", "<other>"), encoding="utf-8")
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"pad_token": "<pad>",', ""), encoding="utf-8")
    with pytest.raises(NoPadToken, match="pad_token in tokenizer_config"):
        load_tokenizer(tmp_path)


def test_the_bfloat16_speedup_is_a_ratio_of_two_measured_times():
    assert 0.001 < bfloat16_speedup("cpu") < 1000


def test_peak_memory_counts_what_was_held_and_given_back():
    before = peak_memory_bytes()
    size = before + (64 << 20)
    held = np.ones(size, dtype=np.uint8)
    del held
    assert size <= peak_memory_bytes() <= size + before + (64 << 20)
