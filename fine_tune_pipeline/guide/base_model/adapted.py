"""Which matrices of a model have adapters under a technique, and how many numbers those are: by the names that nearly all decoders give."""

from collections.abc import Iterator
from dataclasses import dataclass

from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.programs.requests import Technique

QKV, OUTPUT = ("q_proj", "k_proj", "v_proj"), "o_proj"
GATE_UP, DOWN = ("gate_proj", "up_proj"), "down_proj"
ATTENTION = (*QKV, OUTPUT)
MATRICES = (*ATTENTION, *GATE_UP, DOWN)


@dataclass(frozen=True)
class Matrix:
    """What an adapter stands beside; `count` of them have one."""

    name: str
    rows: int
    columns: int
    rank: int
    count: int

    @property
    def numbers(self) -> int:
        """Of all its adapters."""
        return self.count * self.rank * (self.rows + self.columns)


def adapted_layers(model: Architecture, technique: Technique) -> tuple[int, ...]:
    """Numbers of the layers in which anything learns."""
    return tuple(range(model.layers)) if technique.layers is None else technique.layers


def adapted_names(model: Architecture, technique: Technique) -> frozenset[str]:
    """Of `MATRICES`. Where a name is unknown here, all of them: a forecast may be too high, not too low."""
    if technique.type == "full":
        return frozenset(MATRICES)
    # Packed weights of an MLP take no adapters in a mixture of experts.
    every = frozenset(ATTENTION if model.experts and technique.type == "qlora" else MATRICES)
    if technique.target_modules == "all-linear":
        return every
    named = {name.rsplit(".", 1)[-1] for name in technique.target_modules}
    return frozenset(named) if named <= set(MATRICES) else every


def adapted_matrices(model: Architecture, technique: Technique) -> Iterator[Matrix]:
    """All that adapters stand beside, routers and routed experts among them; none where all weights learn."""
    if technique.type == "full":
        return
    layers = adapted_layers(model, technique)
    routed = sum(1 for layer in layers if layer >= model.dense_layers) if model.experts else 0
    names = adapted_names(model, technique)
    for width, count in ((model.mlp_width, len(layers) - routed), (model.shared_expert_width, routed)):
        yield from _of_mlp(model, names, width=width, rank=technique.rank, count=count if width else 0)
    sides = {"q_proj": model.query_width, "k_proj": model.key_width, "v_proj": model.key_width, "o_proj": model.query_width}
    for name in ATTENTION:
        if name in names:
            rows, columns = (model.hidden, sides[name]) if name == OUTPUT else (sides[name], model.hidden)
            yield Matrix(name, rows, columns, technique.rank, len(layers))
    if technique.router == "train":
        yield Matrix("router", model.experts, model.hidden, router_rank(technique, experts=model.experts), routed)
    if technique.expert_rank:
        # Gate and up are stored as one matrix and share the adapter's first half.
        yield Matrix("experts.gate_up_proj", 2 * model.expert_width, model.hidden, technique.expert_rank, routed * model.experts)
        yield Matrix("experts.down_proj", model.hidden, model.expert_width, technique.expert_rank, routed * model.experts)


def router_rank(technique: Technique, *, experts: int) -> int:
    """Of the router's adapter: as its experts', or as the others', but no more than the router has rows."""
    return technique.expert_rank or min(technique.rank, experts)


def _of_mlp(model: Architecture, names: frozenset[str], *, width: int, rank: int, count: int) -> Iterator[Matrix]:
    for name in (*GATE_UP, DOWN):
        if count and name in names:
            rows, columns = (model.hidden, width) if name == DOWN else (width, model.hidden)
            yield Matrix(name, rows, columns, rank, count)
