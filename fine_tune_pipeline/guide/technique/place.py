"""The place of training as a plan sees it: hardware, prices, and what earlier runs there have measured."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fine_tune_pipeline.artifacts.manifest import Manifest
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.technique.calibration import NOTES, Observation, correction, from_content
from fine_tune_pipeline.guide.technique.plan import Place
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.use_case import UseCaseSpec

PLAN_VERSION = 4

ASSET = "training_plan"

_CORRECTED = "calibration"


def place_of(spec: UseCaseSpec, inventory: Inventory) -> Place:
    """By the formulas alone."""
    return Place.of(inventory, headroom=spec.environment.memory_headroom, prices=spec.environment.prices)


def calibrated(place: Place, store: Store, *, use_case: str, what: Mapping[str, Any], upstream: Mapping[str, Artifact]) -> Place:
    """The place with what earlier runs have measured.

    A plan is not made anew because a run was measured, or every training would make the next one's preflight run again: while nothing
    else has changed, the factors are those of the plan that is there.
    """
    current = store.peek(use_case, ASSET)
    content = content_of(asset=ASSET, version=PLAN_VERSION, what=what, upstream=upstream)
    if current is not None and _without_corrections(current.manifest) == content:
        return replace(place, corrections=from_content(current.manifest.payload["what"][_CORRECTED]))
    return learned(place, store, base=upstream["base_model"])


def learned(place: Place, store: Store, *, base: Artifact) -> Place:
    """The place with what earlier trainings of all use cases of the store have measured there."""
    seen = [Observation.model_validate(note) for note in store.notes(NOTES)]
    family = read_model_folder(base.file("model")).architecture.family
    return replace(place, corrections=correction(seen, inventory=place.inventory, family=family, model=base.fingerprint))


def _without_corrections(manifest: Manifest) -> dict[str, Any]:
    what = {name: value for name, value in manifest.payload["what"].items() if name != _CORRECTED}
    return {**manifest.payload, "what": what}
