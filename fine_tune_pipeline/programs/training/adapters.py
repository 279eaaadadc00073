"""What learns: the technique of step 4 put on a base model, and the folder that keeps what was learned."""

import os
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from fine_tune_pipeline.programs.models import load_model, refuse_incomplete, weight_files
from fine_tune_pipeline.programs.requests import Placement, Technique
from fine_tune_pipeline.programs.training.pissa import INITIALISATION, remember_start, without_start
from fine_tune_pipeline.programs.training.targets import check_adapted, leave_other_experts_at_zero, targets_of
from fine_tune_pipeline.programs.training.token_rows import check_rows_learn, keep_rows, tied, token_options, token_wrappers


def load_base(folder: str | Path, *, technique: Technique, placement: Placement) -> PreTrainedModel:
    """The base model as the technique trains it: nf4 for qlora, float32 for full, the placement's dtype for lora.

    Full training keeps float32 weights even where it computes in bfloat16: a small update would be rounded away.
    """
    if technique.type == "qlora":
        return _load_nf4(folder, placement=placement)
    dtype = "float32" if technique.type == "full" else placement.dtype
    model = load_model(folder, dtype=dtype, device=placement.device)
    assert isinstance(model, PreTrainedModel)
    return model


def _load_nf4(folder: str | Path, *, placement: Placement) -> PreTrainedModel:
    weight_files(folder)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, placement.dtype),
    )
    model, loading = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        str(folder),
        dtype=getattr(torch, placement.dtype),
        quantization_config=quantization,
        device_map={"": placement.device},
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    refuse_incomplete(loading, source=folder)
    return model


def with_technique(model: PreTrainedModel, *, technique: Technique, seed: int) -> PreTrainedModel | PeftModel:
    """The model with exactly the parameters trainable that the technique trains; adapters in float32, their start drawn from `seed`.

    Raises:
        TargetNotFound, LayerNotFound, RankTooLarge, ExpertsNotAdapted, WouldRouteAnew, NotBesideParameters, NoRoomForTokens,
            HeadWithBias, RowsNotTrained: what would learn is not what the technique says.
    """
    if technique.type == "full":
        return model.requires_grad_(True)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        lora_dropout=technique.dropout,
        use_dora=technique.use_dora,
        use_rslora=technique.use_rslora,
        init_lora_weights=INITIALISATION if technique.use_pissa else True,
        **targets_of(model, technique).options(technique),
        **token_options(model, technique.added_tokens),
    )
    matrices = 1 if tied(model) else 2
    set_seed(seed)
    adapted = get_peft_model(model, config)
    check_adapted(adapted, technique)
    check_rows_learn(adapted, technique.added_tokens, matrices=matrices)
    if technique.use_pissa:
        remember_start(adapted)
    if technique.experts is not None:
        leave_other_experts_at_zero(adapted, technique.experts)
    return adapted


def evaluate(model: nn.Module) -> None:
    """Evaluation mode, from which training can go on.

    nf4 layers stay in training mode, which changes none of their numbers: in evaluation mode on a CPU, bitsandbytes 0.50 packs their
    weights for inference, and from then on no gradient flows through them, without an error.
    """
    model.eval()
    if getattr(model, "is_loaded_in_4bit", False):
        from bitsandbytes.nn.modules import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.train()


def trainable_parameters(model: nn.Module) -> int:
    """Numbers that learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def save(
    model: PreTrainedModel | PeftModel, folder: Path, *, tokenizer: PreTrainedTokenizerBase, weights: dict[str, Tensor] | None = None
) -> None:
    """Write a PEFT adapter, or a whole model with its tokenizer; `folder` appears whole or not at all.

    An adapter of an earlier try in the same place is replaced.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with without_start(model) as start:
            write(model, partial, start=start, weights=weights)
        # Added tokens travel with what has learned them: the base model's own publisher does not know them.
        if not isinstance(model, PeftModel) or any(token_wrappers(model)):
            tokenizer.save_pretrained(str(partial))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write(model: PreTrainedModel | PeftModel, folder: Path, *, start: str | None = None, weights: dict[str, Tensor] | None = None) -> None:
    """What was learned, as files of `folder`: a PEFT adapter, or all weights.

    Args:
        start: see `without_start`; None writes the adapter as it is trained, which is what a checkpoint wants.
        weights: of a model that lies in parts.
    """
    if isinstance(model, PeftModel):
        # Embeddings are never saved whole; to find that out by itself, PEFT would ask the hub for the base model's configuration.
        model.save_pretrained(str(folder), save_embedding_layers=False, path_initial_model_for_weight_conversion=start)
        if start is not None:
            keep_rows(model, folder)
        # The folder's name, not its place: an adapter is the same wherever it was trained.
        config = PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = Path(config.base_model_name_or_path or "").name
        config.save_pretrained(str(folder))
        # PEFT's model card is an empty form.
        (folder / "README.md").unlink(missing_ok=True)
    else:
        model.save_pretrained(str(folder), state_dict=weights)
