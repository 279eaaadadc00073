"""The border to the machines on which trials run: programs are handed over, and their ends come back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Order:
    """A program to be run for a trial: its command, and its environment beside that of the node."""

    number: int
    command: Sequence[str]
    without: Sequence[str] = ()


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, negative for a signal, None when its node or its worker is gone; the last it said, or why."""

    status: int | None
    said: str = ""


class Nodes(Protocol):
    """Machines that share the folders of the search."""

    def start(self, order: Order) -> None:
        """Hand a program over; it begins when there is room for it."""

    def ended(self, seconds: float) -> Mapping[int, Ended]:
        """Those that have ended, by the number of the trial; waits for one so long at most."""

    def close(self) -> None:
        """End all that is running."""
