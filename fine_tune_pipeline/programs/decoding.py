"""Greedy answers for a batch of prompts: the one function that evaluation and the endpoint share, so that both give the same answers.

Letters in this file: B rows, T columns of the left-padded batch, P tokens of a shared prefix, H key heads, D head width.

Every row is padded on the left to T columns, so the last column is the last token of each. When all prompts begin with the same P
tokens (the shots of a few-shot prompt), the keys and values of those are computed once; the first P columns of every row hold only
padding and prefix tokens, hence only the other T - P columns have to be computed. Token sequence, positions and distances between
tokens stay exactly what they are without sharing, also for layers with a sliding window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, DynamicLayer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.prompts import answer_text, end_id, stops
from fine_tune_pipeline.programs.requests import PromptFormat

LEAST_SHARED = 16
"""Tokens from which sharing a prefix is worth an extra forward pass."""


class PromptTooLong(ValueError):
    """Prompt and answer together would not fit into the model's context; nothing is cut off silently."""


@dataclass(frozen=True)
class Generated:
    """One answer: its text (see `prompts.answer_text`), the tokens it took (end token included), their mean log-probability in nats,
    and whether it ended by itself."""

    text: str
    tokens: int
    logprob: float
    finished: bool


@dataclass(frozen=True)
class Prefix:
    """The P tokens that all prompts begin with, and per layer their keys and values [H, P, D]."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]


@dataclass
class _Row:
    """An answer while it is being written."""

    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finished: bool = False


def refuse_too_long(tokens: int, *, max_new_tokens: int, config: PreTrainedConfig, what: str = "a prompt") -> None:
    """Refuse a prompt of `tokens` tokens whose answer might not fit into the context of the model of this config.

    Raises:
        PromptTooLong: with the three numbers.
    """
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is not None and tokens + max_new_tokens > context:
        raise PromptTooLong(
            f"{what} of {tokens} tokens and an answer of up to {max_new_tokens} exceed the model's context of {context} tokens; "
            "shorten the prompt, use fewer shots, or lower max_new_tokens"
        )


def shared_prefix(model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]]) -> Prefix | None:
    """The tokens that all prompts begin with, read once by the model as it is now (adapter included).

    None when there are too few of them, one prompt only, or when the model keeps something else than keys and values per token.
    """
    count = _common(prompts)
    if len(prompts) < 2 or count < LEAST_SHARED or not _keeps_keys_and_values(model):
        return None
    cache = DynamicCache()
    with torch.inference_mode():
        ids = torch.tensor([prompts[0][:count]], device=model.device)
        model(input_ids=ids, attention_mask=torch.ones_like(ids), cache=cache, use_cache=True, logits_to_keep=1)
    layers: list[tuple[Tensor, Tensor]] = []
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        layers.append((layer.keys[0], layer.values[0]))
    return Prefix(ids=prompts[0][:count], layers=layers)


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    format: PromptFormat,
    max_new_tokens: int,
    prefix: Prefix | None = None,
) -> list[Generated]:
    """Answer each prompt greedily; the answers come in the order of the prompts and do not depend on their neighbours in the batch.

    Args:
        model: in evaluation mode.
        prompts: token ids of any lengths, at least one prompt.
        format: says what ends an answer: the end token, for plain style also the begin of a next example.
        max_new_tokens: an answer that has not ended by then is cut there.
        prefix: what `shared_prefix` gave for these prompts, or for more prompts than these.

    Raises:
        PromptTooLong: the longest prompt and `max_new_tokens` exceed the model's context.
    """
    refuse_too_long(max(map(len, prompts)), max_new_tokens=max_new_tokens, config=model.config)
    ends = _end_ids(model, tokenizer=tokenizer, format=format)
    rows = [_Row() for _ in prompts]
    open_rows = rows
    mask, cache, logits = _read(model, prompts, prefix=prefix)
    while True:
        chosen = _append_best(open_rows, logits)
        for row in open_rows:
            row.finished = row.ids[-1] in ends or any(stop in tokenizer.decode(row.ids) for stop in stops(format))
        keep = [index for index, row in enumerate(open_rows) if not row.finished and len(row.ids) < max_new_tokens]
        if not keep:
            return [_generated(row, tokenizer=tokenizer, format=format) for row in rows]
        if len(keep) < len(open_rows):
            open_rows = [open_rows[index] for index in keep]
            kept = torch.tensor(keep, device=mask.device)
            mask, chosen = mask[kept], chosen[kept]
            cache.reorder_cache(kept)  # pyright: ignore[reportArgumentType]
        mask = torch.cat([mask, mask.new_ones(len(keep), 1)], dim=1)
        positions = mask.sum(dim=1, keepdim=True) - 1
        logits = _last_logits(model, chosen[:, None], mask=mask, positions=positions, cache=cache)


def _common(prompts: Sequence[list[int]]) -> int:
    """How many first tokens all prompts share, less than the shortest prompt has: its last token must still be read."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    # The lexicographically smallest and greatest prompt differ no later than any other pair.
    return next((index for index in range(limit) if first[index] != last[index]), limit)


