"""The drift report: quiet, shifted, unsure, and too little traffic; always against what the champion was made for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Store, content_of
from fine_tune_pipeline.guide.deployment.drift import Embedded, ReferenceGone, Watched, build_drift_report, comparable, read_drift
from fine_tune_pipeline.guide.deployment.rollout import Live
from fine_tune_pipeline_tests.guide.deployment.world import FOREIGN, USE_CASE, keep_dataset, keep_predictions, prompts, use_case, words

SURE = [("x", -0.1 - 0.01 * place) for place in range(30)]


def requests(texts: Sequence[str], *, confidence: float = -0.25, version: str = "1", **more: Any) -> list[dict[str, Any]]:
    spread = [confidence + 0.01 * (place % 15 - 7) for place in range(len(texts))]
    return [
        {"version": version, "status": 200, "prompt_scrubbed": text, "confidence": sure, **more}
        for text, sure in zip(texts, spread, strict=True)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(str(tmp_path / "store"))


@pytest.fixture
def watched(store: Store) -> Watched:
    dataset, predictions = keep_dataset(store), keep_predictions(store, SURE)
    live = Live(version=1, name="bank-v1", adapter_sha256="a", dataset=dataset.fingerprint, predictions=predictions.fingerprint)
    return Watched(live=live, rows=requests(prompts(400, 60)), monitoring=use_case().deployment.monitoring, seed=3)


def reported(store: Store, watched: Watched, folder: Path, *, embed: Any = words, before: Any = None) -> Built:
    folder.mkdir()
    return build_drift_report(store, USE_CASE, watched, embed=embed, before=before, folder=folder)


def check_of(built: Built) -> tuple[bool, bool, str]:
    (check,) = built.checks
    return check.passed, check.blocking, check.description


def test_messages_of_the_same_kind_are_no_drift(store: Store, watched: Watched, tmp_path: Path):
    built = reported(store, watched, tmp_path / "report")
    passed, blocking, said = check_of(built)
    assert (passed, blocking, built.metadata["verdict"]) == (True, False, "no drift")
    assert said.startswith("no drift in 60 requests")


def test_foreign_messages_are_drift_with_p_effect_numbers_and_the_loudest_examples(store: Store, watched: Watched, tmp_path: Path):
    foreign = [f"{text} {number}" for number in range(5) for text in FOREIGN]
    shifted = replace(watched, rows=requests([*prompts(400, 40), *foreign]))
    built = reported(store, shifted, tmp_path / "report")
    passed, _, said = check_of(built)
    assert (passed, built.metadata["verdict"]) == (False, "drift")
    assert "retrain" in said
    far = next(signal for signal in _signals(tmp_path / "report") if signal["name"] == "far_share")
    assert far["alarm"]
    assert far["p"] <= far["adjusted"] <= 0.01
    assert (far["production"], far["reference"], len(far["examples"])) == (60, 70, 5)
    assert far["effect"] > 0.2
    assert set(far["examples"]) <= set(foreign)


def test_answers_less_sure_than_on_the_test_set_are_drift(store: Store, watched: Watched, tmp_path: Path):
    unsure = replace(watched, rows=requests(prompts(400, 60), confidence=-1.5))
    built = reported(store, unsure, tmp_path / "report")
    assert built.metadata["verdict"] == "drift"
    alarms = {signal["name"]: signal["alarm"] for signal in _signals(tmp_path / "report")}
    assert alarms == {"far_share": False, "confidence": True}


def test_too_little_traffic_is_never_no_drift(store: Store, watched: Watched, tmp_path: Path):
    few = replace(watched, rows=requests([*FOREIGN] * 9 + prompts(400, 3)))
    built = reported(store, few, tmp_path / "report")
    passed, _, said = check_of(built)
    assert (passed, built.metadata["verdict"]) == (False, "not enough traffic")
    assert said == "not enough traffic: 39 requests to the champion, want at least 40"


def test_without_a_champion_there_is_nothing_to_compare(store: Store, watched: Watched, tmp_path: Path):
    built = reported(store, replace(watched, live=None), tmp_path / "report")
    assert built.metadata["verdict"] == "not enough traffic"


def test_only_answered_readable_requests_to_the_champion_count(watched: Watched):
    others = [
        *requests(["old version"], version="7"),
        *requests(["error"], status=504),
        *requests(["unscrubbed"], prompt_scrubbed=None),
    ]
    assert comparable(replace(watched, rows=[*others, *requests(["counts"])])) == requests(["counts"])


def test_the_reference_is_the_champions_own_even_when_newer_data_lies_in_the_store(store: Store, watched: Watched, tmp_path: Path):
    with store.draft(USE_CASE, content_of(asset="dataset", version=1, what={"mark": "newer"}, upstream={})) as draft:
        draft.finish(Built())
    assert reported(store, watched, tmp_path / "report").metadata["verdict"] == "no drift"


def test_a_reference_that_was_deleted_is_a_clear_error(store: Store, watched: Watched, tmp_path: Path):
    assert watched.live is not None
    gone = watched.live.model_copy(update={"dataset": "0" * 16})
    with pytest.raises(ReferenceGone, match="dataset 0000"):
        reported(store, replace(watched, live=gone), tmp_path / "report")


def test_the_references_embeddings_are_made_once(store: Store, watched: Watched, tmp_path: Path):
    asked: list[int] = []

    def counted(texts: Sequence[str]) -> Embedded:
        asked.append(len(texts))
        return words(texts)

    with store.draft(USE_CASE, content_of(asset="drift_report", version=1, what={}, upstream={})) as draft:
        before = draft.finish(build_drift_report(store, USE_CASE, watched, embed=counted, before=None, folder=draft.folder))
    again = reported(store, watched, tmp_path / "again", embed=counted, before=before)
    assert asked == [60, 190, 60]
    assert again.metadata == before.metadata
    assert read_drift(before).verdict == "no drift"


def _signals(folder: Path) -> list[dict[str, Any]]:
    import json

    return json.loads((folder / "drift.json").read_text(encoding="utf-8"))["signals"]
