"""Hand-outs to people and what they hand in: files in a folder that the store owns, outside the fingerprints.

`<root>/reviews/<use case>/<kind>/<fingerprint>/handout.jsonl` is written by the pipeline, `verdicts.jsonl` beside it, or any file in
`handed_in`, by people. What they said once is remembered in `<root>/reviews/<use case>/<kind>/ledger.jsonl`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.artifacts.ledger import Ledger

HANDOUT = "handout.jsonl"
VERDICTS = "verdicts.jsonl"
ASKED = "asked.jsonl"
"""All that was ever handed out here: the hand-out itself holds only what is still open."""

HANDED_IN = "handed_in"
LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class ReviewFolder:
    """One hand-out and its verdicts. `kind` is `examples` (step 3) or `pairs` (step 7)."""

    folder: Path

    @classmethod
    def at(cls, root: Path, *, use_case: str, kind: str, fingerprint: str) -> "ReviewFolder":
        return cls(folder=root / use_case / kind / fingerprint)

    def hand_out(self, rows: list[dict[str, Any]]) -> Path:
        """Write the rows for people; verdicts that are already there stay."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_rows(self.folder / HANDOUT, rows)
        return self.folder / HANDOUT

    @property
    def verdict_file(self) -> Path:
        return self.folder / VERDICTS

    @property
    def handed_in(self) -> Path:
        """Where people put files, whatever they are called."""
        return self.folder / HANDED_IN

    @property
    def ledger(self) -> Ledger:
        """What people said to this and all earlier hand-outs of the use case."""
        return Ledger(self.folder.parent / LEDGER)

    def siblings(self) -> list["ReviewFolder"]:
        """This hand-out and all others of the use case and kind, by name."""
        parent = self.folder.parent
        return [ReviewFolder(path) for path in sorted(parent.iterdir()) if path.is_dir()] if parent.is_dir() else []

    def asked(self) -> list[dict[str, Any]]:
        """All rows that were ever handed out here, oldest first."""
        source = self.folder / ASKED if (self.folder / ASKED).exists() else self.folder / HANDOUT
        return read_rows(source) if source.exists() else []

    def files_handed_in(self) -> list[Path]:
        """All that people handed in here: `verdicts.jsonl`, and the files of `handed_in` that no program holds open as its own."""
        files = [self.verdict_file, *(self.handed_in.iterdir() if self.handed_in.is_dir() else ())]
        return sorted(path for path in files if path.is_file() and not path.name.startswith((".", "~$")))

    def set_aside(self, path: Path) -> Path:
        """Move a hand-out that somebody filled in to `handed_in`, so that writing the next one loses nothing."""
        self.handed_in.mkdir(parents=True, exist_ok=True)
        if not (self.folder / ASKED).exists():
            # An earlier layout remembers in the hand-out alone what its ids mean.
            write_rows(self.folder / ASKED, self.asked())
        target = self.handed_in / f"{path.stem}-{file_sha256(path)[:8]}{path.suffix}"
        os.replace(path, target)
        return target


def verdict_files(folder: Path) -> Iterator[Path]:
    """Files that people handed in to any hand-out below the folder of a kind."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            yield from ReviewFolder(path).files_handed_in()
