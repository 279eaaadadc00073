"""Work on parts by its name: what worker processes, here and on a cluster, load and call."""

import importlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.parts import Part, Work, work_on

OURS = "fine_tune_pipeline"


class NotOurs(ValueError):
    """The request names a function outside the package."""


def do_part(part: Part, *, function: str, settings: str, folder: str) -> None:
    """Work on one part with the named function, made from its settings once in each process."""
    work_on(part, work_of(function, settings), folder=Path(folder))


@cache
def work_of(function: str, settings: str) -> Work:
    """The work that a function of the package, named `module:function`, makes of its settings.

    Raises:
        NotOurs: it is not of this package.
    """
    make: Callable[[Mapping[str, Any]], Work] = named(function)
    return make(json.loads(settings))


def named(function: str) -> Callable[..., Any]:
    """The function of the package that is named `module:function`.

    Raises:
        NotOurs: it is not of this package.
    """
    module, _, name = function.partition(":")
    if not module.startswith(OURS):
        raise NotOurs(f"function: got {function!r}, want one of {OURS}, such as {OURS}.guide.dataset.scrub:scrub_work")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def do_row(row: dict[str, Any], *, do: Callable[[Part], None]) -> dict[str, Any]:
    """The same for a part that comes as a row of a data set; the row goes on as it is."""
    do(Part(**row))
    return row
