"""The steps of spaCy's entity recogniser over whole batches of tokens, and which of its entities the start of a sentence could change.

spaCy asks for the lock of the interpreter 36 times a token while it looks which steps are valid (a check for errors after each look at a
token's lexeme), which takes longer than the network. Between entities a step depends on its token alone, so all are taken at once here.

Shapes: N tokens, F features of a step, H hidden units, P pieces of each, C classes of steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.pipeline import EntityRecognizer
from spacy.tokens import Doc

Floats = NDArray[np.float32]
Wanted = Callable[[str], bool]

_FEATURES = 3
"""The token, the first of the open entity, and the one before; those of a recogniser without `extra_state_tokens`."""


class Entity(NamedTuple):
    """Tokens from `start` up to `end`."""

    start: int
    end: int
    label: str


class _Move(NamedTuple):
    kind: str
    label: str


class EntitySteps:
    """Of one recogniser."""

    def __init__(self, ner: EntityRecognizer) -> None:
        self._tok2vec, self._lower, self._upper = ner.model.layers
        self._moves = [_Move(kind, label) for kind, _, label in (name.partition("-") for name in _move_names(ner))]
        self._at = {move: place for place, move in enumerate(self._moves)}
        kinds = [move.kind for move in self._moves]
        self._inside = np.array([kind in "IL" or (kind == "U" and not label) for kind, label in self._moves])
        self._begins = np.array([kind == "B" for kind in kinds])
        self._units = np.array([kind == "U" for kind in kinds])

    @classmethod
    def of(cls, ner: Any) -> "EntitySteps | None":
        """None if the recogniser takes other steps than those that are known here."""
        if type(ner) is not EntityRecognizer or ner.cfg["beam_width"] != 1 or ner.postprocesses:
            return None
        model = ner.model
        known = model.name == "parser_model" and model.attrs["has_upper"] and not model.attrs["unseen_classes"]
        if not known or model.layers[1].get_dim("nF") != _FEATURES or model.layers[1].get_dim("nP") < 2:
            return None
        return cls(ner) if len(_move_names(ner)) == model.layers[-1].get_dim("nO") else None

    def __call__(self, docs: Sequence[Doc]) -> Iterator["Steps"]:
        """What each doc's tokens say. The docs hold no entities yet, and one of them at least holds tokens."""
        # (N, F, H, P) behind one row of padding.
        cached = self._lower.predict(self._tok2vec.predict(docs))
        padding, tokens = cached[0], cached[1:]
        # Added up in spaCy's order.
        scores = self.scores(tokens[:, 0] + padding[1] + padding[2])
        scores[:, self._inside] = -np.inf
        lexemes = np.array([token.is_space for doc in docs for token in doc])
        last = np.zeros(len(lexemes), bool)
        last[np.cumsum([len(doc) for doc in docs if len(doc)]) - 1] = True
        scores[np.ix_(lexemes, self._units)] = -np.inf
        scores[np.ix_(lexemes | last, self._begins)] = -np.inf
        free = scores.argmax(axis=1)
        scores[:, self._begins] = -np.inf
        barred = scores.argmax(axis=1)
        done = 0
        for doc in docs:
            end = done + len(doc)
            yield Steps(self, doc, free[done:end], barred[done:end], tokens[done:end])
            done = end

    def scores(self, added: Floats) -> Floats:
        """Scores (…, C) of features that are added up already (…, H, P)."""
        hidden = (added + self._lower.get_param("b")).max(axis=-1)
        return hidden @ self._upper.get_param("W").T + self._upper.get_param("b")

    def move(self, place: int) -> _Move:
        return self._moves[place]

    def goes_on(self, scores: Floats, label: str) -> bool:
        """Whether an open entity takes this token in and stays open, where it may."""
        inside, last = self._at[_Move("I", label)], self._at[_Move("L", label)]
        # Of equal scores spaCy takes the first.
        return bool(scores[inside] > scores[last] or (scores[inside] == scores[last] and inside < last))

    @property
    def outside(self) -> int:
        return self._at[_Move("O", "")]


@dataclass(frozen=True)
class Steps:
    """Of one doc: `free` (N) is the step of each token between entities, `barred` (N) that before the start of a sentence.

    `tokens` (N, F, H, P) is what each token adds to the hidden units as each of the features.
    """

    of: EntitySteps
    doc: Doc
    free: NDArray[Any]
    barred: NDArray[Any]
    tokens: Floats

    def entities(self, starts: frozenset[int] = frozenset()) -> list[Entity]:
        """The entities, if sentences begin at these tokens: none goes over the start of a sentence."""
        found: list[Entity] = []
        for place in self._somewhere:
            if found and place < found[-1].end:
                continue
            if (entity := self._from(place, starts)) is not None:
                found.append(entity)
        return found

    def may_change(self, found: Sequence[Entity], wanted: Wanted) -> bool:
        """Whether there are starts of sentences with which other wanted entities would be found than these, which are found without any.

        Only a start inside of an entity counts, since between entities nothing is remembered. It ends the entity before it, and from
        there on other entities may follow, until a token at which both ways are between entities.
        """
        todo = set[int]()
        for entity in found:
            if entity.end - entity.start > 1:
                if wanted(entity.label) or self._is_wanted_unit(entity.start, wanted):
                    return True
                todo.update(range(entity.start + 1, entity.end))
        inside, starts = frozenset(todo), [entity.start for entity in found if wanted(entity.label)]
        seen = set[int]()
        while todo:
            place = todo.pop()
            seen.add(place)
            other = self._from(place, frozenset())
            end = place + 1 if other is None else other.end
            if other is not None and (wanted(other.label) or any(place < start < end for start in starts)):
                return True
            if end > place + 1 and self._is_wanted_unit(place, wanted):
                return True
            todo.update(after for after in range(place + 1, end + 1) if after in inside and after not in seen)
        return False

    @property
    def _somewhere(self) -> list[int]:
        """Tokens with which an entity may begin."""
        places: list[int] = np.flatnonzero(self.free != self.of.outside).tolist()
        return places

    def _is_wanted_unit(self, place: int, wanted: Wanted) -> bool:
        """Whether the token would be a wanted entity by itself if the next began a sentence."""
        move = self.of.move(self.barred[place])
        return move.kind == "U" and wanted(move.label)

    def _from(self, place: int, starts: frozenset[int]) -> Entity | None:
        """The entity that begins here."""
        move = self.of.move((self.barred if place + 1 in starts else self.free)[place])
        if move.kind == "O":
            return None
        end = place + 1
        if move.kind == "B":
            while end + 1 < len(self.doc) and end + 1 not in starts and self._goes_on(place, end, move.label):
                end += 1
            end += 1
        return Entity(place, end, move.label)

    def _goes_on(self, start: int, place: int, label: str) -> bool:
        added = self.tokens[place, 0] + self.tokens[start, 1] + self.tokens[place - 1, 2]
        return self.of.goes_on(self.of.scores(added), label)


def _move_names(ner: EntityRecognizer) -> list[str]:
    """All of them; `move_names` leaves out the one that blocks a token."""
    return [ner.moves.get_class_name(place) for place in range(ner.moves.n_moves)]
