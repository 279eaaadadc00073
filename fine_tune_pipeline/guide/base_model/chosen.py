"""What a use case chooses of a base model: layers, experts and ranks that the model must have room for."""

from collections.abc import Sequence
from typing import Literal

from fine_tune_pipeline.guide.base_model.adapted import adapted_matrices
from fine_tune_pipeline.guide.base_model.catalogue import Architecture
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.spec.technique import LayerRange, LowRank, TechniqueSpec


class NotInTheModel(ValueError):
    """The technique names parts that the base model does not have, or is too small for."""


class NoExperts(NotInTheModel):
    """Experts or the router are to learn, and the base model has none."""


class NoSuchLayer(NotInTheModel):
    """A layer's number is beyond the model's."""


class NoSuchExpert(NotInTheModel):
    """An expert's number is beyond the model's."""


class RankTooLarge(NotInTheModel):
    """An adapter would have a larger rank than the matrix beside it: more numbers, and nothing more to say with them."""


def own_technique(spec: TechniqueSpec, model: Architecture) -> Technique | None:
    """The low-rank technique that the use case writes; None for `auto` and `full`.

    Raises:
        NotInTheModel: it names parts that the model does not have, or is larger than they are.
    """
    if not isinstance(spec, LowRank):
        return None
    technique = Technique(
        type=spec.type,
        rank=spec.rank,
        alpha=spec.alpha,
        dropout=spec.dropout,
        target_modules=spec.target_modules if spec.target_modules == "all-linear" else tuple(spec.target_modules),
        use_dora=spec.use_dora,
        use_rslora=spec.use_rslora,
        use_pissa=spec.use_pissa,
        lora_plus_ratio=spec.lora_plus_ratio,
        layers=layers_of(spec.layers, model),
        experts=experts_of(spec.experts, model),
        expert_rank=expert_rank(spec.rank, model) if spec.experts != "frozen" else 0,
        router=spec.router,
    )
    refuse_what_has_no_room(technique, model)
    return technique


def with_tokens(technique: Technique, ids: tuple[int, ...]) -> Technique:
    """Which also trains the rows of added tokens; full tuning trains all rows anyhow."""
    return technique if technique.type == "full" or not ids else technique.model_copy(update={"added_tokens": ids})


def expert_rank(rank: int, model: Architecture) -> int:
    """The rank divided among the experts that a token visits, so that it meets as much of an adapter as in a dense model."""
    return max(1, rank // model.experts_per_token)


def layers_of(chosen: Literal["all"] | Sequence[int] | LayerRange, model: Architecture) -> tuple[int, ...] | None:
    """Their numbers counted from 0, in order; None for all."""
    if chosen == "all":
        return None
    ends = (chosen.first, chosen.last) if isinstance(chosen, LayerRange) else tuple(chosen)
    assert not isinstance(ends, str)
    beyond = [number for number in ends if not -model.layers <= number < model.layers]
    if beyond:
        raise NoSuchLayer(
            f"technique.layers: got {beyond[0]}, want 0 to {model.layers - 1}, or -{model.layers} to -1 from the end: "
            f"the base model has {model.layers} layers"
        )
    counted = [number % model.layers for number in ends]
    if isinstance(chosen, LayerRange):
        counted = list(range(counted[0], counted[1] + 1))
    if not counted or len(set(counted)) < len(counted):
        raise NoSuchLayer(f"technique.layers: got {_written(chosen)}, want at least one layer, and each once, of {model.layers}")
    return None if len(counted) == model.layers else tuple(sorted(counted))


def experts_of(chosen: Literal["frozen", "all"] | Sequence[int], model: Architecture) -> tuple[int, ...] | None:
    """Their numbers in order; None where none is chosen out of the others."""
    if chosen != "frozen" and not model.experts:
        raise NoExperts(f"technique.experts: got {_written(chosen)}, but the base model is no mixture of experts; leave it out")
    if isinstance(chosen, str):
        return None
    beyond = [number for number in chosen if number >= model.experts]
    if beyond:
        raise NoSuchExpert(f"technique.experts: got {beyond[0]}, want 0 to {model.experts - 1}: a layer has {model.experts} experts")
    return None if len(chosen) == model.experts else tuple(sorted(chosen))


def refuse_what_has_no_room(technique: Technique, model: Architecture) -> None:
    """Look at a technique beside the model's shape.

    Raises:
        NoExperts: the router is to learn, or experts, in layers that have none.
        RankTooLarge: names the matrix, its size and the rank.
    """
    matrices = list(adapted_matrices(model, technique))
    for wanted, part in ((technique.router == "train", "router"), (technique.expert_rank > 0, "experts")):
        if wanted and not any(matrix.name.startswith(part) and matrix.count for matrix in matrices):
            raise NoExperts(f"technique.{part}: the chosen layers of the base model have no experts; leave it out, or choose others")
    for matrix in matrices:
        if matrix.count and matrix.rank > min(matrix.rows, matrix.columns):
            raise RankTooLarge(
                f"technique.rank: got {technique.rank}, which gives {matrix.name} ({matrix.rows} x {matrix.columns}) an adapter of rank "
                f"{matrix.rank}, larger than the matrix; want {min(matrix.rows, matrix.columns)} or less there: lower the rank"
            )


def _written(chosen: object) -> str:
    return f"{{first: {chosen.first}, last: {chosen.last}}}" if isinstance(chosen, LayerRange) else str(chosen)
