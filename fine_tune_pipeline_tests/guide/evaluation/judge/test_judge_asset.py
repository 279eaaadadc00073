"""The judge as an asset: beside people, calibrated by them, and in nobody's way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.store import FailedUpstream, Store
from fine_tune_pipeline.guide.dataset.more.chat_model import ModelUnreachable
from fine_tune_pipeline.guide.evaluation.assets import human_evaluation, judge_evaluation, predictions
from fine_tune_pipeline.spec.judge import JudgedByItself
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.use_case import assets_of
from fine_tune_pipeline_tests.guide.dataset.model_server import Answer, model_server, said
from fine_tune_pipeline_tests.guide.evaluation.world import PretendedCompute, before_evaluation, examples, put, resources, use_case

TRAIN, TEST = examples(80, start=1000), examples(120)
RIGHT_ANSWERS = {row.prompt: row.completion for row in TEST}

Way = Callable[[str, str, str], str]


def right_one(prompt: str, a: str, b: str) -> str:
    """A judge that knows the answers."""
    good = [side for side, text in (("A", a), ("B", b)) if text == RIGHT_ANSWERS[prompt]]
    return good[0] if len(good) == 1 else "tie"


def answering(way: Way) -> Answer:
    def answer(request: dict[str, Any], before: int) -> Any:
        shown = json.loads(request["messages"][1]["content"])
        return said(json.dumps({"reason": "", "choice": way(shown["request"], shown["A"], shown["B"])}))

    return answer


class World:
    """A store with predictions, people who judged some pairs, and a judge at an address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.at(str(folder / "store"))
        before_evaluation(self.store, train=TRAIN, test=TEST)

    def spec(self, url: str, *, pairs: int = 60, **judge: Any) -> UseCaseSpec:
        human = {"pairs": pairs, "repeated": 0, "questions": {}, "formats": ["jsonl"]}
        return use_case(self.folder, evaluation={"human": human, "judge": {"url": url, "model": "big-judge", "tries": 1, **judge}})

    def run(self, spec: UseCaseSpec, *factories: Any, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        bound = resources(self.folder, PretendedCompute(answers={row.id: row.completion for row in TEST}))
        return dg.materialize([factory(spec) for factory in factories], resources=bound, raise_on_error=raise_on_error)

    def people(self, spec: UseCaseSpec, way: Way = right_one) -> None:
        """Everybody's favourite reviewer judges all pairs."""
        self.run(spec, predictions, human_evaluation)
        handout = max(self.folder.glob("reviews/triage/pairs/*/handout.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        words = {"A": "A", "B": "B", "tie": "equal"}
        lines = [{"id": row["id"], "choice": words[way(row["prompt"], row["A"], row["B"])], "by": "Ann"} for row in read_rows(handout)]
        handout.with_name("verdicts.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        self.run(spec, human_evaluation)

    def judged(self, spec: UseCaseSpec, **more: Any) -> tuple[dict[str, Any], dg.AssetCheckEvaluation]:
        result = self.run(spec, judge_evaluation, **more)
        shown = {
            name: value.value for name, value in result.asset_materializations_for_node("triage__judge_evaluation")[0].metadata.items()
        }
        [check] = result.get_asset_check_evaluations()
        return shown, check


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_judge_that_people_calibrated_gives_a_corrected_win_rate(world: World):
    with model_server(answering(right_one)) as model:
        spec = world.spec(model.url)
        world.people(spec)
        shown, check = world.judged(spec)
        assert world.judged(spec)[0]["reused"]
    assert (shown["state"], shown["rows_rated_by_people"], shown["agreement_with_people"]) == ("calibrated", 60, 1.0)
    assert shown["win_rate_corrected_low"] < shown["win_rate_corrected"] < shown["win_rate_corrected_high"]
    assert shown["win_rate_corrected"] == pytest.approx(shown["win_rate_judge_alone"])
    assert shown["rows"] > 60
    assert check.passed
    assert "corrected by people on 60 of" in str(check.description)


def test_a_biased_judge_is_corrected_by_people(world: World):
    """It is for the longer answer; people prefer the right one."""
    with model_server(answering(lambda prompt, a, b: "A" if len(a) > len(b) else "B")) as model:
        spec = world.spec(model.url)
        world.people(spec)
        shown, _ = world.judged(spec)
    people = json.loads(world.store.current("triage", "human_evaluation").file("result.json").read_text(encoding="utf-8"))
    assert shown["win_rate_corrected_low"] <= people["win_rate"]["estimate"] <= shown["win_rate_corrected_high"]
    assert abs(shown["win_rate_judge_alone"] - people["win_rate"]["estimate"]) > 0.1


def test_without_enough_people_its_numbers_are_shown_and_decide_nothing(world: World):
    with model_server(answering(right_one)) as model:
        spec = world.spec(model.url, pairs=49, required=True)
        world.people(spec)
        shown, check = world.judged(spec)
    assert shown["state"] == "uncalibrated: people rated 49 of the 50 test rows that it needs"
    assert "win_rate_corrected" not in shown
    assert "win_rate_judge_alone" in shown
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_a_required_judge_that_is_believed_stops_a_model_that_loses(world: World):
    def wrong_one(prompt: str, a: str, b: str) -> str:
        return {"A": "B", "B": "A", "tie": "tie"}[right_one(prompt, a, b)]

    with model_server(answering(wrong_one)) as model:
        spec = world.spec(model.url, required=True)
        world.people(spec, wrong_one)
        _, check = world.judged(spec, raise_on_error=False)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    with pytest.raises(FailedUpstream):
        world.store.current("triage", "judge_evaluation")


def test_a_judge_that_is_down_fails_by_name_and_goes_on_where_it_was(world: World):
    good = answering(right_one)
    with model_server(lambda request, before: good(request, before) if before < 40 else (503, {}, {})) as model:
        spec = world.spec(model.url)
        world.people(spec)
        with pytest.raises(ModelUnreachable, match="what was answered before is kept"):
            world.judged(spec)
    with model_server(good) as model:
        shown, _ = world.judged(world.spec(model.url))
    assert len(model.asked) == 2 * shown["rows"] - 40


def test_a_judge_that_is_the_base_by_a_name_of_the_catalogue_is_refused(world: World):
    with model_server(answering(right_one)) as model:
        spec = world.spec(model.url, model="organisation/Tiny")
        world.people(spec)
        put(world.store, "base_model", {"base_model.json": {"id": "small", "source": {"hub": {"repo": "other/tiny"}}}})
        with pytest.raises(JudgedByItself, match="'other/tiny' is what is fine-tuned"):
            world.judged(spec)


def test_only_a_required_judge_stands_before_deployment(world: World):
    def reads(**judge: Any) -> set[str]:
        assets = assets_of(world.spec("http://localhost:9999/v1", **judge))
        assert list(assets).index("judge_evaluation") < list(assets).index("registered_model")
        return {key.path[-1] for key in assets["registered_model"].dependency_keys}

    assert "judge_evaluation" not in reads()
    assert "judge_evaluation" in reads(required=True)
    assert "judge_evaluation" not in assets_of(use_case(world.folder))
