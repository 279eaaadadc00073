from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.requests import Placement, Technique
from fine_tune_pipeline.programs.training.adapters import evaluate, load_base, save, trainable_parameters, with_technique
from fine_tune_pipeline.programs.training.batches import Collate, Row, as_records
from fine_tune_pipeline.programs.training.losses import batch_nll
from fine_tune_pipeline.programs.training.targets import TargetNotFound
from fine_tune_pipeline_tests.tiny import HIDDEN, tiny_model

BATCH = Collate(pad_id=0, flat=False)(as_records([Row("a", [2, 5, 6, 7, 8], [-100, -100, 6, 7, 8])]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def tuned(folder: Path, technique: Technique) -> PreTrainedModel | PeftModel:
    return with_technique(load_base(folder, technique=technique, placement=Placement()), technique=technique, seed=0)


def test_a_target_that_the_model_lacks_is_named_with_what_it_has(folder: Path):
    technique = Technique(type="lora", target_modules=("q_proj", "qkv_proj"))
    with pytest.raises(
        TargetNotFound, match=r"qkv_proj not in this model, which has down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj"
    ):
        tuned(folder, technique)


def test_only_the_named_targets_learn(folder: Path):
    model = tuned(folder, Technique(type="lora", rank=4, target_modules=("q_proj", "v_proj")))
    # Two layers; q_proj is 64 to 64, v_proj 64 to 32.
    assert trainable_parameters(model) == 2 * 4 * ((HIDDEN + HIDDEN) + (HIDDEN + HIDDEN // 2))


def test_a_quantised_model_still_learns_after_it_was_evaluated(folder: Path):
    model = tuned(folder, Technique(type="qlora", rank=4))
    evaluate(model)
    with torch.no_grad():
        batch_nll(model, dict(BATCH))
    model.train()
    batch_nll(model, dict(BATCH)).backward()
    still = [
        name
        for name, parameter in model.named_parameters()
        if "lora_B" in name and (parameter.grad is None or not parameter.grad.abs().sum().is_nonzero())
    ]
    assert still == []


def test_the_same_seed_draws_the_same_start(folder: Path):
    first, again = (tuned(folder, Technique(type="lora")).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_saving_replaces_an_earlier_adapter_and_leaves_nothing_else(folder: Path, tmp_path: Path):
    model = tuned(folder, Technique(type="lora", rank=4))
    old = tmp_path / "adapter"
    old.mkdir()
    (old / "stale.safetensors").write_bytes(b"old")
    save(model, old, tokenizer=load_tokenizer(folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
    assert sorted(path.name for path in old.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert str(folder.parent) not in (old / "adapter_config.json").read_text(encoding="utf-8")
    assert sum(tensor.numel() for tensor in load_file(old / "adapter_model.safetensors").values()) == trainable_parameters(model)


def test_a_save_that_breaks_off_leaves_no_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tuned(folder, Technique(type="full"))

    def interrupted(folder: str) -> None:
        Path(folder, "tokenizer.json").write_text("{", encoding="utf-8")
        raise KeyboardInterrupt

    tokenizer = load_tokenizer(folder)
    monkeypatch.setattr(tokenizer, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(model, tmp_path / "adapter", tokenizer=tokenizer)
    assert list(tmp_path.iterdir()) == []
