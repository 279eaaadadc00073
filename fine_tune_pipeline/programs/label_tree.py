"""A closed list of answers as a tree of tokens: what several answers begin with stands there once. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SameAnswers(ValueError):
    """Two labels are the same tokens, so no model could tell them apart."""


@dataclass(frozen=True)
class LabelTree:
    """Node 0 is the prompt's last token; each other node is a token that is followed by more. End tokens are edges without a node.

    `parents` and `tokens` are by node from node 1 on. An edge is a node and a token that can follow it; `paths` are each label's edges.
    """

    labels: tuple[str, ...]
    parents: tuple[int, ...]
    tokens: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]

    @property
    def nodes(self) -> int:
        """Tokens that a model has to read beyond the prompt."""
        return len(self.tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest label, end token included."""
        return max(map(len, self.paths))

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """How far below the prompt's last token each node from node 1 on stands; 1 is the first token of an answer."""
        found = [0]
        for parent in self.parents:
            found.append(found[parent] + 1)
        return tuple(found[1:])

    def above(self, node: int) -> list[int]:
        """The node itself and the nodes over it, without node 0."""
        found = []
        while node:
            found.append(node)
            node = self.parents[node - 1]
        return found


def label_tree(labels: Sequence[str], *, tokenizer: "PreTrainedTokenizerBase", format: PromptFormat) -> LabelTree:
    """The tree of the labels' tokens, each as training writes it after a prompt, with its end token.

    Raises:
        SameAnswers: two labels have the same tokens.
    """
    parents: list[int] = []
    tokens: list[int] = []
    below: dict[tuple[int, int], int] = {}
    edges: dict[tuple[int, int], int] = {}
    paths: dict[tuple[int, ...], str] = {}
    for label in labels:
        ids = encode("", label, tokenizer=tokenizer, format=format).completion_ids
        node, path = 0, []
        for place, token in enumerate(ids):
            edge = (node, token)
            path.append(edges.setdefault(edge, len(edges)))
            if place == len(ids) - 1:
                break
            if edge not in below:
                parents.append(node)
                tokens.append(token)
                below[edge] = len(tokens)
            node = below[edge]
        if tuple(path) in paths:
            raise SameAnswers(f"labels {paths[tuple(path)]!r} and {label!r} are the same tokens; name each answer once")
        paths[tuple(path)] = label
    return LabelTree(tuple(labels), tuple(parents), tuple(tokens), tuple(edges), tuple(paths))
