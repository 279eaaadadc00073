"""The optimizer of a training: which parameters learn how fast, and which of them decay."""

from typing import Any

from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers.trainer_pt_utils import get_parameter_names

from fine_tune_pipeline.programs.requests import Hyperparameters, Technique

_NO_DECAY = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
"""Names of parameters that a decay would only weaken, as transformers' trainer has them."""


def adamw(model: nn.Module, *, technique: Technique, hyperparameters: Hyperparameters) -> Optimizer:
    """AdamW in one fused kernel over what learns, biases and norms without decay.

    With LoRA+ the second halves of the adapters (and DoRA's lengths) learn `lora_plus_ratio` times as fast as all else.
    """
    rate, decay = hyperparameters.learning_rate, hyperparameters.weight_decay
    if technique.lora_plus_ratio is None:
        return AdamW(_groups(model, decay=decay), lr=rate, fused=True)
    assert isinstance(model, PeftModel)
    return create_loraplus_optimizer(
        model, AdamW, lr=rate, loraplus_lr_ratio=technique.lora_plus_ratio, loraplus_weight_decay=decay, fused=True
    )


def _groups(model: nn.Module, *, decay: float) -> list[dict[str, Any]]:
    decaying = set(get_parameter_names(model, [nn.LayerNorm], list(_NO_DECAY)))
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return [
        {"params": [parameter for name, parameter in learning.items() if name in decaying], "weight_decay": decay},
        {"params": [parameter for name, parameter in learning.items() if name not in decaying], "weight_decay": 0.0},
    ]
