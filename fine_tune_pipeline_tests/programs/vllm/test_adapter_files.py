"""What vLLM can load, as its files tell, and the copy that it reads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fine_tune_pipeline.programs.vllm.adapter_files import (
    SUMS,
    NotPublished,
    UnservableAdapter,
    adapter_problems,
    publish,
    refuse_unservable_adapter,
    tensor_shapes,
)
from fine_tune_pipeline_tests.programs.vllm.world import Weights


@pytest.fixture
def adapter(weights: Weights, tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights.adapters[0], tmp_path / "adapter"))


def change(adapter: Path, **config: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **config}), encoding="utf-8")


def change_weights(adapter: Path, **weights: torch.Tensor) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({**load_file(path), **weights}, path)


def test_a_plain_adapter_can_be_served_and_its_headers_say_what_the_library_says(adapter: Path):
    assert adapter_problems(adapter, max_lora_rank=8) == []
    wanted = {name: tuple(tensor.shape) for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    assert dict(tensor_shapes(adapter)) == wanted


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is IA3, want LORA"),
        ({"use_dora": True}, "it has DoRA"),
        ({"bias": "all"}, "it has biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules beside the adapter"),
        ({"trainable_token_indices": {"embed_tokens": [3]}}, "rows of added tokens"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "adapters of experts or of the router"),
        ({"rank_pattern": {"q_proj": 8}}, "ranks of single modules"),
        ({"alpha_pattern": {"q_proj": 8}}, "scales of single modules"),
        ({"r": 8}, r"its weights have ranks \[4\], adapter_config.json says r = 8"),
    ],
)
def test_what_vllm_would_refuse_or_leave_out_is_refused(adapter: Path, config: dict[str, Any], said: str):
    change(adapter, **config)
    with pytest.raises(UnservableAdapter, match=said):
        refuse_unservable_adapter(adapter, max_lora_rank=16)


def test_a_rank_above_the_servers_is_refused_with_both_numbers(adapter: Path):
    assert adapter_problems(adapter, max_lora_rank=1) == [
        "it has rank 4, at most 1 is taken; start vLLM with a larger --max-lora-rank, and write it in deployment.vllm.max_lora_rank"
    ]


def test_weights_that_are_no_lora_of_a_linear_layer_are_named(adapter: Path):
    change_weights(adapter, **{"base_model.model.q_proj.lora_magnitude_vector": torch.ones(3)})
    assert adapter_problems(adapter, max_lora_rank=16) == [
        "1 of its weights are no lora_A or lora_B of a linear layer, such as base_model.model.q_proj.lora_magnitude_vector"
    ]


@pytest.mark.parametrize("fault", ["a whole model", "no weights", "cut off", "no safetensors"])
def test_folders_that_hold_no_adapter_are_refused(adapter: Path, fault: str):
    weights = adapter / "adapter_model.safetensors"
    if fault == "a whole model":
        (adapter / "adapter_config.json").unlink()
    if fault == "no weights":
        weights.unlink()
    if fault == "cut off":
        weights.write_bytes(weights.read_bytes()[:40])
    if fault == "no safetensors":
        weights.write_bytes(b"\xff" * 64)
    wanted = {"a whole model": "a whole model cannot be loaded", "no weights": "no weights"}.get(fault, "cannot be read")
    assert any(wanted in problem for problem in adapter_problems(adapter, max_lora_rank=16))


@pytest.mark.parametrize("at", ["{folder}/shared/deep", "memory://adapters"])
def test_the_copy_is_whole_and_taken_the_second_time(adapter: Path, tmp_path: Path, at: str):
    from upath import UPath

    at = at.format(folder=tmp_path)
    name = publish(adapter, name="bank-v1", at=at)
    assert name.startswith("bank-v1-")
    copied = UPath(at) / name
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (copied / file).read_bytes() == (adapter / file).read_bytes()
    before = (copied / SUMS).stat().st_mtime if "memory" not in at else None
    assert publish(adapter, name="bank-v1", at=at) == name
    assert before is None or (copied / SUMS).stat().st_mtime == before
    assert [path.name for path in UPath(at).iterdir()] == [name]


def test_another_configuration_or_version_gets_another_path(adapter: Path, tmp_path: Path):
    names = {publish(adapter, name="bank-v1", at=str(tmp_path / "shared")), publish(adapter, name="bank-v2", at=str(tmp_path / "shared"))}
    change(adapter, lora_alpha=99)
    names.add(publish(adapter, name="bank-v1", at=str(tmp_path / "shared")))
    assert len(names) == 3


def test_a_copy_that_was_changed_is_refused_and_one_that_is_not_whole_is_made_again(adapter: Path, tmp_path: Path):
    shared = tmp_path / "shared"
    copied = shared / publish(adapter, name="bank-v1", at=str(shared))
    (copied / "adapter_model.safetensors").write_bytes(b"changed")
    with pytest.raises(NotPublished, match="somebody has changed it"):
        publish(adapter, name="bank-v1", at=str(shared))
    (copied / SUMS).unlink()
    publish(adapter, name="bank-v1", at=str(shared))
    assert (copied / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()


def test_a_place_that_cannot_be_written_is_named(adapter: Path, tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(NotPublished, match=r"file/shared/bank-v1-\w+: the adapter cannot be copied there"):
        publish(adapter, name="bank-v1", at=str(tmp_path / "file" / "shared"))
