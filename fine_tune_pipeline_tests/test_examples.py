"""The two whole examples hold what their rules and data cards promise; read as step 3 reads them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import fine_tune_pipeline
from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.guide.dataset.sources.collect import collected, gather
from fine_tune_pipeline.guide.objective.measures.rules import keeps
from fine_tune_pipeline.guide.objective.statement import state
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.spec.reading import read_use_case

EXAMPLES = Path(fine_tune_pipeline.__file__).parents[1] / "examples"
NAMES = ("mortgage_support", "earnings_summary")

FIGURE = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
SPOKEN = {
    "Q1": ("first quarter", "first-quarter", "q1"),
    "Q2": ("second quarter", "second-quarter", "q2"),
    "Q3": ("third quarter", "third-quarter", "q3"),
    "Q4": ("fourth quarter", "fourth-quarter", "final quarter", "q4"),
    "H1": ("first half", "half year", "six months"),
    "FY": ("",),
}
MONEY = {
    "USD": ("$", "dollars"),
    "EUR": ("€", "euros", "EUR"),
    "GBP": ("£", "pounds"),
    "CAD": ("Canadian dollars",),
    "AUD": ("Australian dollars",),
    "NOK": ("NOK", "kroner"),
    "SEK": ("SEK",),
    "DKK": ("DKK",),
    "CHF": ("francs",),
}
SHORT_UNITS = {"million": "m", "billion": "bn"}


def data(name: str, file: str) -> list[dict[str, Any]]:
    lines = (EXAMPLES / name / "data" / file).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def figures(text: str) -> set[float]:
    return {float(found.replace(",", "")) for found in FIGURE.findall(text)}


QUESTIONS, HELD_OUT_QUESTIONS = data("mortgage_support", "questions.jsonl"), data("mortgage_support", "held_out.jsonl")
CALLS, HELD_OUT_CALLS = data("earnings_summary", "calls.jsonl"), data("earnings_summary", "held_out.jsonl")
GUIDANCE = {page.stem: page.read_text(encoding="utf-8") for page in (EXAMPLES / "mortgage_support" / "documents").glob("*.md")}


@pytest.fixture(scope="module", params=NAMES)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name of an example, and the folder of its `raw_examples`."""
    folder = tmp_path_factory.mktemp(request.param)
    collected(gather(read_use_case(EXAMPLES / request.param / "defs.yaml")), folder, seed=0)
    return request.param, folder


def test_every_row_becomes_an_example_with_a_valid_answer(read: tuple[str, Path]):
    name, folder = read
    task = read_task(read_use_case(EXAMPLES / name / "defs.yaml"))
    examples = read_rows(folder / "examples.jsonl")
    rows = {"mortgage_support": [*QUESTIONS, *HELD_OUT_QUESTIONS], "earnings_summary": [*CALLS, *HELD_OUT_CALLS]}[name]
    assert sorted(example["id"] for example in examples) == sorted(row["id"] for row in rows)
    assert [(example["id"], problem) for example in examples if (problem := task.problem(example["completion"]))] == []
    assert (folder / "quarantine.jsonl").read_text(encoding="utf-8") == ""


def test_every_page_of_the_guidance_becomes_passages(read: tuple[str, Path]):
    name, folder = read
    expected = {"mortgage_support": {f"{page}.md" for page in GUIDANCE}, "earnings_summary": set()}[name]
    chunks = folder / "documents.jsonl"
    assert {chunk["document"] for chunk in (read_rows(chunks) if chunks.exists() else [])} == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_objective_can_be_measured_with_the_held_out_rows(name: str):
    statement = state(read_use_case(EXAMPLES / name / "defs.yaml"))
    assert statement.problems == ()
    assert statement.detectable is not None
    assert statement.detectable.gain <= statement.objective.evidence.smallest_gain


@pytest.mark.parametrize(
    ("train", "held_out", "text"), [(QUESTIONS, HELD_OUT_QUESTIONS, "question"), (CALLS, HELD_OUT_CALLS, "text")], ids=NAMES
)
def test_no_text_stands_twice_and_none_is_near_a_held_out_one(train: list[dict[str, Any]], held_out: list[dict[str, Any]], text: str):
    texts = [row[text].casefold() for row in [*train, *held_out]]
    assert len(set(texts)) == len(texts)
    trained = set().union(*(runs(row[text], words=12) for row in train))
    assert [(row["id"], shared) for row in held_out if (shared := runs(row[text], words=12) & trained)] == []


def runs(text: str, *, words: int) -> set[tuple[str, ...]]:
    said = re.findall(r"[\w']+", text.casefold())
    return {tuple(said[start : start + words]) for start in range(len(said) - words + 1)}


