"""Load a base model from its safetensors and say what it is: measured, not believed from a model card."""

import time

from torch import nn
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.models import load_model, load_tokenizer, weights_sha256
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import InspectRequest, InspectResult


def run(request: InspectRequest, reporter: Reporter) -> InspectResult:
    """Load the model and count.

    Raises:
        NoWeights, PickledWeights: the folder holds no safetensors.
    """
    reporter.log(f"loading {request.model}")
    start = time.monotonic()
    model = load_model(request.model)
    assert isinstance(model, PreTrainedModel)
    load_seconds = time.monotonic() - start
    config = model.config.get_text_config()
    return InspectResult(
        architecture=type(model).__name__,
        parameters=_count(model),
        embedding_parameters=_embedding_parameters(model),
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        context_tokens=config.max_position_embeddings,
        has_chat_template=bool(load_tokenizer(request.model).chat_template),
        weights_sha256=weights_sha256(request.model),
        load_seconds=load_seconds,
    )


def _count(*modules: nn.Module) -> int:
    """Parameters of the modules together; a weight that several of them share (tied embeddings) counts once."""
    unique = {id(parameter): parameter.numel() for module in modules for parameter in module.parameters()}
    return sum(unique.values())


def _embedding_parameters(model: PreTrainedModel) -> int:
    """Of the input embedding and the vocabulary head."""
    head = model.get_output_embeddings()
    return _count(model.get_input_embeddings(), *([head] if isinstance(head, nn.Module) else []))


def main() -> None:
    """Inspect as the request file says."""
    quiet_libraries()
    request = parse(InspectRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