def _keeps_keys_and_values(model: PreTrainedModel | PeftModel) -> bool:
    config = model.config.get_text_config()
    plain_layers = all(kind in ("full_attention", "sliding_attention") for kind in getattr(config, "layer_types", None) or ())
    return plain_layers and getattr(config, "attention_chunk_size", None) is None and not getattr(config, "num_kv_shared_layers", 0)


def _end_ids(model: PreTrainedModel | PeftModel, *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat) -> set[int]:
    ends = {end_id(tokenizer=tokenizer, format=format)}
    generation = getattr(model, "generation_config", None)
    named = [tokenizer.eos_token_id, None if generation is None else generation.eos_token_id]
    for ids in named:
        ends.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return ends


def _read(
    model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], *, prefix: Prefix | None
) -> tuple[Tensor, DynamicCache, Tensor]:
    """Read the prompts: mask [B, T], the filled cache, logits [B, vocabulary] of each first answer token."""
    width = max(len(prompt) for prompt in prompts)
    # Padding is masked: any token does.
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    pads = torch.tensor([width - len(prompt) for prompt in prompts], device=model.device)
    mask = (torch.arange(width, device=model.device) >= pads[:, None]).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    known = 0
    if prefix is not None:
        assert all(prompt[: len(prefix.ids)] == prefix.ids for prompt in prompts), "prefix of other prompts"
        known = len(prefix.ids)
        _lay(prefix, pads=pads, cache=cache)
    logits = _last_logits(model, ids[:, known:], mask=mask, positions=positions[:, known:], cache=cache)
    return mask, cache, logits


def _lay(prefix: Prefix, *, pads: Tensor, cache: DynamicCache) -> None:
    """Fill the first P columns of each row: its padding (masked, so any value does), then the prefix as far as it fits."""
    columns = torch.arange(len(prefix.ids), device=pads.device)
    token = (columns - pads[:, None]).clamp(min=0)
    for index, (keys, values) in enumerate(prefix.layers):
        cache.update(keys[:, token].transpose(0, 1), values[:, token].transpose(0, 1), index)


def _last_logits(model: PreTrainedModel | PeftModel, ids: Tensor, *, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, use_cache=True, logits_to_keep=1)
    return output.logits[:, -1].float()


def _append_best(rows: Sequence[_Row], logits: Tensor) -> Tensor:
    """Give each row its likeliest token, and return those [B]."""
    best, chosen = logits.max(dim=-1)
    logprobs = best - logits.logsumexp(dim=-1)
    for row, token, logprob in zip(rows, chosen.tolist(), logprobs.tolist(), strict=True):
        row.ids.append(token)
        row.logprob += logprob
    return chosen


def _generated(row: _Row, *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat) -> Generated:
    text = tokenizer.decode(row.ids, skip_special_tokens=True)
    assert isinstance(text, str)
    return Generated(text=answer_text(text, format=format), tokens=len(row.ids), logprob=row.logprob / len(row.ids), finished=row.finished)
