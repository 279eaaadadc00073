"""The forms in a real browser: what a person types comes back as verdicts, and nothing that a model wrote runs there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.guide.dataset.review.files.html_form import form as examples_form
from fine_tune_pipeline.guide.evaluation.human.judgements import Asked, Judgement, read_judgements
from fine_tune_pipeline.guide.evaluation.human.pairs import Pair
from fine_tune_pipeline.guide.evaluation.human.ways import form, lines
from fine_tune_pipeline_tests.browser import chromium_page

pytestmark = pytest.mark.browser

EVIL = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\"><b>{{shared}}</b>"
PAIRS = [Pair(f"p{number:03}", f"prompt {number} {EVIL}", f"left {number} {EVIL}", f"right {number}") for number in range(1, 5)]
QUESTIONS = {"correct": "Which is correct?", "tone": "Which has the right tone?"}


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium_page() as page:
        yield page


class Form:
    """The form as a file in the browser, which says no word to any network."""

    def __init__(self, page: Page, file: Path, text: str) -> None:
        self.page, self.file = page, file
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        file.write_text(text, encoding="utf-8")
        self.open()

    def open(self) -> None:
        self.page.goto(self.file.as_uri())

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, id_: str) -> str:
        return self.page.locator(f"#{id_}").inner_text()

    def download(self, to: Path) -> Path:
        with self.page.expect_download() as download:
            self.keys("d")
        assert download.value.suggested_filename == "verdicts.jsonl"
        download.value.save_as(to)
        return to


@pytest.fixture
def pairs(page: Page, tmp_path: Path) -> Form:
    return Form(page, tmp_path / "pairs.html", form(PAIRS, questions=QUESTIONS, use_case="triage", name="abc"))


def judged(folder: ReviewFolder) -> tuple[list[Judgement], Sequence[Any]]:
    return read_judgements(lines(folder), Asked([pair.id for pair in PAIRS], tuple(QUESTIONS), "abc"))


def test_pairs_are_judged_by_keyboard_alone_and_the_file_is_handed_back(pairs: Form, tmp_path: Path):
    pairs.page.get_by_label("Your name").focus()
    pairs.page.keyboard.type("Kim")
    # A is better, correct A, tone both; next: B; next: equal, with a note; the fourth is begun and left without a choice.
    pairs.keys("Escape", "a", "1", "2", "2", "2", "j", "b", "j", "e", "n")
    pairs.page.keyboard.type("alike, d and j are letters here")
    pairs.keys("Escape", "j", "1")
    assert pairs.text("progress") == "3 of 4 pairs are judged"
    folder = ReviewFolder(tmp_path / "abc")
    folder.handed_in.mkdir(parents=True)
    pairs.download(folder.handed_in / "kim.jsonl")
    assert "1 are begun, but without a verdict" in pairs.text("status")
    assert judged(folder) == (
        [
            Judgement("p001", "A", "kim", {"correct": "A", "tone": "both"}),
            Judgement("p002", "B", "kim"),
            Judgement("p003", "equal", "kim", note="alike, d and j are letters here"),
        ],
        [],
    )
    assert pairs.errors == []
    assert all(url.startswith(("file:", "blob:")) for url in pairs.asked)


def test_what_a_model_wrote_is_shown_as_text_and_never_run(pairs: Form):
    assert pairs.text("A") == PAIRS[0].A
    assert pairs.text("prompt") == PAIRS[0].prompt
    assert pairs.page.locator("img").count() == 0
    assert pairs.page.title() == "Which answer is better? triage"
    assert pairs.errors == []


def test_progress_is_there_after_the_page_is_opened_again_and_not_in_the_next_hand_out(pairs: Form, tmp_path: Path):
    pairs.page.get_by_label("Your name").fill("Kim")
    pairs.keys("Escape", "a", "j", "u")
    pairs.open()
    assert pairs.text("progress") == "2 of 4 pairs are judged"
    assert pairs.page.get_by_label("Your name").input_value() == "Kim"
    pairs.file.write_text(form(PAIRS, questions=QUESTIONS, use_case="triage", name="next"), encoding="utf-8")
    pairs.open()
    assert pairs.text("progress") == "0 of 4 pairs are judged"


def test_nothing_is_given_without_a_name_and_a_contradiction_is_told_at_once(pairs: Form):
    pairs.keys("a", "d")
    assert "Write your name first" in pairs.text("status")
    pairs.keys("Escape", "1", "1", "2", "2", "2", "2")
    assert pairs.text("said") == "A is chosen, but by the answers nothing holds of it, and something of B"
    assert pairs.text("progress") == "0 of 4 pairs are judged"


CASES: list[Mapping[str, str]] = [
    {"choice": choice, "correct": correct, "tone": tone}
    for choice in ("A", "B", "equal", "unusable")
    for correct in ("A", "B", "both", "neither", "")
    for tone in ("A", "B", "both", "neither", "")
]


def test_the_form_decides_as_the_pipeline_does(pairs: Form, tmp_path: Path):
    said = pairs.page.evaluate("cases => cases.map(given => Boolean(decided(given).choice))", CASES)
    folder = ReviewFolder(tmp_path / "abc")
    folder.folder.mkdir()
    for case, decided in zip(CASES, said, strict=True):
        folder.verdict_file.write_text(json.dumps({"id": "p001", "by": "Kim", **case}), encoding="utf-8")
        assert bool(judged(folder)[0]) == decided, case


def test_the_page_holds_neither_key_nor_system(pairs: Form):
    text = pairs.file.read_text(encoding="utf-8")
    assert not [name for name in ("fine_tuned", "base_few_shot") if name in text]


def test_examples_are_reviewed_in_the_same_way(page: Page, tmp_path: Path):
    rows = [
        {"id": f"r{number}", "content": f"c{number}", "why": "", "look": "", "source": "s", "prompt": EVIL, "completion": "pear"}
        for number in range(3)
    ]
    opened = Form(page, tmp_path / "review.html", examples_form(rows, use_case="fruit"))
    page.get_by_label("Your name").fill("Kim")
    opened.keys("Escape", "y", "j", "r", "j", "f")
    page.keyboard.type("plum")
    opened.keys("Escape")
    opened.open()
    assert opened.text("progress") == "3 of 3 rows have a verdict"
    found = [json.loads(line) for line in opened.download(tmp_path / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["content"], line["verdict"], line["by"]) for line in found] == [
        ("c0", "accept", "Kim"),
        ("c1", "reject", "Kim"),
        ("c2", "fix", "Kim"),
    ]
    assert found[2]["corrected"] == "plum"
    assert opened.text("prompt") == EVIL
    assert (opened.errors, page.title()) == ([], "Review of fruit")
