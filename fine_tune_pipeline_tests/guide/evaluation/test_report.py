import copy
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.guide.evaluation.assets import evaluation_report, predictions
from fine_tune_pipeline.guide.evaluation.summary import summary_section
from fine_tune_pipeline_tests.guide.evaluation.bare_numbers import bare
from fine_tune_pipeline_tests.guide.evaluation.world import RIGHT, PretendedCompute, before_evaluation, examples, resources, use_case

TEST = examples(120)
PRICES = [{"device": "CPU", "per_hour": 3.6, "currency": "EUR", "as_of": "2026-11-01", "source": "a bill"}]


class Made:
    """A report that was made once, and what the web UI shows of it."""

    def __init__(self, folder: Path, *, right: dict[str, float], **changes: Any) -> None:
        self.store = Store.at(str(folder / "store"))
        before_evaluation(self.store, train=examples(160, start=1000), test=TEST)
        compute = PretendedCompute(answers={row.id: row.completion for row in TEST}, right={**RIGHT, **right})
        spec = use_case(folder, **changes)
        assets = [predictions(spec), evaluation_report(spec)]
        result = dg.materialize(assets, resources=resources(folder, compute), raise_on_error=False)
        (event,) = result.asset_materializations_for_node("triage__evaluation_report")
        self.shown = {name: value.value for name, value in event.metadata.items()}
        self.checks = {check.check_name: check for check in result.get_asset_check_evaluations()}

    def text(self, name: str) -> str:
        artifact = self.store.peek("triage", "evaluation_report")
        assert artifact is not None
        return artifact.file(name).read_text(encoding="utf-8")

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.text("report.json"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    objective = {"limits": {"memory_gib": 2, "cost_per_1000": 1}}
    return Made(tmp_path_factory.mktemp("met"), right={}, objective=objective, environment={"prices": PRICES})


@pytest.mark.parametrize(
    ("right", "verdict"),
    [({}, "met"), ({"fine_tuned": 0.64}, "cannot tell"), ({"fine_tuned": 0.2}, "not met")],
)
def test_every_form_of_the_report_begins_with_the_verdict(tmp_path: Path, right: dict[str, float], verdict: str):
    made = Made(tmp_path, right=right)
    outcome = made.report["outcome"]
    line = outcome["line"]
    assert line.startswith(f"Objective {verdict}: ")
    assert (outcome["verdict"], outcome["n"], outcome["level"]) == (verdict, 120, 0.97)
    assert f"{outcome['estimate']:.3f} on 120 rows" in line
    assert f"{outcome['bound']:.3f}" in line
    assert "97 % confidence" in line
    assert made.text("report.md").split("\n")[0] == f"# {line}"
    assert re.search(r"<h1>([^<]*)</h1>", made.text("report.html"))[1] == line
    assert next(iter(made.shown)) == "outcome"
    assert made.shown["outcome"] == line
    assert made.shown["report"].startswith(f"# {line}")
    assert str(made.checks["meets_objective"].description).startswith(line)


def test_no_figure_of_the_report_lacks_rows_or_interval(made: Made):
    assert bare(made.report) == []


def test_every_task_keeps_that_rule(tmp_path: Path):
    success = [{"metric": "token_f1", "at_least": 0.3}, {"metric": "chrf", "beats": "base_few_shot"}]
    open_task = Made(tmp_path, right={}, objective={"task": {"type": "generation"}, "success": success, "guards": []})
    assert bare(open_task.report) == []
    assert open_task.report["classes"] == []


@pytest.mark.parametrize(
    ("spoil", "path"),
    [
        (lambda report: report["systems"]["fine_tuned"]["exact_match"].pop("n"), "systems.fine_tuned.exact_match.estimate"),
        (lambda report: report["systems"]["majority"]["valid_json"].pop("low"), "systems.majority.valid_json.estimate"),
        (lambda report: report["classes"][0].update(found={"fine_tuned": 0.5}), "classes.0.found.fine_tuned"),
        (lambda report: report["costs"][-1]["latency_seconds"]["p50"].pop("n"), "latency_seconds.p50"),
        (lambda report: report["no_interval"].update(training=" "), "no_interval.training"),
        (lambda report: report["no_interval"].pop("peak_memory_gib"), "peak_memory_gib"),
        (lambda report: report.update(exact_match=0.123), "exact_match"),
        (lambda report: report.update(gain_low=0.5), "gain_low"),
        (lambda report: report["means"]["majority"].update(exact_match=0.9), "means.majority.exact_match"),
        (lambda report: report.update(added={"rows": 5, "seed": 3, "win_rate": 0.6}), "added.win_rate"),
        (lambda report: report.update(confusions=[{"field": "x", "share": 0.3}]), "confusions.0.share"),
        (lambda report: report["verdicts"][-1].update(how=""), "verdicts.4.estimate"),
    ],
)
def test_the_rule_finds_a_bare_number(made: Made, spoil: Callable[[dict[str, Any]], Any], path: str):
    report = copy.deepcopy(made.report)
    spoil(report)
    assert any(found.endswith(path) for found in bare(report))


def test_table_of_figures_in_the_web_ui_names_rows_and_interval_of_every_number(made: Made):
    rows = [record.data for record in made.shown["figures"].records]
    plotted = {name.removeprefix("fine_tuned/"): value for name, value in made.shown.items() if name.startswith("fine_tuned/")}
    own = {row["metric"]: row for row in rows if row["system"] == "fine_tuned"}
    assert {name: row["estimate"] for name, row in own.items()} == plotted
    assert all(row["n"] == 120 and row["low"] <= row["estimate"] <= row["high"] for row in rows)


def test_limits_say_that_they_are_one_measurement(made: Made):
    limits = [verdict for verdict in made.report["verdicts"] if verdict["kind"] == "limit"]
    assert [limit["metric"] for limit in limits] == ["memory_gib", "cost_per_1000"]
    assert {limit["how"] for limit in limits} == {"one measurement, so without interval"}


def test_money_and_single_answers_stand_beside_every_system(made: Made):
    costs = {cost["system"]: cost for cost in made.report["costs"]}
    # 2 s for 120 rows at 3.60 an hour.
    assert costs["fine_tuned"]["cost_per_1000"] == pytest.approx(1000 * 2 / 120 * 3.6 / 3600)
    assert costs["majority"]["cost_per_1000"] == 0
    assert {cost["currency"] for cost in costs.values()} == {"EUR"}
    median = costs["base_few_shot"]["latency_seconds"]["p50"]
    assert (median["estimate"], median["low"], median["high"], median["n"]) == pytest.approx((0.3, 0.1, 0.6, 6))
    assert costs["base_few_shot"]["latency_seconds"]["p95"]["high"] is None
    assert costs["classifier"]["latency_seconds"] is None
    text = made.text("report.md")
    assert "cost per 1,000" in text
    assert "0.300 [0.100, 0.600]" in text
    assert "6 answers of each language model were timed one at a time" in text


def test_without_a_price_seconds_stand_alone_and_how_to_get_money_is_said(tmp_path: Path):
    made = Made(tmp_path, right={}, evaluation={"timed_rows": 0})
    text = made.text("report.md")
    assert "| cost per 1,000 |" not in text
    assert "environment.prices" in text
    assert {cost["latency_seconds"] for cost in made.report["costs"]} == {None}
    assert "against seconds per 1,000 answers" in made.text("report.html")


def test_summary_says_what_was_asked_reached_what_it_costs_and_what_is_next(made: Made):
    section = made.text("report.md").split("## In short")[1].split("##")[0]
    asked, reached, costs, following = [line for line in section.split("\n") if line.startswith("- ")]
    assert asked.startswith("- Asked: Turn a customer's message into intent and urgency; that is, exact_match at least 0.6")
    own = made.report["systems"]["fine_tuned"]["exact_match"]
    assert f"has exact_match {own['estimate']:.3f} [{own['low']:.3f}, {own['high']:.3f}]" in reached
    assert "on 120 rows that no training has seen" in reached
    assert "1,000 answers of the fine-tuned model take 16.7 seconds and 0.0167 EUR in batches, measured once on 120 rows" in costs
    assert "median of 6" in costs
    assert following.startswith(
        "- Next: A plain classifier is the better buy; the fine-tuned model, which meets the objective too, is not needed. The"
    )


MORE = {"title": "more rows", "why": "few, n = 9"}


@pytest.mark.parametrize(
    ("choice", "verdict", "steps", "said"),
    [
        ("fine_tune", "met", [], "Fine-tuning pays; deploy it (step 8)."),
        (
            "not_yet",
            "not met",
            [MORE],
            "Fine-tuning pays; do not deploy the fine-tuned model. The first thing to try: more rows (few, n = 9).",
        ),
        ("cannot_tell", "cannot tell", [], "Fine-tuning pays; do not deploy the fine-tuned model yet."),
        ("prompting", "met", [], "Fine-tuning pays; the fine-tuned model, which meets the objective too, is not needed."),
    ],
)
def test_what_is_next_follows_advice_and_verdict(made: Made, choice: str, verdict: str, steps: list[dict[str, str]], said: str):
    advice = {"choice": choice, "sentence": "Fine-tuning pays: by far."}
    report = {**made.report, "recommendation": advice, "next_steps": steps}
    report["outcome"] = {**report["outcome"], "verdict": verdict}
    (section,) = summary_section(report)
    assert section.items[-1] == f"Next: {said}"


class Loads(HTMLParser):
    """Everything in a page that a browser would fetch, and what is folded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.folded: list[str] = []
        self._in_summary = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name for name, _ in attrs} & {"src", "href", "srcset", "data", "poster", "action", "xlink:href", "onload", "onclick"}
        if tag in ("script", "link", "img", "iframe", "object", "embed", "audio", "video", "base", "form") or named:
            self.fetched.append(tag)
        self._in_summary = self._in_summary or tag == "summary"

    def handle_endtag(self, tag: str) -> None:
        self._in_summary = self._in_summary and tag != "summary"

    def handle_data(self, data: str) -> None:
        if self._in_summary and data.strip():
            self.folded.append(data)


def test_page_needs_nothing_beside_it_shows_its_pictures_and_folds_the_details(made: Made):
    text = made.text("report.html")
    page = Loads(text)
    assert page.fetched == []
    assert not re.search(r"https?:|url\(|@import|//cdn", text)
    titles = re.findall(r"<svg[^>]*><title>([^<]*)</title>", text)
    assert [title.split(" over 120 rows")[0] for title in titles] == [
        "exact_match of all systems with 95 % intervals",
        "Gain of the fine-tuned model in exact_match with 95 % intervals",
        "exact_match with 95 % intervals",
        "intent: right values in rows, answers in columns",
        "Share right by probability of the fine-tuned model&#x27;s answer; on the line both are the same",
        "exact_match by training rows",
        "Loss by step: thin line training, thick line validation",
    ]
    assert page.folded[0] == "Classes, worst first"
    assert page.folded[-1] == "How this was measured"
    assert not {"In short", "Is the objective met?", "What the answers cost", "What to try next"} & set(page.folded)
    # The wanted gain of the objective is drawn, not the smallest one that matters.
    assert made.report["evidence"]["wanted_gain"] == 0.1
    assert text.count('class="wanted"') == 1


def test_parts_without_interval_say_why_in_the_report(made: Made):
    text = made.text("report.md")
    for part, why in made.report["no_interval"].items():
        assert f"Without interval ({part}): {why}." in text
