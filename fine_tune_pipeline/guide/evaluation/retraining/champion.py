"""The version that answers now, as one more system: what was retrained is held against it on the same rows, asked in the same run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.manifest import Manifest
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.technique.index import learned_from
from fine_tune_pipeline.spec.use_case import UseCaseSpec

FILE = "champion.json"

KEY = "champion"
"""Of the payload of predictions, where there is one."""

STYLE = "dataset.format.style"


@dataclass(frozen=True)
class Champion:
    """The version that answers: `name` as it is served, `fingerprint` of its adapter. `left_out` is why it cannot be asked, if so."""

    name: str
    fingerprint: str
    adapter: Artifact | None = None
    left_out: str = ""

    def what(self) -> dict[str, str]:
        """For the fingerprint of what it answers."""
        return {"name": self.name, "adapter": self.fingerprint, "left_out": self.left_out}

    def keep(self, folder: Path) -> None:
        """Write down who it was."""
        (folder / FILE).write_text(json.dumps(self.what(), indent=2), encoding="utf-8")


def champion_of(store: Store, spec: UseCaseSpec, *, adapter: Artifact, base_model: Artifact) -> Champion | None:
    """Who answers now, or None while nobody does.

    An adapter that answers by now is compared with whoever answered when it was first evaluated, so that evaluating it again is the same.

    Args:
        adapter: what was trained last.
    """
    endpoint = store.peek(spec.name, "endpoint")
    live: Mapping[str, Any] | None = None if endpoint is None else endpoint.json("endpoint.json")["live"]
    if live is None:
        return None
    evaluated = store.find(spec.name, "predictions", live["predictions"])
    if evaluated is None:
        return Champion(live["name"], "", left_out="what it was evaluated with is gone from the store")
    own = evaluated.manifest.payload["upstream"]["adapter"]
    if own == adapter.fingerprint:
        before = _first_compared_with(store, spec.name, own)
        return None if before is None else _asked(store, spec, before["name"], before["adapter"], base_model=base_model)
    return _asked(store, spec, live["name"], own, base_model=base_model)


def read_champion(predictions: Artifact) -> Champion | None:
    """Who was champion when these predictions were made."""
    if FILE not in predictions.manifest.files:
        return None
    kept = predictions.json(FILE)
    return Champion(kept["name"], kept["adapter"], left_out=kept["left_out"])


def _first_compared_with(store: Store, use_case: str, adapter: str) -> Mapping[str, str] | None:
    """What the newest predictions of an adapter hold it against; a champion of its own it never has."""
    of_adapter = [one for one in store.history(use_case, "predictions") if one.payload["upstream"]["adapter"] == adapter]
    found: Mapping[str, str] | None = of_adapter[-1].payload["what"].get(KEY)
    return found


def _asked(store: Store, spec: UseCaseSpec, name: str, fingerprint: str, *, base_model: Artifact) -> Champion:
    adapter = store.find(spec.name, "adapter", fingerprint)
    if adapter is None:
        return Champion(name, fingerprint, left_out="its adapter is gone from the store")
    why = _other(store, spec, adapter.manifest, base_model)
    return Champion(name, fingerprint, left_out=why) if why else Champion(name, fingerprint, adapter)


def _other(store: Store, spec: UseCaseSpec, adapter: Manifest, base_model: Artifact) -> str:
    """Why an adapter cannot be asked beside the one that was trained last; empty if it can."""
    upstream, what = adapter.payload["upstream"], adapter.payload["what"]
    if upstream["base_model"] != base_model.fingerprint:
        base = store.find(spec.name, "base_model", upstream["base_model"])
        if base is None or base.json("base_model.json").get("weights_sha256") != base_model.json("base_model.json").get("weights_sha256"):
            return "it has another base model"
    if what.get(STYLE, spec.dataset.format.style) != spec.dataset.format.style:
        return f"it was trained with {STYLE}: {what[STYLE]}"
    if learned_from(spec) not in upstream:
        return "one of the two was trained with what is looked up for the prompt, and the other was not"
    return ""
