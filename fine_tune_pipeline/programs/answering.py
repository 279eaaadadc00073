"""How the answers of one job are written: freely, as the likeliest of a closed list, or inside a JSON Schema. One way for all systems."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.decoding import Generated, Prefix, generate_batch, refuse_too_long
from fine_tune_pipeline.programs.decoding_requests import Decoding, JsonDecoding, LabelDecoding
from fine_tune_pipeline.programs.json_guides import JsonGuide, json_guide
from fine_tune_pipeline.programs.label_scores import edge_logprobs, of_labels
from fine_tune_pipeline.programs.label_tree import LabelTree, label_tree
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.token_scores import TokenScore
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
            manners: how each answer is written, where they are not all alike; of a closed list only which scores are wanted.
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
        of_edges = edge_logprobs(model, prompts, tree=self.tree, prefix=prefix)
        found = of_labels(of_edges, tree=self.tree).tolist()
        answers = [_likeliest(dict(zip(self.tree.labels, row, strict=True)), self.tree) for row in found]
        wanted = [manner.scores for manner in manners or ()] or [None] * len(prompts)
        return [
            answer if top is None else replace(answer, scores=self._scores(answer.text, row, top=top))
            for answer, row, top in zip(answers, of_edges.tolist(), wanted, strict=True)
        ]

    def _scores(self, label: str, of_edges: Sequence[float], *, top: int) -> tuple[TokenScore, ...]:
        """Of the tokens of a label; beside each, the likeliest of those that the list has there."""
        tree = self.tree
        assert tree is not None
        *path, _ = tree.paths[tree.labels.index(label)]

        def score(edge: int) -> TokenScore:
            node, token = tree.edges[edge]
            here = [(other, place) for place, (parent, other) in enumerate(tree.edges) if parent == node]
            likeliest = sorted(((of_edges[place], other) for other, place in here), reverse=True)[:top]
            return TokenScore(self._word(token), of_edges[edge], tuple((self._word(other), logprob) for logprob, other in likeliest))

        return tuple(map(score, path))

    def _word(self, token: int) -> str:
        text = self.tokenizer.decode([token])
        assert isinstance(text, str)
        return text


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
