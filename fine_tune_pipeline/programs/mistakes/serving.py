"""Mistakes between what was trained and what will answer: saved, loaded by the endpoint's own code, merged, and asked."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.decoding import Generated
from fine_tune_pipeline.programs.merging import Text, laid_in, last_logits
from fine_tune_pipeline.programs.mistakes.checklist import Verdict, fine, not_applicable, wrong
from fine_tune_pipeline.programs.requests import Placement, Precision, Technique
from fine_tune_pipeline.programs.serving.served_models import ServedModels, UnusableAdapter
from fine_tune_pipeline.programs.training.adapters import evaluate
from fine_tune_pipeline.programs.training.batches import ROWS, Row, as_records
from fine_tune_pipeline.programs.training.recipe import computing, on_device
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer

LEARNED = 0.05
"""Length of an adapter's change over that of the weight, set before it is saved: after two steps it would drown in rounding."""

LEAST_APART, MOST_APART = 0.2, 0.5
"""Of the answers with and without that adapter, see `apart`."""

TRIES = 10
"""At halving or doubling it: a factor of a thousand."""

NEAR: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 5e-2}
"""Difference of two distributions over the next token (total variation, 0 to 1) that rounding makes."""

MERGED = 0.2
"""Of the adapter's whole effect, what rounding the merged weights may take; a wrong scale takes more."""

VERSION = "tried"


def serving_dtype(placement: Placement) -> Precision:
    """What the endpoint and the evaluation compute in: float32 on a CPU, see `guide.technique.placement.answering_on`."""
    return "float32" if torch.device(placement.device).type == "cpu" else placement.dtype


@torch.no_grad()
def strengthen(trainer: CompletionTrainer, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Scale what the adapters learned in two steps to what a whole training teaches, and give the answers then, as `next_tokens`.

    Then it is halved or doubled until its answers differ from the base model's by a fair part, no less and no more: where it changes
    nothing, or leaves one token alone possible, a wrong scale does not show.
    The model is of no use for training afterwards.
    """
    model = trainer.trained
    if not isinstance(model, PeftModel):
        return trained_answers(trainer, prompts)
    with model.disable_adapter():
        base = trained_answers(trainer, prompts)
    for module in _adapted(model):
        weight = _weight(module)
        for name, matrix in module.lora_B.items():
            change = float(_change(module, name).norm())
            matrix.weight.mul_(LEARNED * weight / change if change else 1.0)
    answers = trained_answers(trainer, prompts)
    for _ in range(TRIES):
        effect = apart(answers, base)
        if LEAST_APART <= effect <= MOST_APART:
            break
        for module in _adapted(model):
            for matrix in module.lora_B.values():
                matrix.weight.mul_(2.0 if effect < LEAST_APART else 0.5)
        answers = trained_answers(trainer, prompts)
    return answers


def _adapted(model: PeftModel) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _weight(module: LoraLayer) -> float:
    weight = module.get_param() if isinstance(module, ParamWrapper) else dequantize_module_weight(module.get_base_layer())
    return float(weight.float().norm())


def _change(module: LoraLayer, adapter: str) -> Tensor:
    """What the adapter adds to the weight. LoraLayer leaves the method to its kinds, and torch's type of a module says it is a tensor."""
    delta: Callable[[str], Tensor] = getattr(module, "get_delta_weight")  # noqa: B009
    return delta(adapter).float()


def next_tokens(model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Probabilities [prompts, vocabulary] of the first token of each answer, float32."""
    return last_logits(model, [Text(tuple(ids)) for ids in prompts]).softmax(-1)


@torch.inference_mode()
def trained_answers(trainer: CompletionTrainer, prompts: Sequence[Sequence[int]]) -> Tensor:
    """As `next_tokens`, of the model that is still in training, with the batches and in the number format of training."""
    model = trainer.trained
    evaluate(model)
    logits = []
    for ids in prompts:
        batch = trainer.collate(as_records([Row("asked", list(ids), list(ids))]))
        inputs = {name: value for name, value in on_device(batch, model.device).items() if name not in ("labels", ROWS)}
        with computing(trainer.recipe):
            logits.append(model(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1])
    return torch.stack(logits).float().softmax(-1).cpu()


def apart(one: Tensor, other: Tensor) -> float:
    """The largest total variation between two sets of distributions: 0 where they are the same, 1 where they share nothing."""
    return float((one - other).abs().sum(-1).max()) / 2


def adapter_not_loading(
    served: ServedModels, saved: Path, *, trained: Tensor, prompts: Sequence[Sequence[int]], technique: Technique, dtype: Precision
) -> Verdict:
    """What was saved, loaded by the endpoint's code, must answer as the model that was trained."""
    try:
        served.load(VERSION, saved)
    except UnusableAdapter as error:
        return wrong(str(error), "take the pinned versions of peft and transformers (constraints.txt), and the base model of the training")
    difference = apart(next_tokens(served.model_of(VERSION), prompts), trained)
    seen = f"loaded beside the base model; the first token of {len(prompts)} answers differs by {difference:.1e} from the trained model"
    if technique.type == "qlora":
        return fine(f"{seen}, which was quantised")
    if difference > NEAR[dtype]:
        return wrong(seen, "take the pinned versions of peft and transformers (constraints.txt), or merge the adapter before serving")
    return fine(seen)


def merge_changes_answers(served: ServedModels, *, prompts: Sequence[Sequence[int]]) -> Verdict:
    """The loaded adapter beside the base model, and then inside it. `served` is of no use afterwards."""
    model = served.model_of(VERSION)
    if not isinstance(model, PeftModel):
        return not_applicable("full fine-tuning leaves no adapter to merge")
    beside = next_tokens(model, prompts)
    with model.disable_adapter():
        base = next_tokens(model, prompts)
    inside = next_tokens(laid_in(model), prompts)
    effect, difference = apart(beside, base), apart(beside, inside)
    seen = f"merging changes the first token of {len(prompts)} answers by {difference:.1e}, the adapter itself by {effect:.1e}"
    if difference > MERGED * effect + 1e-4:
        return wrong(seen, "serve the adapter beside the base model, or merge in float32")
    same = int((beside.argmax(-1) == inside.argmax(-1)).sum())
    return fine(f"{seen}; {same} of {len(prompts)} greedy choices stay")


def first_answer(served: ServedModels, prompt: Sequence[int], *, new_tokens: int) -> Generated:
    """One answer by the endpoint's code."""
    (answer,) = served.generate(VERSION, [prompt], new_tokens)
    return answer
