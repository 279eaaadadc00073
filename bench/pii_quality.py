"""How well the detector of personal data finds what people marked, and how often it sees a name where there is none.

    python bench/pii_quality.py --data <folder> [--rows 500] [--adapted] [--reviewed 200]

The folder holds JSON Lines with `id`, `text` and `spans` (`start`, `end`, `canonical`: Presidio's name of the entity): `pii_dev.jsonl`
(presidio-research), `ner_real/dev.jsonl` (wiki, tweets, SEC filings), `earnings21/dev.jsonl` (calls), and `banking77/*.csv` (messages
without a name). What is absent is skipped. Half of each set, by template or document, is for tuning the rules (`tuned`), the other is not
looked at (`held back`). With `--adapted` the NER is trained further first, as the asset `pii_ner_adapt` does it, on own templates alone;
with `--reviewed` also on so many rows of the other half of each set, as a user's reviewed findings: then only the half that is held back is
judged, for each set by an NER of its own. The last line is JSON.
"""

import argparse
import csv
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NAMES = ("PERSON", "LOCATION", "ORGANIZATION")
EVERYTHING = (
    *NAMES, "AGE", "CREDIT_CARD", "DATE_TIME", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "NRP", "PHONE_NUMBER", "TITLE", "URL", "US_SSN",
    "ZIP_CODE",
)  # fmt: skip
_DOCUMENT_ROWS = 100
"""Neighbouring rows of a corpus without document marks that fall on the same side."""


@dataclass(frozen=True)
class Set:
    """Rows to find `entities` in; `group` names what must not be on both sides."""

    name: str
    path: str
    entities: tuple[str, ...]
    group: Callable[[dict[str, Any]], str]


def _neighbours(row: dict[str, Any]) -> str:
    stem, _, number = row["id"].rpartition("-")
    return f"{stem}-{int(number) // _DOCUMENT_ROWS}"


SETS = (
    Set("presidio-research", "pii_dev.jsonl", EVERYTHING, lambda row: row["template"]),
    Set("wiki, tweets, SEC", "ner_real/dev.jsonl", NAMES, _neighbours),
    Set("earnings calls", "earnings21/dev.jsonl", NAMES, lambda row: row["id"].rsplit("-", 1)[0]),
)
NAMELESS = "banking77"


@dataclass(frozen=True)
class Measured:
    """Of one half of one set. Spans: presidio-evaluator's F2 where at least 0.9 of the characters agree."""

    set: str
    half: str
    rows: int
    precision: float
    recall: float
    characters_f2: float
    spans_f2: float
    cpu_seconds: float


def half(group: str) -> str:
    """Which side a template or document is on; by a hash, so that it stays there."""
    return "tuned" if hashlib.sha256(group.encode()).digest()[0] % 2 == 0 else "held back"


Detect = Callable[[Sequence[str]], list[list[Any]]]


def measured(one: Set, rows: Sequence[dict[str, Any]], detect: Detect, tokens: Callable[[str], Any]) -> list[Measured]:
    """Both halves of a set, and all of it."""
    sides = {side: [row for row in rows if half(one.group(row)) == side] for side in ("tuned", "held back")}
    scored = {side: _scored(one, mine, detect, tokens) for side, mine in sides.items()}
    everything = tuple(left + right for left, right in zip(*scored.values(), strict=True))
    return [_measured(one, side, len(sides.get(side, rows)), score) for side, score in {**scored, "all": everything}.items()]


def _scored(one: Set, rows: Sequence[dict[str, Any]], detect: Detect, tokens: Callable[[str], Any]) -> tuple[Any, Any, float]:
    """By characters, by spans, CPU seconds."""
    from fine_tune_pipeline.programs.pii.detection_scores import NOTHING, Range, by_characters, by_spans

    began = time.process_time()
    found = detect([row["text"] for row in rows])
    cpu_seconds = time.process_time() - began
    characters, spans = NOTHING, NOTHING
    for row, seen in zip(rows, found, strict=True):
        there = [Range(span["start"], span["end"]) for span in row["spans"] if span["canonical"] in one.entities]
        ranges = [Range(span.start, span.end) for span in seen]
        characters += by_characters(ranges, there)
        spans += by_spans(ranges, there, tokens(row["text"]))
    return characters, spans, cpu_seconds


def _measured(one: Set, side: str, rows: int, scored: Sequence[Any]) -> Measured:
    characters, spans, cpu_seconds = scored
    figures = (round(number, 3) for number in (characters.precision, characters.recall, characters.f2, spans.f2))
    return Measured(one.name, side, rows, *figures, cpu_seconds=round(cpu_seconds, 1))


