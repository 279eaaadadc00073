"""Keeps an answer inside a JSON Schema while it is written, by llguidance: which tokens can come next, and what a token leads to."""

import json
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fine_tune_pipeline.programs.decoding_requests import JsonDecoding
from fine_tune_pipeline.programs.prompts import end_id
from fine_tune_pipeline.programs.requests import PromptFormat

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_VOCABULARIES: "WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[int, ...], LLTokenizer]]" = WeakKeyDictionary()
"""A tokenizer as llguidance reads it, by the number of words and the end tokens: a second of work for 262,144 words."""

WHITE_SPACE = r"\n?[ ]{0,24}"
"""Where answers go over lines: a new line and its indentation. Without a bound, a model may write white space up to the limit."""


class GuideMissing(ImportError):
    """The package that knows JSON Schema token by token is not installed."""


class UnsupportedSchema(ValueError):
    """The schema asks for something that cannot be kept while an answer is written; `said` is what the guide says of it."""

    def __init__(self, message: str, *, said: str = "") -> None:
        super().__init__(message)
        self.said = said


class UnsupportedTokenizer(ValueError):
    """The tokenizer does not say what bytes its tokens are."""


class Way:
    """One answer on its way through the schema."""

    def __init__(self, matcher: "LLMatcher", words: int) -> None:
        self._matcher = matcher
        self._words = words

    def allowed(self) -> Tensor:
        """Which tokens may come next: bool [words]."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little")[: self._words].astype(bool))

    def take(self, token: int) -> None:
        """Go on by one of the allowed tokens."""
        taken = self._matcher.consume_token(token)
        assert taken, self._matcher.get_error()


class JsonGuide:
    """A schema and a vocabulary; `begin` is called for each answer."""

    def __init__(self, vocabulary: "LLTokenizer", grammar: str) -> None:
        self._vocabulary = vocabulary
        self._grammar = grammar

    def begin(self) -> Way:
        """The way of a new answer."""
        from llguidance import LLMatcher

        return Way(LLMatcher(self._vocabulary, self._grammar, log_level=0), self._vocabulary.vocab_size)


def json_guide(wanted: JsonDecoding, *, tokenizer: PreTrainedTokenizerBase, format: PromptFormat, words: int) -> JsonGuide:
    """What keeps answers inside the schema, written as training writes them: after a gap in plain style, with the same separators.

    Args:
        words: of the model's vocabulary; the tokenizer may have fewer.

    Raises:
        GuideMissing: llguidance is not installed.
        UnsupportedSchema: names the keyword.
        UnsupportedTokenizer: it has no `tokenizer.json`.
    """
    try:
        from llguidance import LLMatcher
    except ModuleNotFoundError as error:
        raise GuideMissing(
            "evaluation.decoding: json_schema needs the package llguidance, which is not installed where the model runs; "
            "pip install 'fine_tune_pipeline[json]'"
        ) from error
    vocabulary = _vocabulary(tokenizer, format=format, words=words)
    grammar = LLMatcher.grammar_from_lark(_grammar(wanted, format=format))
    problem = LLMatcher.validate_grammar(grammar, vocabulary)
    if problem and not problem.startswith("WARNING"):
        said = next((line for line in problem.splitlines() if line.strip()), problem)
        raise UnsupportedSchema(
            f"evaluation.decoding: json_schema cannot keep this schema while an answer is written: {said}; "
            "take the keyword out of the schema, or write `decoding: greedy`",
            said=said,
        )
    return JsonGuide(vocabulary, grammar)


def _grammar(wanted: JsonDecoding, *, format: PromptFormat) -> str:
    between = wanted.separators
    how: dict[str, Any] = {"whitespace_flexible": True, "whitespace_pattern": WHITE_SPACE}
    if between is not None:
        how = {"whitespace_flexible": False, "item_separator": between[0], "key_separator": between[1]}
    begin = '" " ' if format.style == "plain" else ""
    return f"start: {begin}answer\nanswer: %json {json.dumps({**wanted.answer_schema, 'x-guidance': how})}\n"


def _vocabulary(tokenizer: PreTrainedTokenizerBase, *, format: PromptFormat, words: int) -> "LLTokenizer":
    from llguidance.hf import from_tokenizer

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedTokenizer(
            f"{tokenizer.name_or_path}: evaluation.decoding: json_schema reads tokenizer.json, which this tokenizer does not have; "
            "write `decoding: greedy`, or convert the tokenizer"
        )
    ends = sorted({end_id(tokenizer=tokenizer, format=format), tokenizer.eos_token_id} - {None})
    known = _VOCABULARIES.setdefault(tokenizer, {})
    key = (words, *ends)
    if key not in known:
        known[key] = from_tokenizer(tokenizer, n_vocab=max(words, len(tokenizer)), eos_token=ends)
    return known[key]
