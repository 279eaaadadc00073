"""Log-probabilities of all answers of a closed list, each as exact as if the model had read it alone.

Letters: B prompts, T columns of the left-padded prompts, N nodes of the tree of answers, E its edges, L labels, D hidden size.

A prompt is read once. Then all nodes of the tree go through the model in one pass: each sees the prompt, itself and the nodes above it, at
the position that it has in its answer. So what several answers share is computed once, and nothing of the cache is copied.
"""
# ruff: noqa: N803, N806 (capitals name the shape of a tensor)

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from fine_tune_pipeline.programs.decoding import Laid, Prefix, fitting_head, keeps_keys_and_values, laid
from fine_tune_pipeline.programs.head import Head, base_of, tiles
from fine_tune_pipeline.programs.label_tree import LabelTree

HEAD_ROWS = 512
"""Hidden states for which the vocabulary is walked at once: their tile is 8 MB."""

_TREES_FIT: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""Base models that were checked, and whether a tree in one pass gives what its paths give one by one."""

_TRIAL = LabelTree(
    ("5 6 5 3", "5 7 4"),
    parents=(0, 1, 1, 2),
    tokens=(5, 6, 7, 5),
    edges=((0, 5), (1, 6), (2, 5), (1, 7), (4, 3), (3, 4)),
    paths=((0, 1, 2, 4), (0, 3, 5)),
)
_TRIAL_PROMPT = list(range(8, 16))


class _Wanted(NamedTuple):
    """Tokens whose log-probability is asked for: `tokens` [E], each after the hidden state of the column `columns` [E]."""

    columns: Tensor
    tokens: Tensor


def label_logprobs(
    model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], *, tree: LabelTree, prefix: Prefix | None = None
) -> Tensor:
    """log P(label and its end token | prompt) in nats, [B, L], float32 on the CPU; no correction for length. See `edge_logprobs`."""
    return of_labels(edge_logprobs(model, prompts, tree=tree, prefix=prefix), tree=tree)


def of_labels(of_edges: Tensor, *, tree: LabelTree) -> Tensor:
    """Of each label [B, L], the sum of its edges' [B, E]."""
    taken = of_edges.new_zeros(len(tree.edges), len(tree.labels))
    for label, path in enumerate(tree.paths):
        taken[list(path), label] = 1
    return (of_edges.double() @ taken.double()).float().cpu()


@torch.inference_mode()
def edge_logprobs(
    model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], *, tree: LabelTree, prefix: Prefix | None = None
) -> Tensor:
    """log P(token | prompt and the tokens above it) of each edge of the tree in nats: [B, E], among all tokens of the vocabulary.

    Args:
        model: in evaluation mode.
        prompts: token ids of any lengths.
        prefix: what `decoding.shared_prefix` gave for these prompts, or for more prompts than these.
    """
    base = base_of(model)
    if base not in _TREES_FIT:
        _TREES_FIT[base] = _trees_fit(model)
    return (_by_tree if _TREES_FIT[base] else _one_by_one)(model, prompts, tree, prefix)


def _by_tree(model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], tree: LabelTree, prefix: Prefix | None) -> Tensor:
    """Log-probability of each edge of the tree: [B, E]."""
    # All keys stay, also those that a sliding window no longer shows to the prompt's last token: the tree's mask says who sees what.
    batch = laid(model, prompts, prefix=prefix, cache=DynamicCache())
    device, head = batch.mask.device, fitting_head(model)
    found = torch.empty(len(prompts), len(tree.edges), device=device)
    nodes, tokens = (torch.tensor(column, device=device) for column in zip(*tree.edges, strict=True))
    first = nodes == 0
    wanted = _Wanted(torch.zeros_like(tokens[first]), tokens[first])
    found[:, first] = _logprobs(model, batch.read, wanted, last=1, head=head)
    if tree.nodes:
        wanted = _Wanted(nodes[~first] - 1, tokens[~first])
        found[:, ~first] = _logprobs(model, _tree_read(model, batch, tree), wanted, last=tree.nodes, head=head)
    return found


