"""How the answers of one job are written: freely, as the likeliest of a closed list, or inside a JSON Schema. One way for all systems."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.decoding import Generated, Prefix, generate_batch, refuse_too_long
from fine_tune_pipeline.programs.decoding_requests import Decoding, JsonDecoding, LabelDecoding
from fine_tune_pipeline.programs.json_guides import JsonGuide, json_guide
from fine_tune_pipeline.programs.label_scores import label_logprobs
from fine_tune_pipeline.programs.label_tree import LabelTree, label_tree
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.under_way import Join
from fine_tune_pipeline.programs.written_rows import Manner


@dataclass(frozen=True)
class Answering:
    """What turns prompts into answers; `tree` or `guide` or neither."""

    tokenizer: PreTrainedTokenizerBase
    format: PromptFormat
    stop: tuple[str, ...] = ()
    tree: LabelTree | None = None
    guide: JsonGuide | None = None

    def longest(self, max_new_tokens: int) -> int:
        """Tokens that an answer may take."""
        return max_new_tokens if self.tree is None else self.tree.longest

    def width(self, prompt_tokens: int, max_new_tokens: int) -> int:
        """Tokens that a row takes in a batch, with all that is read after its prompt."""
        return prompt_tokens + (max_new_tokens if self.tree is None else self.tree.nodes)

    def answers(
        self,
        model: PreTrainedModel | PeftModel,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int,
        prefix: Prefix | None = None,
        manners: Sequence[Manner] | None = None,
        join: Join | None = None,
    ) -> list[Generated]:
        """Answers in the order of the prompts; they do not depend on their neighbours in the batch.

        Args:
            prefix: what `shared_prefix` gave for these prompts.
            manners: how each answer is written, where they are not all alike; not for a closed list.
            join: who joins while they are written, see `generate_batch`; nobody does for a closed list, which takes one pass.

        Raises:
            PromptTooLong: the longest prompt and its answer exceed the model's context.
        """
        if self.tree is None:
            return generate_batch(
                model,
                self.tokenizer,
                prompts,
                format=self.format,
                max_new_tokens=max_new_tokens,
                stop=self.stop,
                guide=self.guide,
                prefix=prefix,
                manners=manners,
                join=join,
            )
        refuse_too_long(max(map(len, prompts)), max_new_tokens=self.tree.longest, config=model.config)
        found = label_logprobs(model, prompts, tree=self.tree, prefix=prefix).tolist()
        return [_likeliest(dict(zip(self.tree.labels, row, strict=True)), self.tree) for row in found]


def answering(
    decoding: Decoding | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    format: PromptFormat,
    stop: tuple[str, ...] = (),
) -> Answering:
    """The way that a job asks for, checked before any model is loaded.

    Raises:
        SameAnswers: two labels are the same tokens.
        GuideMissing, UnsupportedSchema, UnsupportedTokenizer: answers cannot be kept inside the schema here.
    """
    tree = label_tree(decoding.labels, tokenizer=tokenizer, format=format) if isinstance(decoding, LabelDecoding) else None
    words = config.get_text_config().vocab_size
    guide = json_guide(decoding, tokenizer=tokenizer, format=format, words=words) if isinstance(decoding, JsonDecoding) else None
    return Answering(tokenizer, format, stop, tree, guide)


def _likeliest(logprobs: dict[str, float], tree: LabelTree) -> Generated:
    """The answer of the highest log-probability, the first of equals."""
    text = max(logprobs, key=logprobs.__getitem__)
    assert math.isfinite(logprobs[text]), f"{text!r} has log-probability {logprobs[text]}"
    tokens = len(tree.paths[tree.labels.index(text)])
    return Generated(text, tokens=tokens, logprob=logprobs[text] / tokens, finished=True, label_logprobs=logprobs)
