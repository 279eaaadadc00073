"""Quarantined rows as the data card may show them: the rows left before personal data was taken out of the others."""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.scrubbing.residue import CHECKABLE, residue
from fine_tune_pipeline.guide.dataset.steps import Shown, Step
from fine_tune_pipeline.programs.pii.personal_data import StandIn, known, merged, repeated, replaced
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline.spec.dataset import PiiSpec

if TYPE_CHECKING:
    from fine_tune_pipeline.guide.dataset.scrubbing.scrub import Detect

SHOWN_CHARACTERS = 160

_CUT_WORD = re.compile(r"[^\s'\"]+…")
"""Where a reason quotes the beginning of a text: half an address is none to a detector, and still somebody's."""

WITHHELD = "(withheld: personal data may be left in it)"


def disclosed(
    steps: Sequence[Step], *, pii: PiiSpec, stand_ins: StandIns, ner: Path | None = None, detect: "Detect | None" = None
) -> list[Step]:
    """The steps with nothing in their examples that the data card must not show.

    Args:
        ner: folder of an adapted NER, if the use case has one.
        detect: finds personal data; that of the use case by default, which is loaded only if there is something to look at.
    """
    if not any(step.examples for step in steps):
        return list(steps)
    if detect is None:
        from fine_tune_pipeline.programs.pii.scrubbing import detector

        detect = detector(pii, ner=ner)
    given = stand_ins.fresh()
    return [replace(step, examples=disclosable(step.examples, detect=detect, stand_in=given, issued=given.issued)) for step in steps]


def disclosable(rows: Sequence[Shown], *, detect: "Detect", stand_in: StandIn, issued: Collection[str] = ()) -> list[Shown]:
    """The rows without personal data; a text in which a second look, with other means, finds some is withheld.

    Args:
        issued: pseudonyms, which the second look must not take for somebody's. It is read after they were given out.
    """
    clean = [_scrubbed(row, detect=detect, stand_in=stand_in) for row in rows]
    left = residue([Example(str(place), row["text"], row["detail"]) for place, row in enumerate(clean)], CHECKABLE, known=issued)
    return [_withheld(row) if str(place) in left.ids else row for place, row in enumerate(clean)]


def shortened(text: str) -> str:
    """A text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…"


def _scrubbed(row: Shown, *, detect: "Detect", stand_in: StandIn) -> Shown:
    texts = {"detail": _CUT_WORD.sub("…", row["detail"]), "text": row["text"]}
    spans = dict(zip(texts, detect(list(texts.values())), strict=True))
    values = {value: entity for name, text in texts.items() for value, entity in known(spans[name], text).items()}
    full = {name: merged([*spans[name], *repeated(values, text, besides=spans[name])], text) for name, text in texts.items()}
    # By patterns alone: a model takes many an id for a name.
    id_ = replaced(row["id"], detect.patterns(row["id"]), stand_in)
    return {**row, "id": id_, **{name: shortened(replaced(text, full[name], stand_in)) for name, text in texts.items()}}


def _withheld(row: Shown) -> Shown:
    return {**row, "detail": WITHHELD, "text": WITHHELD}
