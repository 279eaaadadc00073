"""Finds numbers of a report that say neither what they rest on nor how far they may be off; the test of the report's own rule."""

from collections.abc import Iterator, Mapping
from math import isclose
from typing import Any

COUNTS = frozenset(
    ("n", "rows", "groups", "clusters", "training_rows", "items", "number", "seen_before", "level", "power", "prompt tokens", "new tokens")
)
"""Counts and settings: nothing is estimated."""

MEASURES = frozenset(("estimate", "share", "rate", "mean", "accuracy", "gain", "win_rate", "loss", "ece", "quality", "error_rate"))
"""Words for what is estimated from rows, wherever they stand."""

ENDS = (("low", "high"), ("lower", "upper"), ("bound", "level"))

OWN = frozenset(
    """
    outcome n verdicts look means systems gains evidence classes confusions examples unfinished costs peak_memory_gib training curve
    base_model gain gain_low gain_high
    """.split()  # noqa: SIM905 - easier to read than quoted words
)
"""Parts in which every number must be explained; in parts that others add, those with a name in `MEASURES`."""


def bare(report: Mapping[str, Any]) -> list[str]:
    """Paths of numbers without rows or interval: neither part of a figure, nor a copy of one, nor in a part that says why it has none."""
    found = []
    for part, content in report.items():
        if part in report["no_interval"] or part in report["systems"] or part in report["metrics"] or part in _COPIES:
            continue
        found += [path for path, name in _bare(content, part) if part in OWN or name in MEASURES]
    silent = [f"no_interval.{part}" for part, why in report["no_interval"].items() if not str(why).strip()]
    # Where a part has no interval, figures inside it keep the rule all the same.
    inside = [path for part in report["no_interval"] for path in _broken_figures(report.get(part), part)]
    return [*found, *silent, *inside, *_wrong_copies(report)]


def supported(figure: Mapping[str, Any]) -> bool:
    """Whether it says its rows and both ends, or in words why it cannot."""
    if figure.get("estimate") is None:
        return True
    rows = figure.get("n", figure.get("rows"))
    if not isinstance(rows, int) or rows < 1:
        return bool(str(figure.get("how") or figure.get("why") or "").strip())
    return any(low in figure and high in figure and (figure[low] is not None or figure[high] is not None) for low, high in ENDS)


_COPIES = ("gain", "gain_low", "gain_high", "means")


def _bare(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Path and name of every number that nothing explains."""
    if isinstance(value, Mapping):
        figure = "estimate" in value and supported(value)
        for name, inner in value.items():
            if not (figure and isinstance(inner, int | float)):
                yield from _bare(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _bare(inner, f"{path}.{place}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        name = path.rpartition(".")[2]
        if name not in COUNTS:
            yield path, name


def _broken_figures(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "estimate" in value and not supported(value):
            yield path
        for name, inner in value.items():
            yield from _broken_figures(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _broken_figures(inner, f"{path}.{place}")


def _wrong_copies(report: Mapping[str, Any]) -> Iterator[str]:
    """Flat numbers for programs must be those of a figure that stands elsewhere in the report."""
    systems = report["systems"]
    for system, by_metric in report["means"].items():
        yield from (f"means.{system}.{name}" for name, mean in by_metric.items() if not isclose(mean, systems[system][name]["estimate"]))
    headline = report["headline_metric"]
    own = systems["fine_tuned"]
    yield from (name for name in report["metrics"] if name in report and not isclose(report[name], own[name]["estimate"]))
    means = {system: found[headline]["estimate"] for system, found in systems.items()}
    yield from (system for system, mean in means.items() if system in report and not isclose(report[system], mean))
    gain = next(gain for gain in report["gains"] if gain["metric"] == headline and gain["over"] == report["gain_over"])
    copies = {"gain": "estimate", "gain_low": "low", "gain_high": "high"}
    yield from (name for name, key in copies.items() if report[name] != gain[key])
