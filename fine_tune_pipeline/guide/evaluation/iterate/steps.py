"""A next step: what to try, on what evidence, and the change of the use case that tries it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "next_steps.json"


class NoSteps(Exception):
    """A file holds no next steps."""


@dataclass(frozen=True)
class Change:
    """One field of the use case: `path` from `attributes` on, with dots; `before` is what it says, or None where it is not given."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path}: {_short(self.before)} → {_short(self.after)}"


@dataclass(frozen=True)
class NextStep:
    """`why` names the numbers that it rests on. `patch` is empty where no field says it: then `title` says what people do."""

    id: str
    title: str
    why: str
    patch: tuple[Change, ...]
    expected: str
    cost: str

    def row(self) -> dict[str, Any]:
        """As the report and `next_steps.json` keep it."""
        return {**asdict(self), "patch": [asdict(change) for change in self.patch]}

    @property
    def changes(self) -> str:
        """The patch in words."""
        return "; ".join(map(str, self.patch)) or "none: people do this"


def step_of(row: Mapping[str, Any]) -> NextStep:
    """What `NextStep.row` gave."""
    return NextStep(**{**row, "patch": tuple(Change(**change) for change in row["patch"])})


def read_steps(path: Path) -> tuple[str, list[NextStep]]:
    """The use case and its next steps, of `next_steps.json`, a report.json, or the folder of an evaluation_report.

    Raises:
        NoSteps: names what was found instead.
    """
    file = path / FILE if path.is_dir() else path
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NoSteps(f"there is no {file}; name an evaluation's folder, its report.json or its {FILE}") from error
    except (OSError, ValueError) as error:
        raise NoSteps(f"{file} cannot be read as JSON ({error}); name an evaluation's report.json or {FILE}") from error
    try:
        return kept["use_case"], [step_of(row) for row in kept["next_steps"]]
    except (KeyError, TypeError) as error:
        raise NoSteps(f"{file} holds no next steps with changes; evaluate again, or name another evaluation") from error


def _short(value: Any) -> str:
    text = "not given" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."
