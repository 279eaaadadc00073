import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig, Qwen2MoeConfig, Qwen3MoeConfig

from fine_tune_pipeline.guide.base_model.local import read_model_folder, take_over
from fine_tune_pipeline.guide.base_model.model_files import (
    MissingShards,
    NeedsOwnCode,
    NoSafetensors,
    PickledWeights,
    UnreadableConfig,
    UnusableModel,
)
from fine_tune_pipeline.guide.base_model.reaching import DiskFull
from fine_tune_pipeline_tests.tiny import HIDDEN, VOCABULARY, tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model")


def test_numbers_are_read_from_the_files_and_tied_weights_count_once(folder):
    read = read_model_folder(folder)
    assert read.parameters == sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert (read.architecture.hidden, read.architecture.layers, read.architecture.kv_heads) == (HIDDEN, 2, 2)
    assert read.architecture.vocabulary <= VOCABULARY
    assert read.context == 1024


def test_a_tied_head_that_is_stored_again_is_not_counted_again(folder):
    from safetensors.torch import load_file, save_file

    before = read_model_folder(folder).parameters
    weights = load_file(folder / "model.safetensors")
    embedding = next(value for name, value in weights.items() if "embed_tokens" in name)
    save_file(weights | {"lm_head.weight": embedding.clone()}, folder / "model.safetensors")
    assert read_model_folder(folder).parameters == before


def test_only_weights_configuration_tokenizer_and_terms_are_taken_over(folder, tmp_path):
    for name in ("pytorch_model.bin", "training_args.bin", "modeling_own.py", "LICENSE"):
        (folder / name).write_text("x")
    read = read_model_folder(folder)
    take_over({name: read.path / name for name in read.files}, tmp_path / "taken")
    taken = {path.name for path in (tmp_path / "taken").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "LICENSE"} <= taken
    assert set(read.left_out) == {"pytorch_model.bin", "training_args.bin", "modeling_own.py"}
    assert not taken & set(read.left_out)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "taken").config.hidden_size == HIDDEN


def test_the_hash_follows_the_content_not_the_place(folder, tmp_path):
    before = read_model_folder(folder).hashes()
    moved = folder.rename(tmp_path / "moved")
    assert read_model_folder(moved).hashes() == before
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    assert read_model_folder(moved).hashes() != before


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PickledWeights, match=r"pytorch_model\.bin are pickled weights.*want \*\.safetensors"):
        read_model_folder(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnusableModel, match="nowhere: no such folder"):
        read_model_folder(tmp_path / "nowhere")


def test_an_adapter_alone_is_no_base_model(folder):
    (folder / "config.json").unlink()
    with pytest.raises(UnusableModel, match="an adapter alone is no base model"):
        read_model_folder(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", "{half", "not JSON"),
        ("config.json", json.dumps({"n_embd": 64}), "hidden_size is None, want a whole number"),
        ("model.safetensors", "<html>not found</html>", "not a safetensors file"),
        ("model.safetensors", "", "not a safetensors file"),
    ],
)
def test_a_broken_file_is_named(folder, name, content, said):
    (folder / name).write_text(content)
    with pytest.raises(UnusableModel, match=rf"{name}.*{said}"):
        read_model_folder(folder)


def changed_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_shards_are_taken_as_their_index_names_them_and_a_second_copy_of_the_weights_is_left_out(folder):
    parameters = read_model_folder(folder).parameters
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="100KB")
    (folder / "model.safetensors").rename(folder / "shards" / "consolidated.safetensors")
    read = read_model_folder(folder / "shards")
    assert read.parameters == parameters
    assert read.left_out == ("consolidated.safetensors",)
    assert len([name for name in read.files if name.endswith(".safetensors")]) > 1


def test_a_shard_that_is_missing_is_named(folder):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="100KB")
    lost = sorted((folder / "shards").glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(MissingShards, match=rf"names {lost.name}, which are not there"):
        read_model_folder(folder / "shards")


def test_weights_under_a_name_that_nobody_loads_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(NoSafetensors, match=r"got adapter_model\.safetensors, want model\.safetensors"):
        read_model_folder(folder)


def test_a_model_that_needs_its_own_code_is_refused(folder):
    changed_config(folder, model_type="acme", auto_map={"AutoConfig": "configuration_acme.Acme"})
    with pytest.raises(NeedsOwnCode, match=r"model_type 'acme' is not one of transformers' own.*configuration_acme\.Acme"):
        read_model_folder(folder)


def test_code_beside_an_architecture_that_transformers_has_is_left_out_and_not_needed(folder):
    changed_config(folder, model_type="phi3", auto_map={"AutoConfig": "configuration_phi3.Phi3Config"})
    (folder / "configuration_phi3.py").write_text("raise SystemExit")
    assert read_model_folder(folder).left_out == ("configuration_phi3.py",)


def test_links_of_a_cache_are_followed_when_files_are_taken_over(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder / "config.json")
    take_over({"config.json": tmp_path / "link"}, tmp_path / "taken")
    taken = tmp_path / "taken" / "config.json"
    assert not taken.is_symlink()
    assert taken.read_bytes() == (folder / "config.json").read_bytes()


def test_an_artifact_shares_no_file_with_the_folder_that_it_came_from(folder, tmp_path):
    files = {"config.json": folder / "config.json"}
    files["config.json"].chmod(0o600)
    take_over(files, tmp_path / "one")
    take_over(files, tmp_path / "other")
    whole = files["config.json"].read_bytes()
    files["config.json"].write_bytes(b"changed")
    (tmp_path / "other" / "config.json").write_bytes(b"damaged")
    assert (tmp_path / "one" / "config.json").read_bytes() == whole
    assert files["config.json"].read_bytes() == b"changed"


def test_weights_that_only_their_owner_may_read_become_ordinary_files(folder, tmp_path):
    (folder / "model.safetensors").chmod(0o600)
    take_over({"model.safetensors": folder / "model.safetensors"}, tmp_path / "taken")
    (tmp_path / "new").touch()
    assert (tmp_path / "taken" / "model.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o600


def test_a_disk_that_is_full_while_files_are_copied_is_said(folder, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DiskFull, match=r"taken: the disk is full .*set FINE_TUNE_PIPELINE_STORE to a folder on a larger disk"):
        take_over({"config.json": folder / "config.json"}, tmp_path / "taken")


SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    "config",
    [
        Qwen3MoeConfig(
            **SMALL,
            head_dim=64,
            intermediate_size=512,
            moe_intermediate_size=128,
            num_experts=8,
            num_experts_per_tok=2,
            mlp_only_layers=[0],
        ),
        Qwen2MoeConfig(
            **SMALL,
            intermediate_size=512,
            moe_intermediate_size=128,
            shared_expert_intermediate_size=256,
            num_experts=8,
            num_experts_per_tok=2,
        ),
        MixtralConfig(**SMALL, intermediate_size=256, num_local_experts=4, num_experts_per_tok=2),
        OlmoeConfig(**SMALL, **EXPERTS, intermediate_size=256),
    ],
    ids=lambda config: config.model_type,
)
def test_experts_are_counted_as_transformers_builds_them(folder, config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(folder)
    architecture = read_model_folder(folder).architecture
    assert architecture.experts
    assert architecture.parameters == pytest.approx(model.num_parameters(), rel=0.01)


def test_numbers_that_do_not_go_together_are_named(folder):
    changed_config(folder, num_experts=4, num_experts_per_tok=9)
    with pytest.raises(UnreadableConfig, match=r"config\.json: its numbers do not go together"):
        read_model_folder(folder)
