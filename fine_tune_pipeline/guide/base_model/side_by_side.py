"""The candidates side by side: what each is, what it costs to train and to ask, who stands behind it; and what to try next."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from fine_tune_pipeline.guide.base_model.alternatives import Alternative, Choice, try_next
from fine_tune_pipeline.guide.base_model.candidates import Candidate, Demands, first_passing, on_paper
from fine_tune_pipeline.guide.base_model.catalogue import CatalogueModel, Price
from fine_tune_pipeline.guide.base_model.price import Cost, stale
from fine_tune_pipeline.guide.base_model.running_costs import (
    NominalRun,
    Place,
    answers_cost,
    money,
    nominal_run,
    run_cost,
    run_seconds,
    running_place,
    tuning_cost,
)
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.hosted import Prices
from fine_tune_pipeline.spec.use_case import UseCaseSpec

Rows = Mapping[str, CatalogueModel | None]
"""What the catalogue says of a candidate, by its id; None of models of the user's own."""


@dataclass(frozen=True)
class Comparison:
    """One row per candidate, the nominal run that their costs are of, what to try next, and which prices are old."""

    rows: list[dict[str, Any]]
    run: str
    try_next: list[Alternative]
    warnings: list[str]

    @property
    def instead(self) -> str:
        """What would pass, where no candidate does; empty when nothing would."""
        return f". {self.try_next[0].id} of the catalogue would: {self.try_next[0].reason}" if self.try_next else ""

    def metadata(self) -> dict[str, Any]:
        return {
            "candidates": self.rows,
            "compared_on": self.run,
            "try_next": [alternative.as_json() for alternative in self.try_next],
            "price_warnings": self.warnings,
        }


def compare(spec: UseCaseSpec, candidates: Sequence[Candidate], wanted: Demands, inventory: Inventory, *, today: date) -> Comparison:
    """The candidates on the hardware at hand.

    Args:
        candidates: as judged, in the order of the use case.
        today: for the age of prices.
    """
    place, run = running_place(inventory, spec), nominal_run(spec, longest_tokens=wanted.tokens)
    named = [entry if isinstance(entry, str) else entry.id for entry in spec.base_model.candidates]
    own = {entry.id for entry in spec.base_model.candidates if not isinstance(entry, str) and entry.type != "catalogue"}
    rows = {id: None if id in own else wanted.known.model(id) for id in named}
    return Comparison(
        rows=[_row(candidate, rows[candidate.id], wanted, run, place) for candidate in candidates],
        run=f"{run}, at {place.at.basis}",
        try_next=try_next(*_choices(candidates, rows, wanted, run, place)),
        warnings=[said for said in _old_prices(rows, place, today=today) if said],
    )


def _row(candidate: Candidate, row: CatalogueModel | None, wanted: Demands, run: NominalRun, place: Place) -> dict[str, Any]:
    model = candidate.facts.architecture if candidate.facts else None
    price = _price(candidate, row)
    return {
        **candidate.row(),
        "quality prior": _quality(row),
        "active parameters": model.active_parameters if model and model.experts else candidate.facts and candidate.facts.parameters,
        **_training(candidate, wanted, run, place),
        "cost at its provider": money(tuning_cost(price, run)),
        "cost of 1,000 answers": money(answers_cost(model, price, run, place)),
        "base or instruct": row.tuned if row else None,
        "chat template": row.chat_template if row else None,
        "gated": row.gated if row else None,
        "maintained by": row.community.maintained_by if row and row.community else None,
        "released": row.community.released if row and row.community else None,
        "downloads": _downloads(row),
    }


def _training(candidate: Candidate, wanted: Demands, run: NominalRun, place: Place) -> dict[str, Any]:
    # Without a figure for its memory, it has no place for the technique.
    if candidate.facts is None or not candidate.memory_bytes:
        return {}
    model = candidate.facts.architecture
    seconds = {item.type: run_seconds(model, item, run, place) for item in wanted.techniques(model)}
    return {f"{name} minutes": round(value / 60, 1) for name, value in seconds.items()} | {
        f"{name} cost": money(run_cost(value, place)) for name, value in seconds.items()
    }


def _choices(
    candidates: Sequence[Candidate], rows: Rows, wanted: Demands, run: NominalRun, place: Place
) -> tuple[Choice | None, list[Choice]]:
    """The choice, and every other model that passes: candidates, and models of the catalogue as far as paper can tell."""
    chosen = first_passing(candidates)
    beside = [on_paper(model, wanted) for model in wanted.known.models if model.id not in rows]
    others = [
        Choice(judged, listed=judged.id in rows, answers=_answers(judged, rows.get(judged.id) or wanted.known.model(judged.id), run, place))
        for judged in (*candidates, *beside)
        if judged is not chosen and judged.facts is not None and not judged.refusals
    ]
    if chosen is None or chosen.facts is None:
        return None, others
    return Choice(chosen, listed=True, answers=_answers(chosen, rows[chosen.id], run, place)), others


def _answers(judged: Candidate, row: CatalogueModel | None, run: NominalRun, place: Place) -> Cost | None:
    return answers_cost(judged.facts.architecture if judged.facts else None, _price(judged, row), run, place)


def _old_prices(rows: Rows, place: Place, *, today: date) -> Iterable[str | None]:
    yield stale(place.price, today=today)
    for id, row in rows.items():
        said = row.price.stale(today) if row and row.price else None
        yield f"{id}: {said}" if said else None


def _quality(row: CatalogueModel | None) -> str | None:
    if row is None or row.quality is None:
        return None
    quality = row.quality
    return f"{quality.score:g} ({quality.benchmark}; {quality.source}, {quality.as_of})"


def _downloads(row: CatalogueModel | None) -> str | None:
    downloads = row.community.downloads if row and row.community else None
    return f"{downloads.per_month:,} a month ({downloads.source}, {downloads.as_of})" if downloads else None


def _price(candidate: Candidate, row: CatalogueModel | None) -> Price | Prices | None:
    """What a provider asks: of a hosted candidate its own prices, else those that the catalogue has of the model."""
    if candidate.hosted is not None:
        return candidate.hosted.prices
    return row.price if row else None
