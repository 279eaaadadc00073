"""The data card: facts that are counted right, limits that are named where they hold, pages that hold no personal data."""

import json
import re
from dataclasses import asdict, replace
from functools import partial
from html.parser import HTMLParser

import pytest

from fine_tune_pipeline.artifacts.examples import write_examples, write_rows
from fine_tune_pipeline.artifacts.parts import cut, gathered, work_on
from fine_tune_pipeline.guide.dataset.publishing.card import card
from fine_tune_pipeline.guide.dataset.publishing.card_page import card_page
from fine_tune_pipeline.guide.dataset.publishing.languages import languages
from fine_tune_pipeline.guide.dataset.publishing.publish import published
from fine_tune_pipeline.guide.dataset.publishing.split import Split
from fine_tune_pipeline.guide.dataset.scrubbing.disclosure import disclosed
from fine_tune_pipeline.guide.dataset.scrubbing.scrub import scrubbed, scrubbed_part
from fine_tune_pipeline.guide.dataset.steps import Step, made, out, read_steps
from fine_tune_pipeline.pages.document import html, markdown
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, OPEN, Words, example, use_case
from fine_tune_pipeline_tests.guide.dataset.publishing.test_publish import REVIEW, SOURCES, STEPS
from fine_tune_pipeline_tests.guide.dataset.publishing.test_split import rows

GERMAN = "Ich möchte wissen, warum meine Karte gestern im Laden nicht angenommen wurde"
ENGLISH = "I would like to know why my card was not accepted in the shop yesterday evening"


def content(tmp_path, *, train, steps=STEPS, test=(), task=FRUIT, **section):
    parts = Split(list(train), [], list(test), [], by_held_out=False)
    ended = Step("split", len(train) + len(test), len(train) + len(test))
    return card([*steps, ended], parts, use_case="fruit", task=task, spec=use_case(tmp_path, **section).dataset)


def test_every_limit_that_holds_is_named(tmp_path):
    train = [example("1", "a b c", "apple", metadata={"review": "auto_accept", "synthetic": "template"}), example("2", ENGLISH, "apple")]
    steps = [replace(STEPS[0], notes={"sources": [{**SOURCES[0], "licence": "not stated"}]}), *STEPS[1:]]
    said = "\n".join(content(tmp_path, train=train, steps=steps, clean={"skip": ["html"]})["limits"])
    for fact in (
        "2 of 2 rows (100%) were not looked at by any person",
        "3 rows were marked as doubtful",
        "No detector finds all of it",
        "The test has 0 rows",
        "Classes with fewer than 10 training rows: apple (2), pear (0)",
        "Classes without a test row, of which the evaluation can say nothing: apple, pear",
        "1 of 2 rows (50%) are synthetic, 0 of them in the test",
        "The terms of these sources are not stated: jsonl:rows.jsonl",
        "leaves out: html",
    ):
        assert fact in said


def test_a_limit_that_does_not_hold_is_not_named(tmp_path):
    seen = {"review": "accept"}
    train = [example(f"a{n}", f"{ENGLISH} {n}", ("apple", "pear")[n % 2], metadata=seen) for n in range(40)]
    test = [example(f"t{n}", f"{ENGLISH} {n}", ("apple", "pear")[n % 2], metadata=seen) for n in range(200)]
    assert [limit.split()[0] for limit in content(tmp_path, train=train, test=test)["limits"]] == ["Personal", "Nobody", "Lengths"]
    assert not any("Class" in limit for limit in content(tmp_path, train=train, task=OPEN)["limits"])


def test_what_people_found_in_a_random_sample_becomes_an_estimate(tmp_path):
    seen = {"residue_sample": {"looked_at": 100, "still_private": 2}}
    steps = [replace(step, notes={**step.notes, **seen}) if step.name == "review" else step for step in STEPS]
    limits = "\n".join(content(tmp_path, train=[example("a", "apple")], steps=steps)["limits"])
    assert "2 of 100 rows drawn at random (2.0%): with 95% confidence at most 6.2%" in limits


def test_duplicates_are_counted_over_all_steps_and_what_is_left_is_said(tmp_path):
    steps = [*STEPS[:3], replace(STEPS[3], quarantined={"near_duplicate": 1, "rejected_by_expert": 1}, rows_in=202, kept=200)]
    train = [example(str(n), "x", metadata={"cluster": cluster}) for n, cluster in enumerate("aabccc")]
    assert content(tmp_path, train=train, steps=steps)["duplicates"] == {
        "taken_out": {"exact_duplicate": 2, "near_duplicate": 1}, "clusters_left": 2, "rows_in_clusters": 5,
    }  # fmt: skip


def test_languages_are_those_of_the_kept_prompts_and_short_texts_are_unsure():
    found = languages([example("1", GERMAN), example("2", ENGLISH), example("3", ENGLISH + "?"), example("4", "ok")])
    assert found == {"looked_at": 4, "rows": {"en": 2, "de": 1, "unsure": 1}}


def test_another_language_is_a_limit_only_where_it_has_a_share(tmp_path):
    train = [example(f"e{n}", f"{ENGLISH} {n}") for n in range(49)]
    assert "de (2%)" in "\n".join(content(tmp_path, train=[*train, example("g", GERMAN)])["limits"])
    assert "de (" not in "\n".join(content(tmp_path, train=[*train, *train, example("g", GERMAN)])["limits"])