def false_names(texts: Sequence[str], detect: Detect) -> float:
    """Share of texts without any name in which one is found."""
    return sum(any(span.entity in NAMES for span in spans) for spans in detect(texts)) / len(texts)


def adapted(reviewed: Sequence[dict[str, Any]] = (), *, entities: Sequence[str] = NAMES) -> Path:
    """Folder of an NER that was trained further with the defaults; `reviewed` are rows of a set, as people might have marked them."""
    from fine_tune_pipeline.artifacts.examples import write_rows
    from fine_tune_pipeline.programs.adapt_ner import run
    from fine_tune_pipeline.programs.pii.ner_requests import AdaptNerRequest
    from fine_tune_pipeline.programs.reporting import Reporter
    from fine_tune_pipeline.spec.pii_adapt import AdaptSpec

    folder = Path(tempfile.mkdtemp(prefix="pii_quality-"))
    path = folder / "reviewed.jsonl"
    write_rows(path, [_as_reviewed(row, entities) for row in reviewed])
    numbers = AdaptSpec().model_dump(exclude={"reviewed"})
    done = run(AdaptNerRequest(output=str(folder), reviewed=str(path) if reviewed else None, **numbers), Reporter(None))
    print(f"adapted on {done.learnt_from} in {done.cpu_seconds:.0f} CPU s: {done.ner}")
    return Path(done.ner)


def _as_reviewed(row: dict[str, Any], entities: Sequence[str]) -> dict[str, Any]:
    findings = [[span["start"], span["end"], span["canonical"]] for span in row["spans"] if span["canonical"] in entities]
    return {"text": row["text"], "findings": sorted(findings), "document": row["id"], "looked_for": list(entities)}


def drawn(one: Set, rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many rows of the half that is not held back, evenly."""
    there = [row for row in rows if half(one.group(row)) == "tuned"]
    return there[:: max(1, len(there) // count)][:count]


def tokenizer() -> Callable[[str], Any]:
    import spacy

    from fine_tune_pipeline.programs.pii.detection_scores import Token

    blank = spacy.blank("en")
    return lambda text: [Token(token.text, token.idx) for token in blank.make_doc(text)]


def _rows(path: Path, limit: int | None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return rows if limit is None else rows[:: max(1, len(rows) // limit)]


def _nameless(folder: Path, limit: int | None) -> list[str]:
    texts = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            texts += [row["text"] for row in csv.DictReader(file)]
    return texts if limit is None else texts[:: max(1, len(texts) // limit)]


def _table(rows: Iterable[Measured]) -> str:
    lines = [f"{'set':20} {'half':10} {'rows':>6} {'P':>6} {'R':>6} {'F2':>6} {'F2, IoU 0.9':>12} {'CPU s':>7}"]
    lines += [
        f"{row.set:20} {row.half:10} {row.rows:6} {row.precision:6.3f} {row.recall:6.3f} {row.characters_f2:6.3f} {row.spans_f2:12.3f} "
        f"{row.cpu_seconds:7.1f}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("FINE_TUNE_PIPELINE_PII_DATA"))
    parser.add_argument("--rows", type=int, default=None, help="of each set, evenly drawn; all by default")
    parser.add_argument("--adapted", action="store_true", help="train the NER further first")
    parser.add_argument("--reviewed", type=int, default=0, metavar="ROWS", help="and also on rows of the other half of each set")
    given = parser.parse_args()
    if given.data is None:
        print("pii_quality: skipped, no labelled texts here; --data or FINE_TUNE_PIPELINE_PII_DATA names their folder")
        return
    from fine_tune_pipeline.programs.pii.scrubbing import detector
    from fine_tune_pipeline.spec.dataset import PiiSpec

    ner = adapted() if given.adapted and not given.reviewed else None
    tokens, result = tokenizer(), []
    for one in SETS:
        if (given.data / one.path).is_file():
            rows = _rows(given.data / one.path, given.rows)
            own = adapted(drawn(one, rows, given.reviewed)) if given.reviewed else ner
            judged = [row for row in rows if half(one.group(row)) == "held back"] if given.reviewed else rows
            detect = detector(PiiSpec(entities=list(one.entities)), ner=own)
            result += [row for row in measured(one, judged, detect, tokens) if not given.reviewed or row.half == "held back"]
    print(_table(result))
    texts = _nameless(given.data / NAMELESS, given.rows) if not given.reviewed else []
    share = false_names(texts, detector(PiiSpec(entities=list(NAMES)), ner=ner)) if texts else None
    print(f"false names: {share:.1%} of {len(texts)} messages" if share is not None else "false names: not asked, or no messages here")
    print(json.dumps({"measured": [asdict(row) for row in result], "false_names": share}))


if __name__ == "__main__":
    main()
