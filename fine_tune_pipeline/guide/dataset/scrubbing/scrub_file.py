"""Step 3's removal of personal data alone, for any JSONL file: `fine-tune-pipeline scrub`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.guide.dataset.scrubbing.scrub import Detect
from fine_tune_pipeline.programs.pii.personal_data import Span, StandIn, known, merged, repeated, replaced
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline.programs.pii.vault import sealed
from fine_tune_pipeline.spec.dataset import PiiSpec

_BATCH = 64

Place = tuple[str | int, ...]
"""Keys and positions that lead to a value, such as `("messages", 0, "content")`."""


class SameFile(ValueError):
    """Input, output and findings must be different files."""


class NothingToSeal(ValueError):
    """A vault holds what stand-ins stand for, and the operator makes none."""


@dataclass(frozen=True)
class ScrubbedFile:
    """What was done to a file: rows, rows with a finding, and replacements by entity."""

    rows: int
    changed: int
    found: dict[str, int]


def scrub_file(
    in_jsonl: Path,
    out_jsonl: Path,
    findings: Path | None = None,
    *,
    vault: Path | None = None,
    pii: PiiSpec | None = None,
    key: str = "",
    ner: Path | None = None,
    detect: Detect | None = None,
) -> ScrubbedFile:
    """Replace personal data in every text of every row; keys, numbers and the order of rows stay.

    `findings` gets a row per replacement: the row's id (its number, from 1, where it has none or the id is personal data itself), path
    (such as `messages.0.content`), start and end (characters of the old text), entity, score; never the text. `vault` gets what
    stands for what, sealed: with it and the key, `unscrub_file` puts the values back.

    Args:
        pii: entities, score and operators; those of a use case without `dataset.pii` by default.
        key: for the operators hash and pseudonym.
        ner: folder of an adapted NER, as the asset `pii_ner_adapt` writes it, instead of the packaged one.
        detect: finds personal data; Presidio with the NER by default.

    Raises:
        BrokenLine: a line is not a JSON object; nothing is written then.
        SameFile: two of the files are the same.
        NothingToSeal: a vault is wanted, and the operator is none that a vault could undo.
        NoKey: the operator needs a key, and this is none.
        BadNerFolder: `ner` is no such folder.
    """
    paths = [path.resolve() for path in (in_jsonl, out_jsonl, findings, vault) if path is not None]
    if len(set(paths)) < len(paths):
        raise SameFile(f"{in_jsonl}, {out_jsonl}, findings and vault must be different files: the input must not be overwritten")
    stand_in = StandIns(pii or PiiSpec(), key=key)
    if vault is not None and stand_in.key_id is None:
        raise NothingToSeal(f"vault: operator {stand_in.pii.operator} cannot be undone; want hash or pseudonym")
    rows = read_rows(in_jsonl)
    if detect is None:
        from fine_tune_pipeline.programs.pii.scrubbing import detector

        detect = detector(stand_in.pii, ner=ner)
    written, said, changed = [], [], 0
    for start in tqdm(range(0, len(rows), _BATCH), desc="scrub", unit=f"x{_BATCH} rows", disable=None):
        batch = rows[start : start + _BATCH]
        for number, (row, spans) in enumerate(zip(batch, _spans(batch, detect, stand_in.pii.allow), strict=True), start=start + 1):
            written.append(_replaced(row, spans, stand_in))
            changed += bool(spans)
            # An id that holds personal data would carry it into the findings.
            id_ = number if ("id",) in spans else row.get("id", number)
            said += [_finding(id_, place, span) for place, found in spans.items() for span in found]
    write_rows(out_jsonl, written)
    if findings is not None:
        write_rows(findings, said)
    if vault is not None:
        write_rows(vault, sealed(stand_in.given, key=key))
    return ScrubbedFile(rows=len(rows), changed=changed, found=dict(sorted(Counter(finding["entity"] for finding in said).items())))


def _spans(rows: Sequence[Mapping[str, Any]], detect: Detect, allow: Sequence[str]) -> list[dict[Place, list[Span]]]:
    """Per row the places that hold personal data, and where in them; a value found in one place is also looked for in the row's others."""
    texts = [dict(texts_of(row)) for row in rows]
    once = list(dict.fromkeys(text for places in texts for text in places.values()))
    found = dict(zip(once, detect(once), strict=True)) if once else {}
    result = []
    for places in texts:
        values = {value: entity for text in places.values() for value, entity in known(found[text], text, allow=allow).items()}
        full = {place: merged([*found[text], *repeated(values, text, besides=found[text])], text) for place, text in places.items()}
        result.append({place: spans for place, spans in full.items() if spans})
    return result


def texts_of(value: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Every text in a row, and where it stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_of(item, (*place, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from texts_of(item, (*place, number))


def _replaced(value: Any, spans: Mapping[Place, list[Span]], stand_in: StandIn, place: Place = ()) -> Any:
    if isinstance(value, str):
        return replaced(value, spans.get(place, []), stand_in)
    if isinstance(value, Mapping):
        return {key: _replaced(item, spans, stand_in, (*place, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, spans, stand_in, (*place, number)) for number, item in enumerate(value)]
    return value


def _finding(id_: Any, place: Place, span: Span) -> dict[str, Any]:
    path = ".".join(map(str, place))
    return {"id": id_, "path": path, "start": span.start, "end": span.end, "entity": span.entity, "score": round(span.score, 2)}
