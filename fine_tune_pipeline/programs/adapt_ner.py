"""Trains the packaged NER further: on texts made of our own templates, and on texts in which people marked personal data."""

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from threadpoolctl import threadpool_limits

from fine_tune_pipeline.programs.pii import ner_weights
from fine_tune_pipeline.programs.pii.detection_scores import NOTHING, Range, by_characters
from fine_tune_pipeline.programs.pii.ner_requests import AdaptNerRequest, AdaptNerResult, NerRound, NerScore
from fine_tune_pipeline.programs.pii.ner_texts.texts import HELD_BACK_TEMPLATES, Named, NamedText, made
from fine_tune_pipeline.programs.pii.ner_training import Taught, examples, learn
from fine_tune_pipeline.programs.pii.ner_weights import AboutNer, Weights
from fine_tune_pipeline.programs.pii.scrubbing import NER, NER_SHA256, Detector, detector, packaged_ner
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.rows import read_rows
from fine_tune_pipeline.spec.dataset import PiiSpec

FOLDER = "ner"
LICENCE = "MIT"
ATTRIBUTION = (
    f"Weights of {NER}, an English pipeline of spaCy by Explosion (MIT; trained on OntoNotes 5), trained further on texts made of "
    "templates of this project with values of Faker (MIT), and on texts that the user of this project reviewed."
)

SHARE = 0.5
"""How far the weights go from the packaged to the trained ones: all the way, more is forgotten."""

SHARE_WITH_REVIEWED = 0.75
"""The same where people reviewed texts: these are like those that will be scrubbed."""

MOST_TIMES = 10
"""A reviewed text is learnt from at most so often in a round: there are few of them, and they are the user's own."""

REVIEWED_SHARE = 0.25
"""They are repeated until there are so many of them beside those made of templates."""

MODEL_LABELS = {
    "PERSON": ("PERSON",), "LOCATION": ("GPE", "LOC", "FAC"), "ORGANIZATION": ("ORG",), "NRP": ("NORP",), "DATE_TIME": ("DATE", "TIME"),
}  # fmt: skip
"""Entity -> labels of the NER; what a reviewer calls LOCATION is learnt as the first of them."""

NAMES = ("LOCATION", "ORGANIZATION", "PERSON")
_ENTITIES = {label: entity for entity, labels in MODEL_LABELS.items() for label in labels}


@dataclass(frozen=True)
class Judged:
    """Held-back texts of one kind, and the entities that all are marked in them."""

    kind: Literal["templates", "reviewed"]
    texts: Sequence[NamedText]
    entities: tuple[str, ...]


def run(request: AdaptNerRequest, reporter: Reporter) -> AdaptNerResult:
    """Train, compare with the packaged NER on what was held back, and write `<output>/ner`."""
    began, cpu_began = time.monotonic(), time.process_time()
    reviewed = [] if request.reviewed is None else read_rows(request.reviewed, text_fields=("text",))
    own = [row for row in reviewed if not _held_back(row)]
    weights, curve = _learnt(own, request, reporter)
    learnt_from = {"templates": request.texts, "reviewed": len(own)}
    about = AboutNer(
        base=f"{NER} {version(NER)}",
        base_sha256=NER_SHA256,
        weights_sha256="",
        licence=LICENCE,
        attribution=ATTRIBUTION,
        made_of=learnt_from,
    )
    folder = Path(request.output) / FOLDER
    written = ner_weights.write(folder, weights, about)
    sets = _held_back_sets([row for row in reviewed if _held_back(row)], request)
    return AdaptNerResult(
        ner=str(folder), ner_sha256=written.weights_sha256, curve=tuple(curve), scores=tuple(_scores(sets, folder)),
        learnt_from=learnt_from, seconds=round(time.monotonic() - began, 1), cpu_seconds=round(time.process_time() - cpu_began, 1),
    )  # fmt: skip


