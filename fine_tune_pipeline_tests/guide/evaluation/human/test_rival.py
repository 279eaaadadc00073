"""Whose answers stand beside the fine-tuned model's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.evaluation.human.build import compare, review_folder
from fine_tune_pipeline.guide.evaluation.human.rival import Rival, rival
from fine_tune_pipeline_tests.guide.evaluation.world import examples, put, use_case

OLD_TEST = examples(20)
# One row less, one row more, and one whose prompt was corrected.
TEST = [replace(OLD_TEST[1], prompt="corrected"), *OLD_TEST[2:], *examples(1, start=100)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(str(tmp_path / "store"))


def answered(store: Store, rows: list[Example], who: str) -> Artifact:
    files = {
        f"{system}.jsonl": [{"id": row.id, "text": f"{who} {system} {row.id}"} for row in rows]
        for system in ("fine_tuned", "base_zero_shot")
    }
    return put(store, "predictions", files, made=who)


def live(store: Store, version: int = 3, **changes: Any) -> None:
    """A champion that was evaluated on the old test set."""
    dataset, predictions = put(store, "dataset", {"test.jsonl": OLD_TEST}, made="old"), answered(store, OLD_TEST, "old")
    record = {"version": version, "name": f"triage-v{version}", "adapter_sha256": "0", "dataset": dataset.fingerprint}
    record |= {"predictions": predictions.fingerprint, **changes}
    put(store, "endpoint", {"endpoint.json": {"url": None, "action": "", "tried": version, "live": record}}, made=f"v{version}")


def found(folder: Path, store: Store, predictions: Artifact, versus: str = "champion") -> Rival:
    spec = use_case(folder, evaluation={"human": {"versus": versus}})
    return rival(spec, store, rows=TEST, predictions=predictions)


def test_the_champion_answers_the_test_rows_that_it_knows(tmp_path: Path, store: Store):
    live(store)
    other = found(tmp_path, store, answered(store, TEST, "new"))
    assert other.name == "champion"
    assert [row.id for row in other.rows] == [row.id for row in OLD_TEST[2:]]
    assert other.answers == [f"old fine_tuned {row.id}" for row in OLD_TEST[2:]]
    assert other.said == "triage-v3, on the 18 of 20 test rows that it has answered"


def test_the_base_is_the_rival_unless_the_use_case_says_otherwise(tmp_path: Path, store: Store):
    live(store)
    other = found(tmp_path, store, answered(store, TEST, "new"), versus="base")
    assert (other.name, len(other.rows)) == ("base_zero_shot", 20)
    assert other.answers[0] == f"new base_zero_shot {TEST[0].id}"


def test_the_hand_out_stays_when_the_model_itself_goes_live_while_people_judge(tmp_path: Path, store: Store):
    new = answered(store, TEST, "new")
    live(store)
    before = found(tmp_path, store, new)
    live(store, version=4, predictions=new.fingerprint)
    assert found(tmp_path, store, new) == before
    assert before.name == "champion"


@pytest.mark.parametrize("why", ["no other version was ever live", "what triage-v3 was evaluated with is gone from the store"])
def test_where_there_is_no_champion_the_base_stands_in_and_that_is_said(tmp_path: Path, store: Store, why: str):
    new = answered(store, TEST, "new")
    if "gone" in why:
        live(store, dataset="nowhere")
    other = found(tmp_path, store, new)
    assert other.name == "base_zero_shot"
    assert other.said == f"base_zero_shot, not the champion: {why}"


def test_a_champion_that_shares_no_row_is_said_to(tmp_path: Path, store: Store):
    live(store)
    spec = use_case(tmp_path, evaluation={"human": {"versus": "champion"}})
    rows = examples(5, start=500)
    other = rival(spec, store, rows=rows, predictions=answered(store, rows, "new"))
    assert other.said == "base_zero_shot, not the champion: triage-v3 has answered none of these test rows"


def test_another_question_or_rival_is_another_hand_out(tmp_path: Path, store: Store):
    dataset = put(store, "dataset", {"test.jsonl": OLD_TEST})
    predictions = answered(store, OLD_TEST, "new")

    def folder(**human: Any) -> str:
        spec = use_case(tmp_path, evaluation={"human": human})
        compared = compare(spec, store, dataset=dataset, predictions=predictions)
        return review_folder(tmp_path, spec, compared, predictions=predictions).folder.name

    assert folder() == folder(formats=["html"], reviewers=["kim"], required=True, win_rate_at_least=0.7)
    assert len({folder(), folder(pairs=7), folder(repeated=0.5), folder(questions={"tone": "?"}), folder(questions={})}) == 5
