"""Greedy answers for a batch of prompts: the one function that evaluation and the endpoint share, so that both give the same answers.

Letters in this file: B rows, T columns of the left-padded batch, P tokens of a shared prefix, H key heads, D head width.

Every row is padded on the left to T columns, so the last column is the last token of each. When all prompts begin with the same P
tokens (the shots of a few-shot prompt), the keys and values of those are computed once; the first P columns of every row hold only
padding and prefix tokens, hence only the other T - P columns have to be computed. Token sequence, positions and distances between
tokens stay exactly what they are without sharing, also for layers with a sliding window.

On a CPU the vocabulary is walked in tiles (see `head.py`), after a check that this is what the model itself does; with bfloat16 units a
coarse copy of the head says first which tokens matter (see `screen.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from peft.utils import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import DynamicCache, DynamicLayer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs import bfloat16_units
from fine_tune_pipeline.programs.head import Head, base_of, head_of, likeliest
from fine_tune_pipeline.programs.json_guides import JsonGuide
from fine_tune_pipeline.programs.prompts import end_id
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.screen import Screen
from fine_tune_pipeline.programs.under_way import Join, Newcomers, UnderWay, together
from fine_tune_pipeline.programs.written_rows import Best, Generated, Manner, Row, chosen_by_logits

LEAST_SHARED = 16
"""Tokens from which sharing a prefix is worth an extra forward pass."""

_SCREENS: WeakKeyDictionary[PreTrainedModel, Screen] = WeakKeyDictionary()
"""Copies of the heads of base models, made once."""

_TILES_FIT: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""Base models that were checked, and whether `likeliest` says what they say: looked up for every batch, found out once."""


class PromptTooLong(ValueError):
    """Prompt and answer together would not fit into the model's context; nothing is cut off silently."""


@dataclass(frozen=True)
class Prefix:
    """The P tokens that all prompts begin with, and per layer their keys and values [H, P, D]."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]


class Laid(NamedTuple):
    """A batch that the model has not read yet: what to call it with, and the mask [B, T]. A prefix lies in the cache already."""

    read: dict[str, Any]
    mask: Tensor


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
    count = common_tokens(prompts)
    if len(prompts) < 2 or count < LEAST_SHARED or not keeps_keys_and_values(model):
        return None
    return read_prefix(model, prompts[0][:count])


@torch.inference_mode()
def read_prefix(model: PreTrainedModel | PeftModel, tokens: list[int]) -> Prefix:
    """These tokens, read by the model as it is now; it must keep keys and values of each (`keeps_keys_and_values`)."""
    cache = DynamicCache()
    ids = torch.tensor([tokens], device=model.device)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), cache=cache, use_cache=True, logits_to_keep=1)
    layers: list[tuple[Tensor, Tensor]] = []
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        layers.append((layer.keys[0], layer.values[0]))
    return Prefix(ids=tokens, layers=layers)


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    format: PromptFormat,
    max_new_tokens: int,
    stop: tuple[str, ...] = (),
    guide: JsonGuide | None = None,
    prefix: Prefix | None = None,
    manners: Sequence[Manner] | None = None,
    join: Join | None = None,
) -> list[Generated]:
    """Answer each prompt greedily; the answers come in the order of the prompts and do not depend on their neighbours in the batch.

    Args:
        model: in evaluation mode.
        prompts: token ids of any lengths, at least one prompt.
        format: says what ends an answer: the end token, for plain style also the begin of a next example.
        max_new_tokens: an answer that has not ended by then is cut there.
        stop: strings that end an answer too, once it has begun.
        guide: what may be written; the likeliest of these tokens is chosen, and `logprob` stays what the model says of it.
        prefix: what `shared_prefix` gave for these prompts, or for more prompts than these.
        manners: how each row is written, where they are not all alike; instead of `stop` and `guide`, with at most `max_new_tokens` each.
        join: says who joins the batch while it is written; their answers come after those of the prompts. Not for models of which
            `keeps_keys_and_values` is not true.

    Raises:
        PromptTooLong: the longest prompt and `max_new_tokens` exceed the model's context.
    """
    ends = end_ids(model, tokenizer=tokenizer, format=format)
    head = _walked(model)
    alike = Manner(max_new_tokens, stop=stop, guide=guide)

    def begun(new: Newcomers) -> UnderWay:
        prompt, manner = max(zip(new.prompts, new.manners, strict=True), key=lambda row: len(row[0]) + row[1].max_new_tokens)
        refuse_too_long(len(prompt), max_new_tokens=manner.max_new_tokens, config=model.config)
        rows = [Row.begin(manner, tokenizer=tokenizer, format=format) for manner in new.manners]
        every.extend(rows)
        batch = laid(model, new.prompts, prefix=new.prefix, cache=DynamicCache(config=model.config))
        first = _append(rows, _best(model, batch.read, head=head, rows=rows), ends=ends)
        return UnderWay(rows, batch.mask, batch.read["cache"], first)

    every: list[Row] = []
    batch = begun(Newcomers(prompts, manners or [alike] * len(prompts), prefix))
    while True:
        batch.leave()
        if join is not None and (new := join(len(batch.rows))) is not None:
            batch = together(batch, begun(new))
            batch.leave()
        if not batch.rows:
            return [row.result() for row in every]
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], dim=1)
        positions = batch.mask.sum(dim=1, keepdim=True) - 1
        read = _reading(batch.chosen[:, None], mask=batch.mask, positions=positions, cache=batch.cache)
        batch.chosen = _append(batch.rows, _best(model, read, head=head, rows=batch.rows), ends=ends)


def common_tokens(prompts: Sequence[list[int]]) -> int:
    """How many first tokens all prompts share, less than the shortest prompt has: its last token must still be read."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    # The lexicographically smallest and greatest prompt differ no later than any other pair.
    return next((index for index in range(limit) if first[index] != last[index]), limit)


