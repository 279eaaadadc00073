import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, human_evaluation, predictions
from fine_tune_pipeline.guide.evaluation.held_out_rows import NoTestRows
from fine_tune_pipeline.guide.evaluation.scoring import ScoreMismatch
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline_tests.guide.evaluation.world import RIGHT, PretendedCompute, before_evaluation, examples, resources, use_case

TRAIN, TEST = examples(160, start=1000), examples(200)


class World:
    """One store with everything before the evaluation, and a pretended place to run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.at(str(folder / "store"))
        self.compute: dict[str, Any] = {"answers": {row.id: row.completion for row in TEST}}
        before_evaluation(self.store, train=TRAIN, test=TEST)

    def run(
        self, spec: UseCaseSpec, *factories: Callable[[UseCaseSpec], dg.AssetsDefinition], raise_on_error: bool = True
    ) -> dg.ExecuteInProcessResult:
        assets = [factory(spec) for factory in factories]
        return dg.materialize(assets, resources=resources(self.folder, PretendedCompute(**self.compute)), raise_on_error=raise_on_error)

    def kept(self, asset: str, name: str) -> str:
        artifact = self.store.peek("triage", asset)
        assert artifact is not None
        return artifact.file(name).read_text(encoding="utf-8")

    def right_answers(self, system: str) -> int:
        """How often a system's text is the row's completion; the pretended program copies it when it is right."""
        rows = read_rows(self.store.current("triage", "predictions").file(f"{system}.jsonl"))
        return sum(row["text"] == truth.completion for row, truth in zip(rows, TEST, strict=True))

    def report(self) -> dict[str, Any]:
        return json.loads(self.kept("evaluation_report", "report.json"))

    def shown(self, result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
        return {name: value.value for name, value in result.asset_materializations_for_node(f"triage__{asset}")[0].metadata.items()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def test_every_system_answers_every_test_row(world: World):
    result = world.run(use_case(world.folder), predictions)
    shown = world.shown(result, "predictions")
    assert shown["systems"] == "majority, word_classifier, classifier, base_zero_shot, base_few_shot, base_retrieval, fine_tuned"
    artifact = world.store.current("triage", "predictions")
    systems = ("majority", "word_classifier", "classifier", *RIGHT)
    assert set(artifact.manifest.files) == {
        "costs.json",
        "classifier_half.jsonl",
        "test_vectors.npy",
        "train_vectors.npy",
        *(f"{system}.jsonl" for system in systems),
    }
    for system in systems:
        assert [row["id"] for row in read_rows(artifact.file(f"{system}.jsonl"))] == [row.id for row in TEST]
    assert {row["text"] for row in read_rows(artifact.file("majority.jsonl"))} == {TRAIN[0].completion}
    assert [json.loads(row["text"]) for row in read_rows(artifact.file("classifier.jsonl"))] == [json.loads(row.completion) for row in TEST]
    costs = {cost["system"]: cost for cost in artifact.json("costs.json")["systems"]}
    assert (costs["fine_tuned"]["new_tokens"], costs["fine_tuned"]["seconds"]) == (1800, 2.0)
    assert costs["classifier"]["new_tokens"] is None


def test_systems_that_make_no_sense_for_a_task_are_absent_and_said_to_be(world: World):
    success = [{"metric": "token_f1", "at_least": 0.3}]
    spec = use_case(world.folder, objective={"task": {"type": "question_answering"}, "success": success, "guards": []})
    before_evaluation(world.store, train=TRAIN, test=TEST, shots=[])
    world.run(spec, predictions, evaluation_report)
    report = world.report()
    assert set(report["systems"]) == {"majority", "base_zero_shot", "base_retrieval", "fine_tuned"}
    assert set(report["absent"]) == {"word_classifier", "classifier", "base_few_shot"}
    assert report["gain_over"] == "base_zero_shot"


def test_answers_are_scored_by_meaning_style_and_a_metric_of_the_users(world: World):
    place = world.folder / "metrics" / "short"
    place.mkdir(parents=True)
    (place / "short.py").write_text(
        "def score_one(prediction, reference, example):\n    return float(len(prediction) < 60)\n", encoding="utf-8"
    )
    objective = {
        "task": {"type": "question_answering"},
        "success": [{"metric": "similarity", "beats": "base_few_shot", "by": 0.1}],
        "guards": [
            {"metric": "short", "at_least": 0.9},
            {"metric": "follows_style", "at_least": 0.9},
            {"metric": "exact_match", "at_least": 0.6, "slice": {"where": {"channel": "app"}}},
            {"metric": "chrf", "versus": "base", "margin": 0.05},
        ],
        "metrics": [{"name": "short", "better": "higher", "binary": True, "about": "is short"}],
        "voice": {"rules": [{"name": "calm", "never": ["!"]}]},
    }
    world.run(use_case(world.folder, objective=objective), predictions, evaluation_report)
    report = world.report()
    assert [verdict["verdict"] for verdict in report["verdicts"]] == ["met"] * 5
    assert {"similarity", "short", "follows_style", "rule.calm", "chrf"} <= set(report["metrics"])
    artifact = world.store.current("triage", "evaluation_report")
    rows = [row for row in read_rows(artifact.file("scores.jsonl")) if row["system"] == "fine_tuned"]
    assert all(row["similarity"] == pytest.approx(1.0) for row in rows if row["exact_match"])
    assert "embed" not in {path.name for path in artifact.folder.iterdir()}
    assert report["means"]["fine_tuned"]["chrf"] != pytest.approx(sum(row["chrf"] for row in rows) / 200, abs=1e-4)


def test_predictions_need_a_test_set(world: World):
    before_evaluation(world.store, train=TRAIN, test=[])
    with pytest.raises(NoTestRows, match="held_out"):
        world.run(use_case(world.folder), predictions)


def test_report_holds_the_numbers_of_the_demo(world: World):
    result = world.run(use_case(world.folder), predictions, evaluation_report)
    report = world.report()
    own, base = (world.right_answers(system) for system in ("fine_tuned", "base_few_shot"))
    assert report["n"] == 200
    assert report["exact_match"] == pytest.approx(own / 200)
    assert report["base_few_shot"] == pytest.approx(base / 200)
    assert report["gain"] == pytest.approx((own - base) / 200)
    assert report["gain_low"] < report["gain"] < report["gain_high"]
    assert {"field_match.intent", "field_match.urgency", "valid_json", "schema_valid"} <= set(report)
    assert report["means"]["fine_tuned"]["exact_match"] == report["exact_match"]
    assert world.shown(result, "evaluation_report")["fine_tuned/exact_match"] == report["exact_match"]
    assert all(check.passed for check in checks(result).values())


def test_scores_of_all_systems_are_kept_by_row(world: World):
    world.run(use_case(world.folder), predictions, evaluation_report)
    artifact = world.store.current("triage", "evaluation_report")
    rows = read_rows(artifact.file("scores.jsonl"))
    assert len(rows) == 7 * 200
    mean = sum(row["exact_match"] for row in rows if row["system"] == "fine_tuned") / 200
    assert mean == pytest.approx(world.report()["exact_match"])
    assert sorted(artifact.manifest.files) == ["next_steps.json", "report.html", "report.json", "report.md", "scores.jsonl"]


def test_one_test_row_gives_a_report_that_cannot_tell(world: World):
    before_evaluation(world.store, train=TRAIN, test=TEST[:1])
    success = [{"metric": "token_f1", "at_least": 0.3}, {"metric": "token_f1", "beats": "base_few_shot"}]
    guards = [{"metric": "length_ratio", "at_most": 2}]
    spec = use_case(world.folder, objective={"task": {"type": "generation"}, "success": success, "guards": guards})
    world.run(spec, predictions, evaluation_report, raise_on_error=False)
    report = world.report()
    assert report["verdicts"][1]["verdict"] == report["verdicts"][2]["verdict"] == "cannot tell"
    assert report["verdicts"][2]["bound"] is None


def test_means_that_differ_from_evaluate_stop_the_report(world: World):
    world.compute["mean_offset"] = 0.001
    with pytest.raises(ScoreMismatch):
        world.run(use_case(world.folder), predictions, evaluation_report)
    assert world.store.peek("triage", "evaluation_report") is None


@pytest.mark.parametrize(
    ("own", "objective_met", "beats"),
    [(0.8, True, True), (0.6, False, True), (0.3, False, False)],
)
def test_a_model_that_is_not_good_enough_is_stopped(world: World, own: float, objective_met: bool, beats: bool):
    world.compute["right"] = {**RIGHT, "fine_tuned": own}
    found = checks(world.run(use_case(world.folder), predictions, evaluation_report, raise_on_error=False))
    assert (found["meets_objective"].passed, found["beats_base"].passed) == (objective_met, beats)
    assert all(check.severity == dg.AssetCheckSeverity.ERROR for check in found.values() if not check.passed)


def test_a_missed_objective_points_to_the_next_base_model(world: World):
    world.compute["right"] = {**RIGHT, "fine_tuned": 0.3}
    world.run(use_case(world.folder), predictions, evaluation_report, raise_on_error=False)
    last = world.report()["next_steps"][-1]
    assert (last["id"], last["title"]) == ("other_base", "Try a larger base model, qwen3-0.6b")
    assert last["why"].startswith("2.2 times the parameters; `exact_match at least 0.6` is not met: 0.320 on 200 rows")


def test_the_report_shows_the_base_models_that_were_weighed_without_empty_columns(world: World):
    world.run(use_case(world.folder), predictions, evaluation_report)
    text = world.kept("evaluation_report", "report.md").split("Base models side by side")[1].split("\n#")[0]
    assert "tiny is the first of 2 candidates that passes. Minutes and costs are of 1,000 rows of 256 tokens." in text
    assert "candidate | parameters | verdict" in text
    assert "its licence is not accepted" in text


def test_a_missed_guard_stops_too(world: World):
    spec = use_case(world.folder, objective={"guards": [{"metric": "valid_json", "at_least": 0.97}]})
    check = checks(world.run(spec, predictions, evaluation_report, raise_on_error=False))["meets_objective"]
    assert not check.passed
    assert "valid_json at least 0.97" in str(check.description)


def test_a_missed_memory_limit_stops_too(world: World):
    world.compute["memory_gib"] = 3.0
    spec = use_case(world.folder, objective={"limits": {"memory_gib": 2}})
    check = checks(world.run(spec, predictions, evaluation_report, raise_on_error=False))["meets_objective"]
    assert "memory at most 2 GiB: not met; answering took 3.00 GiB" in str(check.description)


class Page(HTMLParser):
    """Tags that are open, texts, and everything that would load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.loads: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object") or any(name in ("src", "href") for name, _ in attrs):
            self.loads.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("rect", "path", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_page_is_well_formed_loads_nothing_and_shows_what_the_report_says(world: World):
    world.run(use_case(world.folder), predictions, evaluation_report)
    text, report = world.kept("evaluation_report", "report.html"), world.report()
    page = Page(text)
    assert page.open == []
    assert page.loads == []
    said = " ".join(page.texts)
    assert report["recommendation"]["sentence"] in said
    assert f"{report['systems']['fine_tuned']['exact_match']['estimate']:.3f}" in said
    assert "accepted without a human look" in said
    assert text.count("<svg") == 7


def test_text_of_a_customer_cannot_break_page_or_markdown(world: World):
    evil = "<script>alert(1)</script> | a `b` **c**"
    test = [*TEST[:-1], type(TEST[0])(TEST[-1].id, evil, TEST[-1].completion)]
    before_evaluation(world.store, train=TRAIN, test=test)
    world.compute["right"] = {**RIGHT, "fine_tuned": 0.0}
    world.run(use_case(world.folder), predictions, evaluation_report, raise_on_error=False)
    assert Page(world.kept("evaluation_report", "report.html")).loads == []
    markdown = world.kept("evaluation_report", "report.md")
    assert "<script>" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert tables
    assert all(line.endswith("|") for line in tables)


def test_nothing_changed_is_reused_and_a_changed_criterion_rebuilds_the_report_only(world: World):
    world.run(use_case(world.folder), predictions, evaluation_report, human_evaluation)
    again = world.run(use_case(world.folder), predictions, evaluation_report, human_evaluation)
    assert all(world.shown(again, asset)["reused"] for asset in ("predictions", "evaluation_report", "human_evaluation"))
    changed = use_case(world.folder, objective={"guards": [{"metric": "valid_json", "at_least": 0.7}]})
    after = world.run(changed, predictions, evaluation_report)
    assert world.shown(after, "predictions")["reused"]
    assert not world.shown(after, "evaluation_report")["reused"]
    assert "objective.guards" in world.shown(after, "evaluation_report")["changed"]


def hand_in(world: World, *, choose: Callable[[dict[str, str]], str], leave_out: int = 0) -> None:
    """Let one person judge the newest hand-out, by the key that only the test may read."""
    (handout,) = (world.folder / "reviews" / "triage" / "pairs").glob("*/handout.jsonl")
    key = json.loads(world.kept("human_evaluation", "key.json"))
    pairs = read_rows(handout)[leave_out:]
    lines = [json.dumps({"id": pair["id"], "choice": choose(key[pair["id"]]), "by": "Ann"}) for pair in pairs]
    handout.with_name("verdicts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def own_side(secret: dict[str, str]) -> str:
    return "A" if secret["A"] == "fine_tuned" else "B"


def test_people_are_waited_for_without_stopping_anything(world: World):
    result = world.run(use_case(world.folder), predictions, human_evaluation)
    check = checks(result)["human_verdict"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "waiting for people (0 of 36)" in str(check.description)
    assert result.success
    assert world.store.current("triage", "human_evaluation").metadata["pairs"] == 36


def test_hand_out_is_blind_and_the_key_is_not_beside_it(world: World):
    result = world.run(use_case(world.folder), predictions, human_evaluation)
    handout = Path(world.shown(result, "human_evaluation")["handout"])
    assert sorted(path.name for path in handout.parent.iterdir()) == ["handout.jsonl", "pairs.html"]
    for path in handout.parent.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "fine_tuned" not in text
        assert "base_few_shot" not in text


def test_required_people_stop_deployment_until_they_have_spoken(world: World):
    spec = use_case(world.folder, evaluation={"human": {"pairs": 30, "required": True}})
    waiting = checks(world.run(spec, predictions, human_evaluation, raise_on_error=False))["human_verdict"]
    assert (waiting.passed, waiting.severity) == (False, dg.AssetCheckSeverity.ERROR)
    hand_in(world, choose=own_side, leave_out=1)
    partly = world.run(spec, human_evaluation, raise_on_error=False)
    assert "waiting for people (35 of 36)" in str(checks(partly)["human_verdict"].description)
    hand_in(world, choose=own_side)
    done = world.run(spec, human_evaluation)
    assert checks(done)["human_verdict"].passed
    shown = world.shown(done, "human_evaluation")
    assert (shown["win_rate"], shown["same_when_swapped"]) == (1.0, 1.0)
    assert "verdicts" in shown["changed"]


def test_people_who_prefer_the_base_stop_it(world: World):
    spec = use_case(world.folder, evaluation={"human": {"pairs": 20, "required": True}})
    world.run(spec, predictions, human_evaluation, raise_on_error=False)
    hand_in(world, choose=lambda secret: "B" if own_side(secret) == "A" else "A")
    check = checks(world.run(spec, human_evaluation, raise_on_error=False))["human_verdict"]
    assert not check.passed
    assert "people do not prefer it" in str(check.description)


def test_people_who_always_choose_the_first_side_are_noticed(world: World):
    world.run(use_case(world.folder), predictions, human_evaluation)
    hand_in(world, choose=lambda _: "A")
    shown = world.shown(world.run(use_case(world.folder), human_evaluation), "human_evaluation")
    assert "people follow the side, not the answer" in shown["warnings"]
    assert shown["same_when_swapped"] == 0.0


def test_broken_verdicts_are_quarantined_and_the_others_count(world: World):
    world.run(use_case(world.folder), predictions, human_evaluation)
    hand_in(world, choose=own_side, leave_out=30)
    (verdicts,) = world.folder.glob("reviews/triage/pairs/*/verdicts.jsonl")
    with verdicts.open("ab") as stream:
        stream.write(b'not json\n{"id": "p001", "choice": "A", "by": "J\xe9r\xf4me"}\n{"id": "p777", "choice": "A", "by": "x"}\n')
    shown = world.shown(world.run(use_case(world.folder), human_evaluation), "human_evaluation")
    assert shown["answered"] == 7
    assert shown["quarantined"] == {"not_json": 1, "unknown_pair": 1}
    rows = [json.loads(line) for line in world.kept("human_evaluation", "quarantine.jsonl").splitlines()]
    assert [row["id"] for row in rows] == ["verdicts.jsonl:7", "verdicts.jsonl:9"]


def test_part_of_the_pairs_is_a_partial_result_that_is_marked_everywhere(world: World):
    world.run(use_case(world.folder), predictions, human_evaluation)
    nothing = json.loads(world.kept("human_evaluation", "result.json"))
    assert (nothing["partial"], nothing["win_rate"]) == (False, None)
    hand_in(world, choose=own_side, leave_out=30)
    result = world.run(use_case(world.folder), human_evaluation)
    shown, check = world.shown(result, "human_evaluation"), checks(result)["human_verdict"]
    kept = json.loads(world.kept("human_evaluation", "result.json"))
    assert (shown["partial"], kept["partial"], kept["answered"], kept["pairs"]) == (True, True, 6, 36)
    assert "PARTIAL: waiting for people (6 of 36)." in shown["result"]
    assert "partial result: win rate 1.00 (" in str(check.description)
    assert f"on {kept['rows']} test rows so far" in str(check.description)


def test_people_answer_the_rubric_of_the_task_and_each_person_is_shown(world: World):
    world.run(use_case(world.folder), predictions, human_evaluation)
    (form,) = world.folder.glob("reviews/triage/pairs/*/pairs.html")
    assert "Which answer follows the instruction" in form.read_text(encoding="utf-8")
    key = json.loads(world.kept("human_evaluation", "key.json"))
    lines = [
        {"id": pair, "choice": own_side(secret), "correct": own_side(secret), "follows": "both", "by": by}
        for pair, secret in key.items()
        for by in ("Ann", "Bob")
    ]
    form.with_name("verdicts.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    world.run(use_case(world.folder), human_evaluation)
    kept = json.loads(world.kept("human_evaluation", "result.json"))
    correct, follows = kept["rubric"]
    assert (correct["question"], correct["fine_tuned"]["estimate"], correct["other"]["estimate"], correct["gain"]["estimate"]) == (
        "correct", 1.0, 0.0, 1.0,
    )  # fmt: skip
    assert (follows["gain"]["estimate"], follows["alpha"]) == (0.0, None)
    assert [one["name"] for one in kept["reviewers"]] == ["ann", "bob"]
    assert kept["win_rate"]["lower"] < 1.0


def test_lost_hand_out_is_written_again(world: World):
    result = world.run(use_case(world.folder), predictions, human_evaluation)
    handout = Path(world.shown(result, "human_evaluation")["handout"])
    handout.unlink()
    world.run(use_case(world.folder), human_evaluation)
    assert handout.exists()