def _tree_read(model: PreTrainedModel | PeftModel, batch: Laid, tree: LabelTree) -> dict[str, Any]:
    """The nodes of the tree after each prompt, as the model takes them: ids and positions [B, N], masks [B, 1, N, T + N]."""
    seen_BT, device, config = batch.mask.bool(), batch.mask.device, model.config.get_text_config()
    B, N = len(seen_BT), tree.nodes
    above_NN = torch.zeros(N, N, dtype=torch.bool, device=device)
    for node in range(1, N + 1):
        above_NN[node - 1, [other - 1 for other in tree.above(node)]] = True
    positions = batch.mask.sum(dim=1, keepdim=True) - 1 + torch.tensor(tree.depths, device=device)
    full = torch.cat([seen_BT[:, None].expand(-1, N, -1), above_NN.expand(B, N, N)], dim=2)[:, None]
    window = getattr(config, "sliding_window", None)
    near = full
    if window is not None:
        keys = torch.cat([(batch.mask.cumsum(dim=1) - 1), positions], dim=1)
        near = full & (positions[:, None, :, None] - keys[:, None, None, :] < window)
    kinds = getattr(config, "layer_types", None)
    by_kind = {kind: _as_taken(near if kind == "sliding_attention" else full, model) for kind in set(kinds or ())}
    return {
        "input_ids": torch.tensor(tree.tokens, device=device).expand(B, N),
        "attention_mask": by_kind or _as_taken(near, model),
        "position_ids": positions,
        "cache": batch.read["cache"],
        "use_cache": True,
    }


def _as_taken(mask: Tensor, model: PreTrainedModel | PeftModel) -> Tensor:
    """The mask as the attention takes it: what is seen, or what is added to the scores."""
    if model.config.get_text_config()._attn_implementation == "sdpa":
        return mask
    return torch.zeros(mask.shape, dtype=base_of(model).dtype, device=mask.device).masked_fill(~mask, torch.finfo(base_of(model).dtype).min)


def _logprobs(model: PreTrainedModel | PeftModel, read: dict[str, Any], wanted: _Wanted, *, last: int, head: Head | None) -> Tensor:
    """Log-probabilities [B, E] of the wanted tokens, whose columns count from the first of the `last` columns."""
    if head is None:
        logprobs = model(**read, logits_to_keep=last).logits.float().log_softmax(dim=-1)
        return logprobs[:, wanted.columns, wanted.tokens]
    hidden = base_of(model).base_model(**read).last_hidden_state[:, -last:]
    B, E = len(hidden), len(wanted.tokens)
    rows = (torch.arange(B, device=hidden.device)[:, None] * last + wanted.columns).flatten()
    return _of_tokens(hidden.flatten(0, 1), rows, wanted.tokens.repeat(B), head).view(B, E)


def _of_tokens(hidden_ND: Tensor, rows: Tensor, tokens: Tensor, head: Head) -> Tensor:
    """Log-probability of each of `tokens` after the hidden state that `rows` names."""
    found = torch.empty(len(rows), device=hidden_ND.device)
    for start in range(0, len(hidden_ND), HEAD_ROWS):
        here = ((rows >= start) & (rows < start + HEAD_ROWS)).nonzero()[:, 0]
        found[here] = _walked(hidden_ND[start : start + HEAD_ROWS], rows[here] - start, tokens[here], head)
    return found


def _walked(hidden_ND: Tensor, rows: Tensor, tokens: Tensor, head: Head) -> Tensor:
    total = torch.full((len(hidden_ND),), -torch.inf, device=hidden_ND.device)
    found = torch.empty(len(rows), device=hidden_ND.device)
    for tile in tiles(hidden_ND, head):
        inside = ((tokens >= tile.start) & (tokens < tile.start + tile.logits.shape[1])).nonzero()[:, 0]
        found[inside] = tile.logits[rows[inside], tokens[inside] - tile.start]
        total = torch.logaddexp(total, tile.logits.logsumexp(dim=1))
    return found - total[rows]


def _one_by_one(model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], tree: LabelTree, prefix: Prefix | None) -> Tensor:
    """The same for architectures that a tree's mask or positions do not reach: each answer is read after its prompt, whole."""
    found = torch.empty(len(prompts), len(tree.edges), device=model.device)
    for row, prompt in enumerate(prompts):
        for path in tree.paths:
            tokens = [tree.edges[edge][1] for edge in path]
            ids = torch.tensor([[*prompt, *tokens[:-1]]], device=model.device)
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=len(tokens)).logits[0]
            found[row, list(path)] = logits.float().log_softmax(dim=-1)[range(len(tokens)), tokens]
    return found


def _trees_fit(model: PreTrainedModel | PeftModel) -> bool:
    """Whether a small tree gives what its paths give, read one by one."""
    config = model.config.get_text_config()
    if config._attn_implementation not in ("sdpa", "eager") or not keeps_keys_and_values(model):
        return False
    tolerance = 1e-3 if base_of(model).dtype == torch.float32 else 1e-1
    by_tree, apart = (way(model, [_TRIAL_PROMPT], _TRIAL, None) for way in (_by_tree, _one_by_one))
    return torch.allclose(by_tree, apart, rtol=tolerance, atol=tolerance)