@pytest.mark.parametrize(
    ("agreement", "said"),
    [
        ({"kappa": 0.71}, "| kappa | 0.71 |"),
        ("Two people agree in 9 of 10 rows.", "agree in 9 of 10"),
        ([{"question": "tone"}], "| tone |"),
    ],
)
def test_agreement_of_reviewers_is_shown_if_the_review_has_it(tmp_path, agreement, said):
    steps = [*STEPS[:3], replace(STEPS[3], notes={**REVIEW, "agreement": agreement})]
    assert said in markdown(card_page(content(tmp_path, train=rows(9), steps=steps)))
    assert "Agreement" not in markdown(card_page(content(tmp_path, train=rows(9))))


def test_rows_are_counted_by_their_own_terms_else_by_those_of_their_source(tmp_path):
    train = [example("1", "a", source="jsonl:rows.jsonl"), example("2", "b", source="jsonl:rows.jsonl", licence="MIT"), example("3", "c")]
    assert content(tmp_path, train=train)["rows_by_licence"] == {"CC0-1.0": 1, "MIT": 1, "not stated": 1}


def test_coverage_is_told_against_the_classes_of_the_objective(tmp_path):
    train = [example("1", "a", "apple"), example("2", "b", "apple")]
    assert "1 of the 2 classes of the objective have training rows" in markdown(card_page(content(tmp_path, train=train)))
    assert "The task is open" in markdown(card_page(content(tmp_path, train=train, task=OPEN)))


class Tags(HTMLParser):
    """Checks that every element is closed, and collects what is referred to."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "rect", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("rect", "path", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_the_page_is_whole_needs_nothing_beside_it_and_shows_the_funnel(tmp_path):
    train = [*rows(30), example("x", "<script>alert(1)</script>", "apple")]
    page = html(card_page(content(tmp_path, train=train)))
    tags = read(page)
    assert (tags.links, "<script" in page, "http" in page) == ([], False, False)
    assert {"201 kept, 2 out", "exact_duplicate", "Lengths of each prompt"} <= set(tags.text)
    assert page.count("<svg") == 6


def test_personal_data_of_rows_that_left_early_is_not_in_the_card(tmp_path):
    """From the quarantine of a step before the scrubber, through the scrubber, into all forms of the card."""
    clean, scrub = tmp_path / "clean", tmp_path / "scrub"
    clean.mkdir()
    scrub.mkdir()
    kept = rows(200)
    secret = [out(example("q1", "Margaret of Riverton, m.o@fruit.example"), "too_long", "said 'Margaret'")]
    steps = [Step("collect", 201, 201, notes={"sources": SOURCES}), made("clean", kept=kept, quarantine=secret, notes={"marked": 0})]
    write_examples(clean / "examples.jsonl", kept)
    write_rows(clean / "steps.jsonl", map(asdict, steps))
    spec = use_case(tmp_path, pii={"entities": ["PERSON"]}, review={"policy": "auto_accept"}).dataset
    detect, stand_ins = Words(Margaret="PERSON"), StandIns(spec.pii)
    parts = cut(clean / "examples.jsonl")
    for part in parts:
        work_on(part, partial(scrubbed_part, spec=spec.pii, task=FRUIT, detect=detect, stand_ins=stand_ins), folder=tmp_path / "parts")
    before = disclosed(read_steps(clean), pii=spec.pii, stand_ins=stand_ins, detect=detect)
    scrubbed(gathered(parts, tmp_path / "parts"), scrub, spec=spec.pii, before=before)
    review = Step("review", 200, 200, notes={"policy": "auto_accept"})
    write_rows(scrub / "steps.jsonl", [*map(json.loads, (scrub / "steps.jsonl").read_text().splitlines()), asdict(review)])
    made_here = tmp_path / "dataset"
    made_here.mkdir()
    built = published(scrub, made_here, spec=spec, task=FRUIT, use_case="fruit")
    for text in (*built.markdown.values(), *((made_here / f"card.{kind}").read_text(encoding="utf-8") for kind in ("md", "html", "json"))):
        assert not re.search("Margaret|m.o@fruit", text)
        assert "too_long" in text.replace("\\", "")


def test_rows_that_people_rejected_are_named_and_not_quoted(tmp_path):
    gone = [out(example("q1", "still says 555-0100"), "rejected_by_expert", "by Kim: 555-0100 is left")]
    steps = [*STEPS[:3], replace(made("review", kept=rows(200), quarantine=gone, notes=REVIEW))]
    text = json.dumps(content(tmp_path, train=rows(9), steps=steps))
    assert "q1" in text
    assert "555-0100" not in text


def test_the_card_says_how_large_the_parts_are_beside_what_was_asked(tmp_path):
    train, test = [example(f"{n}", f"text {n}") for n in range(90)], [example(f"t{n}", f"other {n}") for n in range(10)]
    said = content(tmp_path, train=train, test=test, split={"test": 0.4, "validation": 0.1})["split"]["said"]
    assert "Test: 10 rows, 10%, where 40% was asked." in said
    assert "It is fewer since" in said
    enough = content(tmp_path, train=train[:15], test=test, split={"test": 0.4, "validation": 0.01})["split"]["said"]
    assert "It is fewer since" not in enough
