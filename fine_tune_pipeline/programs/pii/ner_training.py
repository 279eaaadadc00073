"""Trains the packaged NER further on texts with known names: gently, and without forgetting what it knew."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.training.batchers import minibatch_by_words
from spacy.util import filter_spans
from thinc.api import Adam, fix_random_seed

from fine_tune_pipeline.programs.pii.ner_requests import NerRound
from fine_tune_pipeline.programs.pii.ner_texts.texts import Named, NamedText
from fine_tune_pipeline.programs.pii.ner_weights import Weights, between, put, weights

OWN_LABELS = frozenset({"PERSON", "GPE", "LOC", "FAC", "ORG"})
"""What our own templates say everything about: of these labels nothing else is in a text."""

LEARNING_RATE = 5e-4
DROPOUT = 0.2
BATCH_WORDS = 700
"""Words in a batch."""


@dataclass(frozen=True)
class Taught:
    """A text to learn from. `judged`: labels of which all names are known; of others the packaged model is believed."""

    text: NamedText
    judged: frozenset[str] = OWN_LABELS


def examples(nlp: Language, taught: Sequence[Taught]) -> list[Example]:
    """What the NER is to say of each text: the known names, and what it says itself where nothing is known."""
    docs = nlp.pipe([one.text.text for one in taught], batch_size=256, disable=[name for name in nlp.pipe_names if name != "ner"])
    return [_example(nlp, one, doc) for one, doc in zip(taught, docs, strict=True)]


def _example(nlp: Language, one: Taught, seen: Doc) -> Example:
    doc = nlp.make_doc(one.text.text)
    known, unclear = [], list[Span]()
    for name in [*one.text.names, *_believed(seen, one)]:
        span = doc.char_span(name.start, name.end, label=name.label)
        if span is not None:
            known.append(span)
        elif (wider := doc.char_span(name.start, name.end, alignment_mode="expand")) is not None:
            # It begins or ends inside a word: nothing is said of that word.
            unclear.append(wider)
    doc.set_ents(filter_spans(known), missing=_beside(unclear, known), default="outside")
    return Example(nlp.make_doc(one.text.text), doc)


def _beside(spans: Iterable[Span], known: Iterable[Span]) -> list[Span]:
    """Those that share no word with one of the known or with each other."""
    taken = {token.i for span in known for token in span}
    return [span for span in filter_spans(spans) if taken.isdisjoint(range(span.start, span.end))]


def _believed(seen: Doc, one: Taught) -> Iterator[Named]:
    for found in seen.ents:
        free = all(found.end_char <= name.start or name.end <= found.start_char for name in one.text.names)
        unsaid = found.label_ not in one.judged or any(start <= found.start_char and found.end_char <= end for start, end in one.text.open)
        if unsaid and free:
            yield Named(found.start_char, found.end_char, found.label_)


def learn(
    nlp: Language,
    train: Sequence[Example],
    *,
    rounds: int,
    seed: int,
    share: float,
    learning_rate: float = LEARNING_RATE,
    told: Callable[[NerRound], None] = lambda one: None,
) -> tuple[Weights, list[NerRound]]:
    """Train the NER of `nlp` and give it the weights that lie `share` of the way from the old to the averaged new ones."""
    base = weights(nlp)
    fix_random_seed(seed)
    draw = random.Random(seed)
    # No decay towards zero: these weights are where they should be.
    optimizer = Adam(learning_rate, L2=0.0, grad_clip=1.0, use_averages=True)
    pipe, order, curve, done = nlp.get_pipe("ner"), list(train), list[NerRound](), 0
    steps = rounds * sum(1 for _ in _batches(order))
    for number in range(1, rounds + 1):
        draw.shuffle(order)
        losses: dict[str, float] = {}
        for batch in _batches(order):
            optimizer.learn_rate = learning_rate * max(0.02, 1 - done / max(1, steps))
            pipe.update(batch, drop=DROPOUT, sgd=optimizer, losses=losses)
            done += 1
        words = sum(len(example.predicted) for example in order)
        curve.append(NerRound(round=number, loss=round(float(losses["ner"]) / max(1, words), 4), words=words))
        told(curve[-1])
    with pipe.model.use_params(optimizer.averages):
        averaged = weights(nlp)
    new = between(base, averaged, share)
    put(nlp, new)
    return new, curve


def _batches(order: Iterable[Example]) -> Iterator[list[Example]]:
    return iter(minibatch_by_words(order, size=BATCH_WORDS))
