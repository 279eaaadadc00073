"""Whose answers stand beside the fine-tuned model's: the base's, or those of the version that is live now."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fine_tune_pipeline.artifacts.examples import Example, read_examples
from fine_tune_pipeline.artifacts.manifest import Manifest
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.dataset.review.sample import shown_prompt
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.report import BASES
from fine_tune_pipeline.guide.technique.answer_rows import read_answers
from fine_tune_pipeline.spec.use_case import UseCaseSpec

CHAMPION = "champion"


class Rival(NamedTuple):
    """The other system, the rows that it has answered, and its answers in their order.

    `said` is why it is this one; `predictions` the fingerprint of a champion's predictions.
    """

    name: str
    rows: Sequence[Example]
    answers: Sequence[str]
    said: str
    predictions: str | None = None


class Champion(NamedTuple):
    """The version that is live, and what it was evaluated with."""

    name: str
    dataset: Artifact
    predictions: Artifact


def rival(spec: UseCaseSpec, store: Store, *, rows: Sequence[Example], predictions: Artifact) -> Rival:
    """The system that the use case wants beside the fine-tuned model; the base where there is no champion, and that is said.

    Args:
        rows: the test set.
    """
    if spec.evaluation.human.versus == "base":
        return _base(predictions, rows, said="as evaluation.human.versus says")
    found = _champion(store, spec.name, predictions)
    if isinstance(found, str):
        return _base(predictions, rows, said=f"not the champion: {found}")
    # Rows keep their side of the split when data grows, so most of the champion's test rows are here too.
    asked = {row.id: shown_prompt(row) for row in read_examples(found.dataset.file("test.jsonl"))}
    shared = [row for row in rows if asked.get(row.id) == shown_prompt(row)]
    if not shared:
        return _base(predictions, rows, said=f"not the champion: {found.name} has answered none of these test rows")
    answers = read_answers(found.predictions.file(f"{FINE_TUNED}.jsonl"), shared)
    said = f"{found.name}, on the {len(shared)} of {len(rows)} test rows that it has answered"
    return Rival(CHAMPION, shared, answers, said, found.predictions.fingerprint)


def _base(predictions: Artifact, rows: Sequence[Example], *, said: str) -> Rival:
    name = next(name for name in BASES if f"{name}.jsonl" in predictions.manifest.files)
    return Rival(name, rows, read_answers(predictions.file(f"{name}.jsonl"), rows), f"{name}, {said}")


def _champion(store: Store, use_case: str, predictions: Artifact) -> Champion | str:
    """The version that is live, or why there is none to compare with.

    Where the fine-tuned model itself is live by now, the one before it: people may judge while it answers, and their hand-out stays.
    """
    lived = (live for manifest in reversed(store.history(use_case, "endpoint")) if (live := _live(store, use_case, manifest)) is not None)
    live = next((live for live in lived if live["predictions"] != predictions.fingerprint), None)
    if live is None:
        return "no other version was ever live"
    dataset, answers = (store.find(use_case, asset, live[asset]) for asset in ("dataset", "predictions"))
    if dataset is None or answers is None:
        return f"what {live['name']} was evaluated with is gone from the store"
    return Champion(live["name"], dataset, answers)


def _live(store: Store, use_case: str, endpoint: Manifest) -> Mapping[str, Any] | None:
    """Who answered after a rollout: its name, and the fingerprints of what it was evaluated with."""
    found = store.find(use_case, "endpoint", endpoint.fingerprint)
    return None if found is None else found.json("endpoint.json")["live"]