def _learnt(reviewed: Sequence[Mapping[str, Any]], request: AdaptNerRequest, reporter: Reporter) -> tuple[Weights, list[NerRound]]:
    """New weights, and how the loss fell."""
    nlp = packaged_ner()
    taught = [Taught(text) for text in made("train", request.texts, seed=request.seed)]
    train = examples(nlp, taught + [_taught(row) for row in reviewed] * _times(len(reviewed), request.texts))

    def told(one: NerRound) -> None:
        reporter.progress(one.round, request.rounds, "adapt", loss=one.loss)

    # One thread: sums in another order would be other weights on another number of cores. The matrices are small.
    share = SHARE_WITH_REVIEWED if reviewed else SHARE
    with threadpool_limits(limits=1):
        learnt, curve = learn(nlp, train, rounds=request.rounds, seed=request.seed, share=share, told=told)
    return ner_weights.leaning(nlp, learnt, request.lean), curve


def _times(reviewed: int, texts: int) -> int:
    """How often each reviewed text is learnt from in a round."""
    return max(1, min(MOST_TIMES, int(REVIEWED_SHARE * texts / reviewed))) if reviewed else 0


def _held_back(row: Mapping[str, Any]) -> bool:
    """Whether a reviewed text is for judging only; by a hash of its document, so that it stays so when others are added."""
    return hashlib.sha256(str(row["document"]).encode()).digest()[0] % HELD_BACK_TEMPLATES == 0


def _taught(row: Mapping[str, Any]) -> Taught:
    """A reviewed text: what people looked for is as they marked it, of other names the packaged NER is believed."""
    judged = frozenset(label for entity in row["looked_for"] for label in MODEL_LABELS.get(entity, ()))
    return Taught(NamedText(row["text"], _named(row["findings"])), judged)


def _named(findings: Iterable[Sequence[Any]]) -> tuple[Named, ...]:
    return tuple(Named(start, end, MODEL_LABELS[entity][0]) for start, end, entity in findings if entity in MODEL_LABELS)


def _held_back_sets(reviewed: Sequence[Mapping[str, Any]], request: AdaptNerRequest) -> list[Judged]:
    sets = [Judged("templates", made("held_back", request.held_back, seed=request.seed), NAMES)]
    if reviewed:
        entities = tuple(sorted({entity for row in reviewed for entity in row["looked_for"] if entity in MODEL_LABELS}))
        sets.append(Judged("reviewed", [NamedText(row["text"], _named(row["findings"])) for row in reviewed], entities))
    return sets


def _scores(sets: Iterable[Judged], folder: Path) -> Iterable[NerScore]:
    """Both models, with everything else that finds personal data around them: that is what a use case gets."""
    for one in sets:
        pii = PiiSpec(entities=list(one.entities))
        yield _score(one, detector(pii), "packaged")
        yield _score(one, detector(pii, ner=folder), "adapted")


def _score(one: Judged, detect: Detector, ner: Literal["packaged", "adapted"]) -> NerScore:
    score, nameless, wrong = NOTHING, 0, 0
    for text, spans in zip(one.texts, detect([text.text for text in one.texts]), strict=True):
        there = _ranges(text.names, one.entities)
        score += by_characters([Range(span.start, span.end) for span in spans], there)
        nameless += not there
        wrong += not there and bool(spans)
    return NerScore(
        kind=one.kind, ner=ner, texts=len(one.texts), characters=score.there, precision=round(score.precision, 4),
        recall=round(score.recall, 4), f2=round(score.f2, 4), false_names=round(wrong / nameless, 4) if nameless else 0.0,
    )  # fmt: skip


def _ranges(names: Iterable[Named], entities: Collection[str]) -> list[Range]:
    return [Range(name.start, name.end) for name in names if _ENTITIES[name.label] in entities]


def main() -> None:
    """Adapt as the request file says."""
    request = parse(AdaptNerRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
