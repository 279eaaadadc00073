from pathlib import Path

import pytest
from safetensors.torch import load_file

from fine_tune_pipeline.programs.inspect import run
from fine_tune_pipeline.programs.models import NoWeights, weights_sha256
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import InspectRequest, InspectResult
from fine_tune_pipeline_tests.programs.launching import launch
from fine_tune_pipeline_tests.tiny import HIDDEN, tiny_model, tiny_tokenizer


def test_parameters_are_counted_from_the_file_and_tied_ones_once(tmp_path: Path):
    folder = tiny_model(tmp_path / "model")
    result = run(InspectRequest(output=str(tmp_path), model=str(folder)), Reporter(None))
    stored = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert result.parameters == sum(tensor.numel() for tensor in stored.values())
    assert result.embedding_parameters == stored["model.embed_tokens.weight"].numel()
    assert result.weights_sha256 == weights_sha256(folder)


def test_the_result_describes_the_model(tmp_path: Path):
    folder = tiny_model(tmp_path / "model", architecture="llama")
    result = run(InspectRequest(output=str(tmp_path), model=str(folder)), Reporter(None))
    assert (result.architecture, result.layers, result.hidden_size, result.context_tokens) == ("LlamaForCausalLM", 2, HIDDEN, 1024)
    assert result.vocabulary == len(tiny_tokenizer())
    assert result.load_seconds > 0


@pytest.mark.parametrize("chat", [False, True])
def test_it_says_whether_there_is_a_chat_template(chat: bool, tmp_path: Path):
    folder = tiny_model(tmp_path / "model", chat=chat)
    assert run(InspectRequest(output=str(tmp_path), model=str(folder)), Reporter(None)).has_chat_template is chat


def test_the_program_writes_what_it_found_without_a_network(tmp_path: Path):
    folder = tiny_model(tmp_path / "model")
    request = InspectRequest(output=str(tmp_path), model=str(folder))
    found = InspectResult.read(launch(request))
    assert found.model_dump(exclude={"load_seconds"}) == run(request, Reporter(None)).model_dump(exclude={"load_seconds"})


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(NoWeights):
        run(InspectRequest(output=str(tmp_path), model=str(tmp_path)), Reporter(None))
