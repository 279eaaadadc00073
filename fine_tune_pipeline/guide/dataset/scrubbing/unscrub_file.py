"""Puts back what was taken out, for those who hold the key: `fine-tune-pipeline unscrub`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.guide.dataset.scrubbing.scrub_file import SameFile
from fine_tune_pipeline.programs.pii.stand_ins import checked_key
from fine_tune_pipeline.programs.pii.vault import opened
from fine_tune_pipeline.programs.serving.nested import mapped, strings


@dataclass(frozen=True)
class Unscrubbed:
    """What was put back: rows of the file, values, and stand-ins left as they are since they stand for several values."""

    rows: int
    restored: int
    ambiguous: int


def unscrub_file(in_jsonl: Path, out_jsonl: Path, vault: Path, *, key: str) -> Unscrubbed:
    """Write the rows with every stand-in of the vault replaced by its value, if that is one.

    Raises:
        BrokenLine: a line is not a JSON object; nothing is written then.
        SameFile: two of the files are the same.
        NoKey: the key is too short to be one.
        WrongKey: the vault was sealed with another key.
    """
    if len({path.resolve() for path in (in_jsonl, out_jsonl, vault)}) < 3:
        raise SameFile(f"{in_jsonl}, {out_jsonl} and {vault} must be different files: the input must not be overwritten")
    values = opened(read_rows(vault), key=checked_key(key, "unscrub"))
    rows = read_rows(in_jsonl)
    put = _Put({stand_in: found[0] for stand_in, found in values.items() if len(found) == 1})
    several = _Put({stand_in: stand_in for stand_in, found in values.items() if len(found) > 1})
    restored = ambiguous = 0
    written = []
    for row in rows:
        new = {}
        for text in strings(row):
            new[text], count = put.back(text)
            restored += count
            ambiguous += several.back(text)[1]
        written.append(mapped(row, new))
    write_rows(out_jsonl, written)
    return Unscrubbed(rows=len(rows), restored=restored, ambiguous=ambiguous)


class _Put:
    """Replaces whole stand-ins, the longest first: `Mary Smith` before `Smith`."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        longest_first = sorted(values, key=len, reverse=True)
        self._pattern = re.compile("|".join(rf"(?<!\w){re.escape(stand_in)}(?!\w)" for stand_in in longest_first)) if values else None

    def back(self, text: str) -> tuple[str, int]:
        if self._pattern is None:
            return text, 0
        return self._pattern.subn(lambda match: self._values[match.group()], text)
