"""Hand-outs to people and what they hand in: JSONL files in a folder that the store owns, outside the fingerprints.

`<root>/reviews/<use case>/<kind>/<fingerprint>/handout.jsonl` is written by the pipeline, `verdicts.jsonl` beside it by people.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.fingerprint import file_sha256

HANDOUT = "handout.jsonl"
VERDICTS = "verdicts.jsonl"


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

    def verdicts(self) -> list[dict[str, Any]]:
        """What people handed in so far; empty when nothing is there."""
        return read_rows(self.verdict_file) if self.verdict_file.exists() else []

    def verdicts_sha256(self) -> str | None:
        """Content hash of the verdicts, None when nothing was handed in."""
        return file_sha256(self.verdict_file) if self.verdict_file.exists() else None
