"""What many prompts of one version begin with (an instruction, a template), read once and kept from batch to batch.

Only the model thread may call what is here. A version's prefix is what its weights make of these tokens: it goes with the version.
"""

from collections.abc import Sequence

from peft import PeftModel
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.decoding import LEAST_SHARED, Prefix, common_tokens, keeps_keys_and_values, read_prefix, shared_prefix

MOST_TOKENS = 2048
"""Kept for one version: 72 MB of Gemma 3 270M in float32."""

WORTH_MORE = 64
"""Tokens that the prompts of one batch must share beyond what is kept, to be read once for this batch alone."""


class KeptPrefixes:
    """For each model name the tokens that its prompts have begun with lately, as the model read them."""

    def __init__(self) -> None:
        self._kept: dict[str, Prefix] = {}
        self._last: dict[str, list[int]] = {}

    def forget(self, name: str) -> None:
        """The version is gone, or another will have its name."""
        self._kept.pop(name, None)
        self._last.pop(name, None)

    def fitting(self, model: PreTrainedModel | PeftModel, name: str, prompts: Sequence[list[int]]) -> Prefix | None:
        """What all these prompts begin with, if it is worth it; the model is as it will be for the batch, adapter included.

        It is kept once two batches begin with it, so a prompt that comes alone is read once, as a whole.
        """
        if not keeps_keys_and_values(model):
            return None
        kept, last = self._kept.get(name), self._last.get(name)
        self._last[name] = prompts[-1]
        if kept is not None and any(len(prompt) <= len(kept.ids) or prompt[: len(kept.ids)] != kept.ids for prompt in prompts):
            kept = None
        more = LEAST_SHARED if kept is None else len(kept.ids) + WORTH_MORE
        lasting = 0 if last is None else min(common_tokens([*prompts, last]), MOST_TOKENS)
        if lasting >= more:
            kept = self._kept[name] = read_prefix(model, prompts[0][:lasting])
            more = lasting + WORTH_MORE
        return shared_prefix(model, prompts) if common_tokens(prompts) >= more else kept
