"""An adapter laid into its base model, written as one, and how far the answers move by that."""

import gc
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.export_requests import ExportRequest, Merge
from fine_tune_pipeline.programs.models import attach, load_model, load_tokenizer, weight_files
from fine_tune_pipeline.programs.requests import Placement, Precision, Technique
from fine_tune_pipeline.programs.rows import read_rows
from fine_tune_pipeline.programs.training.adapters import evaluate, load_base

ALLOWED: dict[Precision, float] = {"float32": 0.01, "bfloat16": 1.0}
"""Of one logit, where nobody names a bound, by the dtype that the merged weights are stored in."""

PROMPTS, ANSWER_TOKENS = 16, 7
"""So many rows are compared, at the first token of the answer and at up to so many after it."""

WRITTEN_BY_A_MODEL = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
"""What `save_pretrained` of a model writes; everything else of its folder is tokenizer, template and terms."""


class MergeNotFinite(ValueError):
    """The merged weights hold numbers that are none."""


class NothingToCompare(ValueError):
    """No prompt fits into the model's context."""


class MergeChangesAnswers(ValueError):
    """The merged model is too far from the adapter beside the base model; `merge` says how far."""

    def __init__(self, merge: Merge) -> None:
        self.merge = merge
        super().__init__(
            f"the merged model's logits differ by up to {merge.largest_difference:.3g} from those of the adapter beside the base model, "
            f"{merge.allowed:.3g} are allowed, and the adapter itself changes them by {merge.effect:.3g}: serve the adapter beside the "
            "base model; or merge into float32 (deployment.export.dtype: float32), where it was coarser; or, if an evaluation of the "
            "merged model satisfies you, raise deployment.export.largest_logit_difference"
        )


@dataclass(frozen=True)
class Text:
    """Tokens of a prompt and of what follows; the scores at the last `scored` of them are of interest."""

    ids: tuple[int, ...]
    scored: int = 1


@torch.inference_mode()
def last_logits(model: PreTrainedModel | PeftModel, texts: Sequence[Text]) -> Tensor:
    """Scores [positions, vocabulary] of the token that follows each scored one, float32, on the CPU."""
    rows = []
    for text in texts:
        ids = torch.tensor([text.ids], device=model.device)
        rows.append(model(input_ids=ids, use_cache=False, logits_to_keep=text.scored).logits[0].float().cpu())
    return torch.cat(rows)


def laid_in(model: PeftModel) -> PreTrainedModel:
    """The base model with the adapter inside its weights; `model` is of no use afterwards.

    Raises:
        MergeNotFinite: by peft's own look at each layer.
    """
    try:
        inside = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        if "NaN" not in str(error):
            raise
        raise MergeNotFinite(
            f"{error}: a weight of the adapter is no number, so its training broke down; train again with a lower training.learning_rate"
        ) from error
    assert isinstance(inside, PreTrainedModel)
    return inside


def write_merged(request: ExportRequest, folder: Path) -> Merge:
    """Write the merged model with the base model's tokenizer, load it again, and compare its answers.

    The adapter is laid in with the wider of the two dtypes, and what was written is what is measured: rounding to the stored dtype counts.

    Raises:
        MergeChangesAnswers: it is further away than allowed; nothing is left in `folder`.
        MergeNotFinite, NothingToCompare: see there.
    """
    stored = request.stored_dtype or stored_dtype(request.model)
    working: Precision = "float32" if "float32" in (stored, request.dtype) else "bfloat16"
    tuned = load_model(request.model, dtype=working, device=request.device, adapter=request.trained)
    assert isinstance(tuned, PeftModel)
    texts = compared_texts(request, context=_context(tuned))
    beside = last_logits(tuned, texts)
    with tuned.disable_adapter():
        base = last_logits(tuned, texts)
    laid_in(tuned).to(getattr(torch, stored)).save_pretrained(folder)
    copy_beside(request, folder)
    # Two models would not fit where one does.
    del tuned
    gc.collect()
    written = load_model(folder, dtype=working, device=request.device)
    inside = last_logits(written, texts)
    del written
    gc.collect()
    allowed = request.largest_difference or ALLOWED[stored]
    merge = Merge(
        stored_dtype=stored,
        prompts=len(texts),
        positions=len(beside),
        largest_difference=_apart(inside, beside),
        allowed=allowed,
        effect=_apart(beside, base),
        same_choices=_same(inside, beside),
        **(_beside_quantised(request, texts, inside) if request.quantised else {}),
    )
    if not merge.largest_difference <= allowed:
        shutil.rmtree(folder)
        raise MergeChangesAnswers(merge)
    return merge


def copy_beside(request: ExportRequest, folder: Path) -> None:
    """Tokenizer, template and terms, byte for byte: a tokenizer that is loaded and saved again may lose its SentencePiece file.

    Where the training has left a tokenizer of its own, with added tokens, that one counts.
    """
    for source in (Path(request.model), Path(request.trained)):
        if source == Path(request.model) or (source / "tokenizer_config.json").exists():
            for path in _beside(source):
                shutil.copyfile(path, folder / path.name)


def stored_dtype(folder: str | Path) -> Precision:
    """The dtype of most numbers in the weights of a model folder: bfloat16, or float32 for all others, which holds them exactly."""
    numbers: Counter[str] = Counter()
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_slice(name)
                numbers[tensor.get_dtype()] += torch.Size(tensor.get_shape()).numel()
    return "bfloat16" if numbers.most_common(1)[0][0] == "BF16" else "float32"


def compared_texts(request: ExportRequest, *, context: int) -> list[Text]:
    """Rows spread over the file, each with the begin of its answer.

    Raises:
        NothingToCompare: none of them fits into the context.
    """
    # trl, which batches are made with, takes seconds to import.
    from fine_tune_pipeline.programs.training.batches import TEXT_FIELDS, tokenised

    tokenizer = load_tokenizer(request.model)
    rows = read_rows(request.prompts, text_fields=TEXT_FIELDS)
    chosen = rows[:: max(1, len(rows) // PROMPTS)][:PROMPTS]
    texts = []
    for row in chosen:
        found = tokenised(row, tokenizer=tokenizer, format=request.format, loss_on="completion")
        ids = found.input_ids[: found.prompt_tokens + ANSWER_TOKENS]
        if len(ids) <= context:
            texts.append(Text(tuple(ids), scored=1 + len(ids) - found.prompt_tokens))
    if not texts:
        raise NothingToCompare(f"{request.prompts}: none of {len(chosen)} rows fits into the {context} tokens of {request.model}")
    return texts


def _beside_quantised(request: ExportRequest, texts: Sequence[Text], inside: Tensor) -> dict[str, float]:
    """How far the merged model is from the one that was trained, whose base was in nf4."""
    placement = Placement(device=request.device, dtype=request.dtype)
    trained = attach(load_base(request.model, technique=Technique(type="qlora"), placement=placement), adapter=request.trained)
    evaluate(trained)
    seen = last_logits(trained, texts)
    return {"quantised_difference": _apart(inside, seen), "quantised_same_choices": _same(inside, seen)}


def _context(model: PeftModel) -> int:
    return model.config.get_text_config().max_position_embeddings


def _beside(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        ours = any(fnmatchcase(path.name, pattern) for pattern in (*WRITTEN_BY_A_MODEL, "adapter_*", "README.md"))
        if path.is_file() and not ours:
            yield path


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _same(one: Tensor, other: Tensor) -> int:
    return int((one.argmax(-1) == other.argmax(-1)).sum())
