from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.compiled_layers import NoLayersToCompile, compile_layers
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline_tests.tiny import tiny_model


def loaded(folder: Path) -> PreTrainedModel:
    model = load_model(folder)
    assert isinstance(model, PreTrainedModel)
    return model


def test_every_layer_is_compiled_and_the_names_of_its_weights_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiled: list[nn.Module] = []
    # The compiler itself needs a C++ compiler and half a minute; that torch uses it is torch's to test.
    monkeypatch.setattr(nn.Module, "compile", lambda module, *, dynamic: compiled.append(module) if dynamic else None)
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_layers_give_the_same_numbers(tmp_path: Path):
    folder = tiny_model(tmp_path, architecture="llama")
    plain, compiled = loaded(folder), loaded(folder)
    compile_layers(compiled)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(compiled(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
