"""How the load of experts is shown, and whether those that should learn have moved."""

from collections.abc import Sequence

from fine_tune_pipeline.artifacts.manifest import Check
from fine_tune_pipeline.programs.requests import LayerLoad

BUSIEST = 8
"""Experts of a layer that a table names."""

MOVED = "experts_moved"

ASKED = "Every expert that should learn has moved."


def load_rows(load: Sequence[LayerLoad]) -> list[dict[str, object]]:
    """A row for each layer: its busiest experts, how many get nothing, and the share of visits that went to another expert."""
    return [
        {
            "layer": layer.layer,
            "busiest before": _busiest(layer.before),
            "busiest after": _busiest(layer.after),
            "without tokens before": layer.before.count(0),
            "without tokens after": layer.after.count(0),
            "visits moved": _moved_share(layer),
            "did not move": ", ".join(map(str, layer.still)),
        }
        for layer in load
    ]


def moved(load: Sequence[LayerLoad]) -> Check:
    """Whether every expert that should learn has moved; one that no token came to had nothing to learn from, and is named apart."""
    still = [(layer, expert) for layer in load for expert in layer.still]
    idle = [_named(layer, expert) for layer, expert in still if _idle(layer, expert)]
    wrong = [_named(layer, expert) for layer, expert in still if not _idle(layer, expert)]
    said = f"experts of {len(load)} layers" + (f"; without any token, and so as they were: {_some(idle)}" if idle else "")
    if wrong:
        said += f"; did not move, without being known as idle: {_some(wrong)}. Train on more rows, or take the pinned version of peft"
    return Check(name=MOVED, passed=bool(load) and not wrong, blocking=False, description=said)


def _idle(layer: LayerLoad, expert: int) -> bool:
    return bool(layer.after) and not layer.before[expert] and not layer.after[expert]


def _moved_share(layer: LayerLoad) -> str:
    if not layer.after:
        return "not measured"
    return f"{sum(abs(after - before) for after, before in zip(layer.after, layer.before, strict=True)) / 2:.1%}"


def _busiest(shares: Sequence[float]) -> str:
    order = sorted(range(len(shares)), key=lambda expert: -shares[expert])[:BUSIEST]
    return ", ".join(f"{expert}: {shares[expert]:.0%}" for expert in order)


def _named(layer: LayerLoad, expert: int) -> str:
    return f"{expert} of layer {layer.layer}"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - BUSIEST
    return ", ".join(names[:BUSIEST]) + (f" and {rest} more" if rest > 0 else "")
