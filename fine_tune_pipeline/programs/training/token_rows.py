"""Rows of the embedding and of the head that learn beside adapters: those of tokens that were added to the base model.

All other rows rest, and what is kept of a training are these few. A head that is tied to the embedding has the same rows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME, TrainableTokensWrapper
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.models import TOKEN_ROWS


class NoRoomForTokens(ValueError):
    """The model has no rows for the tokens that should learn: it is not the one that step 2 has extended."""


class HeadWithBias(ValueError):
    """PEFT leaves the bias of a head out as soon as rows of it learn, and the model would say something else."""


class RowsNotTrained(ValueError):
    """Not exactly the rows of the added tokens would learn."""


def token_options(model: PreTrainedModel, ids: Sequence[int]) -> dict[str, dict[str, list[int]]]:
    """As arguments of `LoraConfig`; none without such tokens.

    Raises:
        NoRoomForTokens, HeadWithBias: they cannot learn in this model.
    """
    if not ids:
        return {}
    rows = model.get_input_embeddings().weight.shape[0]
    if max(ids) >= rows:
        raise NoRoomForTokens(
            f"technique.added_tokens: got {max(ids)}, and {model.name_or_path} has rows for tokens 0 to {rows - 1}: it is not the base "
            "model to which step 2 has added them"
        )
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise HeadWithBias(
            f"base_model.added_tokens: the head of {type(model).__name__} has a bias, which PEFT leaves out where rows learn beside "
            "adapters; write technique: {type: full}, or choose another base model"
        )
    names = {id(module): name for name, module in model.named_modules()}
    parts = [model.get_input_embeddings(), *([] if tied(model) else [head])]
    return {"trainable_token_indices": {names[id(part)]: list(ids) for part in parts}}


def tied(model: PreTrainedModel) -> bool:
    """Whether embedding and head are one matrix."""
    head = model.get_output_embeddings()
    return head is None or head.weight is model.get_input_embeddings().weight


def check_rows_learn(model: nn.Module, ids: Sequence[int], *, matrices: int) -> None:
    """Look at what PEFT has made trainable.

    Args:
        matrices: one where the head is tied to the embedding, else two.

    Raises:
        RowsNotTrained: other rows than those of the tokens, or not in all places.
    """
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad and TOKEN_ROWS in name}
    if len(learning) != (matrices if ids else 0) or any(len(each) != len(ids) for each in learning.values()):
        shapes = {name: tuple(each.shape) for name, each in learning.items()}
        raise RowsNotTrained(f"technique.added_tokens: want {len(ids)} rows to learn in {matrices} matrices, got {shapes}")
    places = [wrapper.token_adapter.token_indices["default"] for wrapper in token_wrappers(model)]
    if any(list(found) != list(ids) for found in places) or (ids and len(places) != 2):
        raise RowsNotTrained(f"technique.added_tokens: want rows {list(ids)} of embedding and head, got {places}")


def token_wrappers(model: nn.Module) -> Iterator[TrainableTokensWrapper]:
    """Around the embedding and the head."""
    return (module for module in model.modules() if isinstance(module, TrainableTokensWrapper))


def keep_rows(model: PeftModel, folder: Path) -> None:
    """Write the rows into an adapter's file, of which PEFT's conversion of PiSSA has left only the adapters."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    rows = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items() if TOKEN_ROWS in name}
    if rows:
        path = folder / SAFETENSORS_WEIGHTS_NAME
        save_file({**load_file(path), **rows}, path, metadata={"format": "pt"})