def broken_rules(answer: str) -> list[str]:
    voice = read_use_case(EXAMPLES / "mortgage_support" / "defs.yaml").objective.voice
    assert voice is not None
    return [rule.name for rule in voice.rules if not keeps(rule, answer)]


def test_every_answer_keeps_to_the_voice():
    assert {row["id"]: broken for row in [*QUESTIONS, *HELD_OUT_QUESTIONS] if (broken := broken_rules(row["answer"]))} == {}


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("Yes. Next step: call us.", "length"),
        (f"Hello, {'we look at it and ' * 6}say so. Next step: call us.", "no_greeting"),
        (f"We {'look at it and ' * 7}say so. Next step: call us. Or write.", "next_step"),
        (f"Next step: wait. We {'look at it and ' * 7}say so. Next step: call us.", "next_step"),
        (f"Yes! {'We look at it. ' * 6}Next step: call us.", "calm"),
        (f"It doesn't matter. {'We look at it. ' * 6}Next step: call us.", "whole_words"),
        (f"It will be approved. {'We look at it. ' * 6}Next step: call us.", "no_promise"),
        (f"Unfortunately not. {'We look at it. ' * 6}Next step: call us.", "no_filler"),
        (f"The LTV is high. {'We look at it. ' * 6}Next step: call us.", "no_jargon"),
    ],
)
def test_each_rule_of_the_voice_is_seen_to_be_broken(answer: str, rule: str):
    assert broken_rules(answer) == [rule]


def test_what_the_guidance_does_not_cover_is_said_to_be_so():
    said = {row["id"] for row in [*QUESTIONS, *HELD_OUT_QUESTIONS] if "Our guidance does not" in row["answer"]}
    assert said == {row["id"] for row in [*QUESTIONS, *HELD_OUT_QUESTIONS] if row["topic"] == "not_covered"}


def test_every_figure_of_an_answer_stands_on_its_page_or_in_the_question():
    pages = GUIDANCE | {"not_covered": " ".join(GUIDANCE.values())}
    unknown = {
        row["id"]: made_up
        for row in [*QUESTIONS, *HELD_OUT_QUESTIONS]
        if (made_up := figures(row["answer"]) - figures(pages[row["topic"]]) - figures(row["question"]))
    }
    assert unknown == {}


def test_what_is_known_from_training_has_its_figures_in_answers_of_the_same_page():
    for row in (row for row in HELD_OUT_QUESTIONS if row["known_from"] == "training"):
        told = set().union(*(figures(other["answer"]) for other in QUESTIONS if other["topic"] == row["topic"]))
        assert figures(row["answer"]) - figures(row["question"]) - told == set(), row["id"]
    assert {row["topic"] for row in HELD_OUT_QUESTIONS if row["known_from"] == "nowhere"} == {"not_covered"}


def test_every_value_of_a_summary_stands_in_its_excerpt():
    rows = [*CALLS, *HELD_OUT_CALLS]
    assert {row["id"]: fields for row in rows if (fields := list(unsupported(row)))} == {}


def test_a_value_that_its_excerpt_does_not_show_is_seen():
    row = next(row for row in CALLS if row["revenue"] is not None)
    wrong = row | {"company": "Nobody", "period": "FY 1999", "revenue": row["revenue"] + 0.007, "unit": None}
    assert list(unsupported(wrong)) == ["company", "period", "revenue", "revenue, unit and currency"]


def unsupported(row: Mapping[str, Any]) -> Iterator[str]:
    """Fields whose value the excerpt does not show."""
    text, told = row["text"], figures(row["text"])
    if row["company"] not in text:
        yield "company"
    part, year = row["period"].split()
    if year not in text or not any(words in text.casefold() for words in SPOKEN[part]):
        yield "period"
    yield from (
        field for field in ("revenue", "growth_percent", "margin_percent") if row[field] is not None and abs(row[field]) not in told
    )
    if (row["revenue"] is None) != (row["unit"] is None) or (row["revenue"] is None) != (row["currency"] is None):
        yield "revenue, unit and currency"
    if row["unit"] and row["unit"] not in text and not re.search(rf"\d{SHORT_UNITS[row['unit']]}\b", text):
        yield "unit"
    if row["currency"] and not any(sign in text for sign in MONEY[row["currency"]]):
        yield "currency"


def test_no_company_is_in_training_and_held_out():
    assert {row["company"] for row in CALLS} & {row["company"] for row in HELD_OUT_CALLS} == set()
    assert len({row["company"] for row in HELD_OUT_CALLS}) == len(HELD_OUT_CALLS)
