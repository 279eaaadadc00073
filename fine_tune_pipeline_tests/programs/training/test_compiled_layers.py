from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline.programs.requests import Placement
from fine_tune_pipeline.programs.training import compiled_layers
from fine_tune_pipeline.programs.training.compiled_layers import (
    InParts,
    NoCompiler,
    NoLayersToCompile,
    compile_layers,
    compiled_as_placed,
    refuse_without_compiler,
)
from fine_tune_pipeline.programs.training.flat_rows import use_rows_attention
from fine_tune_pipeline_tests.small_training import Recorder, train_request, write_rows
from fine_tune_pipeline_tests.tiny import tiny_model


def loaded(folder: Path) -> PreTrainedModel:
    model = load_model(folder)
    assert isinstance(model, PreTrainedModel)
    return model


def test_every_layer_is_compiled_and_the_names_of_its_weights_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiled: list[nn.Module] = []
    # The compiler itself needs a C++ compiler and half a minute; that torch uses it is torch's to test.
    monkeypatch.setattr(nn.Module, "compile", lambda module, *, dynamic, backend: compiled.append(module) if dynamic else None)
    model = loaded(tiny_model(tmp_path))
    before = list(model.state_dict())
    assert compile_layers(model) == 2
    assert compiled == list(model.model.layers)
    assert list(model.state_dict()) == before


def test_a_model_that_names_no_layers_is_refused(tmp_path: Path):
    model = loaded(tiny_model(tmp_path))
    model._no_split_modules = None
    with pytest.raises(NoLayersToCompile, match="Gemma3ForCausalLM does not name its layers"):
        compile_layers(model)


@pytest.mark.parametrize("compile", ["never", "auto"])
def test_what_cannot_be_compiled_is_trained_as_it_is_unless_always_is_written(compile: Literal["never", "auto"], tmp_path: Path):
    model, said = loaded(tiny_model(tmp_path)), list[str]()
    model._no_split_modules = None
    assert compiled_as_placed(model, Placement(compile=compile), say=said.append) == 0
    assert len(said) == (compile == "auto")
    with pytest.raises(NoLayersToCompile):
        compiled_as_placed(model, Placement(compile="always"), say=said.append)


def test_parts_of_a_model_are_not_compiled(tmp_path: Path):
    model, said = loaded(tiny_model(tmp_path)), list[str]()
    assert compiled_as_placed(model, Placement(compile="auto"), say=said.append, sharded=True) == 0
    assert "each process has a part of the model" in said[0]
    with pytest.raises(InParts):
        compiled_as_placed(model, Placement(compile="always"), say=said.append, sharded=True)


@pytest.mark.parametrize(("device", "missing"), [("cpu", "needs none-such on the PATH;"), ("cuda", "none-such")])
def test_a_machine_without_a_compiler_is_told_before_the_first_step(device: str, missing: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "none-such")
    monkeypatch.setenv("CC", "none-such")
    with pytest.raises(NoCompiler, match=missing):
        refuse_without_compiler(device)


# torch hides this warning of its own tracing, but not where warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_training_with_compiled_layers_has_the_losses_of_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Traced as for a compiler, and then run by torch itself: needs no C++ compiler.
    monkeypatch.setattr(compiled_layers, "BACKEND", "eager")
    folder, data = tiny_model(tmp_path), write_rows(tmp_path / "train.jsonl")
    plain, compiled = (
        train.run(
            train_request(
                tmp_path / compile, model=folder, train=data, epochs=1.0, placement=Placement(micro_batch=4, threads=1, compile=compile)
            ),
            Recorder(),
        )
        for compile in ("never", "always")
    )
    assert (plain.compiled_layers, compiled.compiled_layers) == (0, 2)
    assert [loss for _, loss in compiled.validation_losses] == pytest.approx([loss for _, loss in plain.validation_losses], rel=1e-4)
    assert compiled.final_loss == pytest.approx(plain.final_loss, rel=1e-4)


def test_attention_row_by_row_is_not_compiled_anew_for_other_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled_layers, "BACKEND", "eager")
    model = loaded(tiny_model(tmp_path, architecture="llama"))
    assert use_rows_attention(model)
    compile_layers(model)
    seen = [graphs_after(model, lengths) for lengths in ([3, 4, 6], [7, 9], [2, 2, 11, 13], [5, 6, 8, 17, 19])]
    assert seen[1] == seen[3]


@torch.no_grad()
def graphs_after(model: PreTrainedModel, lengths: list[int]) -> int:
    """Graphs that torch has made in all, once rows of these lengths have gone through the model."""
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    model(input_ids=places + 3, position_ids=places, cu_seq_lens_q=borders, max_length_q=max(lengths), use_cache=False)
    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_layers_give_the_same_numbers(tmp_path: Path):
    folder = tiny_model(tmp_path, architecture="llama")
    plain, compiled = loaded(folder), loaded(folder)
    compile_layers(compiled)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(compiled(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