def keeps_keys_and_values(model: PreTrainedModel | PeftModel) -> bool:
    """Whether each layer keeps keys and values of each token for itself, and nothing else."""
    config = model.config.get_text_config()
    plain_layers = all(kind in ("full_attention", "sliding_attention") for kind in getattr(config, "layer_types", None) or ())
    return plain_layers and getattr(config, "attention_chunk_size", None) is None and not getattr(config, "num_kv_shared_layers", 0)


def end_ids(model: PreTrainedModel | PeftModel, *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat) -> set[int]:
    """Tokens at which an answer ends: those that training teaches, and those that the model's files name."""
    ends = {end_id(tokenizer=tokenizer, format=format)}
    generation = getattr(model, "generation_config", None)
    named = [tokenizer.eos_token_id, None if generation is None else generation.eos_token_id]
    for ids in named:
        ends.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return ends


def laid(model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], *, prefix: Prefix | None, cache: DynamicCache) -> Laid:
    """The prompts padded on the left, without what the prefix holds, which is laid into the empty `cache`."""
    width = max(len(prompt) for prompt in prompts)
    # Padding is masked: any token does.
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    pads = torch.tensor([width - len(prompt) for prompt in prompts], device=model.device)
    mask = (torch.arange(width, device=model.device) >= pads[:, None]).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    known = 0
    if prefix is not None:
        assert all(prompt[: len(prefix.ids)] == prefix.ids for prompt in prompts), "prefix of other prompts"
        known = len(prefix.ids)
        _lay(prefix, pads=pads, cache=cache)
    return Laid(_reading(ids[:, known:], mask=mask, positions=positions[:, known:], cache=cache), mask)


def _reading(ids: Tensor, *, mask: Tensor, positions: Tensor, cache: DynamicCache) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "cache": cache, "use_cache": True}


def _lay(prefix: Prefix, *, pads: Tensor, cache: DynamicCache) -> None:
    """Fill the first P columns of each row: its padding (masked, so any value does), then the prefix as far as it fits."""
    columns = torch.arange(len(prefix.ids), device=pads.device)
    token = (columns - pads[:, None]).clamp(min=0)
    for index, (keys, values) in enumerate(prefix.layers):
        cache.update(keys[:, token].transpose(0, 1), values[:, token].transpose(0, 1), index)


def _best(model: PreTrainedModel | PeftModel, read: dict[str, Any], *, head: Head | Screen | None, rows: Sequence[Row]) -> Best:
    """The likeliest token after the last of each row; without `head` by the model's own logits, and in their own manner where rows
    want more than that.

    Without a screen one row alone takes the logits too: reading the weights once is all the time, and the tiles take a tenth longer (64
    rows: a fifth less).
    """
    if any(row.by_logits for row in rows):
        return chosen_by_logits(model(**read, logits_to_keep=1).logits[:, -1].float(), rows)
    if isinstance(head, Screen):
        return Best(*head.likeliest(_last_hidden(model, read)))
    if head is not None and len(rows) > 1:
        return Best(*likeliest(_last_hidden(model, read), head))
    return _best_of(model(**read, logits_to_keep=1).logits[:, -1].float())


def _last_hidden(model: PreTrainedModel | PeftModel, read: dict[str, Any]) -> Tensor:
    hidden = base_of(model).base_model(**read).last_hidden_state[:, -1]
    assert isinstance(hidden, Tensor)
    return hidden


def _best_of(logits: Tensor) -> Best:
    highest, chosen = logits.max(dim=-1)
    return Best(chosen, highest - logits.logsumexp(dim=-1))


def _walked(model: PreTrainedModel | PeftModel) -> Head | Screen | None:
    """The head to look through while writing: by a coarse copy, where that is faster, or in tiles; None on an accelerator, which wants few
    large kernels."""
    base = base_of(model)
    head = fitting_head(model) if base.device.type == "cpu" else None
    if head is None or not Screen.fits(head) or not bfloat16_units.here():
        return head
    if base not in _SCREENS or not _SCREENS[base].of(head):
        _SCREENS[base] = Screen(head)
    return _SCREENS[base]


def fitting_head(model: PreTrainedModel | PeftModel) -> Head | None:
    """The head of a model whose logits are what it says; None where walking it in tiles would say something else."""
    base = base_of(model)
    # Any other adapter on the head makes it another module: only its own forward knows what it computes.
    if type(base.get_output_embeddings()) not in (nn.Linear, TrainableTokensWrapper):
        return None
    head = head_of(base)
    if base not in _TILES_FIT:
        _TILES_FIT[base] = _tiles_fit(base, head)
    return head if _TILES_FIT[base] else None


def _tiles_fit(model: PreTrainedModel, head: Head) -> bool:
    """Whether the architecture does nothing else to its logits than what `head` says, seen on a few tokens."""
    ids = torch.arange(8, device=model.device)[None]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    own = _best_of(model(input_ids=ids, use_cache=False).logits[0].float())
    tolerance = 1e-3 if model.dtype == torch.float32 else 3e-2
    return torch.allclose(own.logprobs, likeliest(hidden, head)[1], rtol=tolerance, atol=tolerance)


def _append(rows: Sequence[Row], best: Best, *, ends: set[int]) -> Tensor:
    """Give each row its next token, and return those [B]."""
    for place, (row, token, logprob) in enumerate(zip(rows, best.tokens.tolist(), best.logprobs.tolist(), strict=True)):
        row.take(token, logprob, None if best.tops is None else best.tops[place], ends=ends)
    return best.tokens
