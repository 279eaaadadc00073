"""A model is asked in both orders, and what it says is read with care; the model is a server of the test's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.artifacts.replies import Replies
from fine_tune_pipeline.guide.dataset.more.chat_model import Chat, ModelUnreachable
from fine_tune_pipeline.guide.evaluation.judge.asking import Item, Judged, NothingReadable, items, judge
from fine_tune_pipeline.spec.judge import JudgeSpec
from fine_tune_pipeline_tests.guide.dataset.model_server import Answer, model_server, said

ITEMS = [Item(f"r{number}", f"question {number}", f"good {number}", f"bad {number}") for number in range(6)]
QUESTIONS = {"correct": "Which answer is correct?"}


def shown(request: dict[str, Any]) -> dict[str, str]:
    return json.loads(request["messages"][1]["content"])


def prefers_good(request: dict[str, Any], before: int) -> Any:
    return said(json.dumps({"reason": "better", "choice": "A" if shown(request)["A"].startswith("good") else "B"}))


def asked(folder: Path, url: str, rows: list[Item] = ITEMS) -> tuple[list[Judged], list[Quarantined]]:
    chat = Chat(JudgeSpec(url=url, model="judge", tries=2), Replies(UPath(folder)), wait=lambda _: None, field="evaluation.judge")
    return judge(chat, rows, goal="Be right", questions=QUESTIONS)


def run(folder: Path, answer: Answer) -> tuple[list[Judged], list[Quarantined]]:
    with model_server(answer) as model:
        return asked(folder, model.url)


def test_each_row_is_asked_in_both_orders_and_no_system_is_named(tmp_path: Path):
    with model_server(prefers_good) as model:
        judged, refused = asked(tmp_path, model.url)
    assert refused == []
    assert {one.points for one in judged} == {1.0}
    sides = sorted((shown(request)["A"], shown(request)["B"]) for request in model.asked)
    assert sides == sorted([*((one.fine_tuned, one.other) for one in ITEMS), *((one.other, one.fine_tuned) for one in ITEMS)])
    everything = json.dumps([{**request, "headers": None} for request in model.asked])
    assert not [name for name in ("fine_tuned", "base", "champion") if name in everything]
    system = model.asked[0]["messages"][0]["content"]
    assert "Be right" in system
    assert "Which answer is correct?" in system
    assert {request["temperature"] for request in model.asked} == {0.0}


@pytest.mark.parametrize(("always", "flipped"), [("A", True), ("B", True), ("tie", False)])
def test_a_judge_that_contradicts_itself_says_a_tie(tmp_path: Path, always: str, flipped: bool):
    judged, _ = run(tmp_path, lambda request, before: said(json.dumps({"choice": always})))
    assert {one.points for one in judged} == {0.5}
    assert {one.flipped for one in judged} == {flipped}


def test_a_tie_in_one_order_is_a_tie():
    assert [Judged("r", *both).points for both in (("A", "tie"), ("tie", "A"), ("B", "A"), ("A", "B"))] == [0.5, 0.5, 0.0, 1.0]


def test_the_last_choice_counts_where_a_model_thinks_aloud(tmp_path: Path):
    loud = 'Take {"choice": "tie"} first.\n```json\n{"reason": "x", "choice":  "A"}\n```'
    judged, _ = run(tmp_path, lambda request, before: said(loud))
    assert {(one.first, one.swapped) for one in judged} == {("A", "A")}


def test_what_cannot_be_read_is_kept_aside_and_the_others_count(tmp_path: Path):
    def answer(request: dict[str, Any], before: int) -> Any:
        return said("I like both") if "question 2" in request["messages"][1]["content"] else prefers_good(request, before)

    judged, refused = run(tmp_path, answer)
    assert [one.row for one in judged] == ["r0", "r1", "r3", "r4", "r5"]
    assert [(row.id, row.reason) for row in refused] == [("r2", "unreadable_answer")]
    assert "I like both" in refused[0].detail


def test_a_judge_that_never_says_what_it_prefers_is_named(tmp_path: Path):
    with pytest.raises(NothingReadable, match=r"none of 6 rows was judged.*evaluation\.judge\.max_tokens"):
        run(tmp_path, lambda request, before: said("hm"))


def test_a_judge_that_goes_down_is_named_and_what_it_said_is_not_asked_again(tmp_path: Path):
    def goes_down(request: dict[str, Any], before: int) -> Any:
        return prefers_good(request, before) if before < 4 else (503, {"error": "down"}, {})

    with model_server(goes_down) as model, pytest.raises(ModelUnreachable, match="no answer to any of 4 questions: status 503"):
        asked(tmp_path, model.url)
    with model_server(prefers_good) as model:
        judged, _ = asked(tmp_path, model.url)
    assert len(model.asked) == 8
    assert [one.points for one in judged] == [1.0] * 6


def test_rows_that_people_rated_are_judged_first_and_the_rest_at_random():
    rows = [(f"r{number}", "q") for number in range(100)]
    own, other = ["same"] * 50 + ["own"] * 50, ["same"] * 50 + ["other"] * 50
    found = [item.row for item in items(rows, fine_tuned=own, other=other, rated={"r99", "r70", "r3"}, most=20, seed=0)]
    assert found[:2] == ["r70", "r99"]
    assert len(set(found)) == 20
    assert all(int(row[1:]) >= 50 for row in found)
    assert found[2:] != sorted(found[2:])
