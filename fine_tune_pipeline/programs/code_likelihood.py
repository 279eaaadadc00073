"""How likely a model holds each of many short answers to one prompt: the prompt is read once, and so is every beginning that answers share.

Letters: U different beginnings of one length, C tokens that stand at one place of any answer, D hidden size.
"""
# ruff: noqa: N803, N806 (capitals name the shape of a tensor)

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from fine_tune_pipeline.programs.head import Head, base_of, head_of, of_rows

Beginning = tuple[int, ...]


@torch.inference_mode()
def log_likelihoods(
    model: PreTrainedModel | PeftModel, prompt: Sequence[int], answers: Sequence[Sequence[int]], *, rows: int
) -> list[float]:
    """Log-likelihood of each answer in nats, in the order of `answers`, given that each of its tokens is one that some answer has at
    that place.

    The normaliser over these few tokens alone saves the walk over the vocabulary, most of the work. A rank among answers drawn alike
    is as exact with it.

    Args:
        model: in evaluation mode.
        prompt: token ids, at least one.
        answers: token ids, at least one each.
        rows: answers that go through the model together; bounds the cache.
    """
    places = range(max(map(len, answers)))
    choices = [tuple(sorted({answer[place] for answer in answers if len(answer) > place})) for place in places]
    found = [0.0] * len(answers)
    # Neighbours in this order share most.
    order = sorted(range(len(answers)), key=lambda index: tuple(answers[index]))
    for first in range(0, len(order), rows):
        part = order[first : first + rows]
        scores = _of_some(model, prompt, [tuple(answers[index]) for index in part], choices=choices)
        for index, score in zip(part, scores, strict=True):
            found[index] = score
    return found


def _of_some(
    model: PreTrainedModel | PeftModel, prompt: Sequence[int], answers: Sequence[Beginning], *, choices: Sequence[tuple[int, ...]]
) -> list[float]:
    cache, head = DynamicCache(config=model.config), head_of(model)
    hidden_UD = _read(model, [list(prompt)], cache=cache, before=0)
    beginnings: list[Beginning] = [()]
    scores = [0.0] * len(answers)
    for place in range(max(map(len, answers))):
        logp_UC = _restricted(hidden_UD, head, choices[place]).cpu().tolist()
        row = {beginning: number for number, beginning in enumerate(beginnings)}
        column = {token: number for number, token in enumerate(choices[place])}
        for number, answer in enumerate(answers):
            if len(answer) > place:
                scores[number] += logp_UC[row[answer[:place]]][column[answer[place]]]
        beginnings = list(dict.fromkeys(answer[: place + 1] for answer in answers if len(answer) > place + 1))
        if not beginnings:
            break
        cache.reorder_cache(torch.tensor([row[beginning[:-1]] for beginning in beginnings], device=hidden_UD.device))
        hidden_UD = _read(model, [[beginning[-1]] for beginning in beginnings], cache=cache, before=len(prompt) + place)
    return scores


def _read(model: PreTrainedModel | PeftModel, tokens: list[list[int]], *, cache: DynamicCache, before: int) -> Tensor:
    """Hidden states [U, D] after the last of these tokens; `before` of them are in the cache."""
    ids = torch.tensor(tokens, device=model.device)
    mask = ids.new_ones(len(tokens), before + ids.shape[1])
    positions = torch.arange(before, before + ids.shape[1], device=model.device).expand(len(tokens), -1)
    read = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "cache": cache, "use_cache": True}
    hidden: Tensor = base_of(model).base_model(**read).last_hidden_state[:, -1]
    return hidden


def _restricted(hidden_UD: Tensor, head: Head, tokens: tuple[int, ...]) -> Tensor:
    """Log-probabilities [U, C] of these tokens, given that it is one of them."""
    rows_CD = head.rows(torch.tensor(tokens, device=hidden_UD.device), dtype=hidden_UD.dtype)
    logits, _ = of_rows(hidden_UD, rows_CD, head, bias=head.bias_of(tokens))
    return logits.log_softmax(dim=1)
