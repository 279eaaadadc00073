"""Made rows join the raw ones: counted, scrubbed before anything else is done to them, and followed to the card."""

import json

import pytest

from fine_tune_pipeline.artifacts.documents import Chunk, write_chunks
from fine_tune_pipeline.artifacts.examples import read_examples, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.quarantine import read_quarantine, write_quarantine
from fine_tune_pipeline.guide.dataset.more.balance import NoClasses
from fine_tune_pipeline.guide.dataset.more.hard import Slice
from fine_tune_pipeline.guide.dataset.more.making import Making
from fine_tune_pipeline.guide.dataset.more.more import Means, NothingToAskAbout, with_more
from fine_tune_pipeline.guide.dataset.scrubbing.scrub import scrub
from fine_tune_pipeline.guide.dataset.steps import made, read_steps
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline.spec.more import MoreSpec
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, OPEN, Words, example, use_case
from fine_tune_pipeline_tests.guide.dataset.model_server import model_server, said
from fine_tune_pipeline_tests.guide.dataset.test_assets import House

MODEL = {"url": "http://127.0.0.1:1/v1", "model": "tiny"}


def rows(count=40):
    return [
        example(str(number), f"Margaret likes sweet fruit {number * 37}", ("apple", "pear")[number % 4 == 0]) for number in range(count)
    ]


def means(folder, task=FRUIT, slices=(), chat=None, **more):
    def clean(examples):
        return scrub(examples, detect=Words(Margaret="PERSON"), task=task).examples

    def no_chat(model):
        raise AssertionError(f"nobody may be asked, and {model.model} was")

    return Means(spec=MoreSpec.model_validate(more), task=task, seed=0, folder=folder, scrub=clean, chat=chat or no_chat, hard=slices)


class Raw:
    """A folder as `collected` leaves it."""

    def __init__(self, folder, examples):
        self.folder = folder
        write_examples(folder / "examples.jsonl", examples)
        write_quarantine(folder, [])
        source = {"source": "s", "held_out": False, "rows": 1, "taken": 1, "examples": 1, "quarantined": 0, "licence": "own"}
        step = made("collect", kept=examples, quarantine=[], notes={"sources": [source]})
        write_rows(folder / "steps.jsonl", [vars(step)])

    def more(self, given):
        built = with_more(self.folder, Built(metadata={"held_out": 0}), given)
        [step] = read_steps(self.folder)
        examples, quarantine = read_examples(self.folder / "examples.jsonl"), read_quarantine(self.folder)
        assert step.rows_in == step.kept + sum(step.quarantined.values()) == len(examples) + len(quarantine)
        return built, examples, quarantine


def test_variants_join_the_rows_as_a_source_of_their_own(tmp_path):
    built, examples, _ = Raw(tmp_path, rows()).more(means(tmp_path, augment=[{"type": "typos", "share": 0.25}]))
    assert examples[:40] == rows()
    assert (len(examples), built.metadata["made"], built.metadata["rows_in"]) == (50, 10, 50)
    assert [(line["source"], line["examples"]) for line in built.metadata["sources"]] == [("s", 1), ("made: typos", 10)]


def test_personal_data_is_taken_out_before_a_slip_could_hide_it(tmp_path):
    _, examples, _ = Raw(tmp_path, rows()).more(means(tmp_path, augment=[{"type": "typos", "share": 0.5, "words": 1.0}]))
    new = [row.prompt for row in examples[40:]]
    assert new
    assert all(prompt.startswith("<PERSON> ") for prompt in new)


def test_the_same_rows_are_made_each_time(tmp_path):
    (tmp_path / "again").mkdir()
    more = {"augment": [{"type": "typos"}], "balance": {"ratio": 0.9}}
    assert Raw(tmp_path, rows()).more(means(tmp_path, **more))[1] == Raw(tmp_path / "again", rows()).more(means(tmp_path, **more))[1]


def test_not_more_is_made_than_may_be_used(tmp_path):
    _, examples, _ = Raw(tmp_path, rows()).more(means(tmp_path, most_share=0.2, augment=[{"type": "typos", "share": 1.0, "copies": 5}]))
    assert len(examples) == 50


def test_a_way_that_finds_nothing_to_change_takes_no_place_within_the_share(tmp_path):
    augment = [{"type": "phrases", "share": 1.0, "copies": 9, "phrases": {"vegetable": ["root"]}}, {"type": "typos", "share": 0.25}]
    _, examples, _ = Raw(tmp_path, rows()).more(means(tmp_path, most_share=0.2, augment=augment))
    assert len(examples) == 50


def test_balance_fills_small_classes(tmp_path):
    _, examples, _ = Raw(tmp_path, rows()).more(means(tmp_path, most_share=0.5, balance={"ratio": 1.0}))
    # 30 apples and 10 pears; the few that come out alike are one.
    assert {row.completion for row in examples[40:]} == {"pear"}
    assert 55 <= len(examples) <= 60


def test_only_hard_slices_are_augmented(tmp_path):
    hard = [Slice("class", "pear", 9, 0.1, 0.8)]
    augment = [{"type": "typos", "share": 1.0, "hard": True}]
    built, examples, _ = Raw(tmp_path, rows()).more(means(tmp_path, slices=hard, augment=augment, hard={"evaluation": "e"}))
    assert {row.completion for row in examples[40:]} == {"pear"}
    assert built.metadata["hard_slices"][0]["value"] == "pear"


def test_held_out_rows_and_rows_without_an_answer_get_no_variants(tmp_path):
    closed = [example("h", "kept for the test of sweet fruit", held_out=True), example("u", "without any answer", "")]
    _, examples, _ = Raw(tmp_path, [*rows(4), *closed]).more(means(tmp_path, most_share=0.9, augment=[{"type": "typos", "share": 1.0}]))
    assert {row.metadata["made_from"] for row in examples[6:]} == {"0", "1", "2", "3"}


LABELLING = {"rules": [{"type": "keywords", "name": "long", "words": ["bottle"], "label": "pear", "accuracy": 0.9}]}


def test_rows_without_an_answer_are_labelled_or_quarantined(tmp_path):
    open_ = [example("yes", "like a bottle", ""), example("no", "like a ball", " "), example("test", "a bottle", "", held_out=True)]
    built, examples, quarantine = Raw(tmp_path, [*rows(4), *open_]).more(means(tmp_path, labelling=LABELLING))
    assert [(row.id, row.completion) for row in examples[4:]] == [("yes", "pear"), ("test", "")]
    assert [(row.id, row.reason) for row in quarantine] == [("no", "unlabelled")]
    assert (built.metadata["labelled_by_rules"], built.metadata["labelling"][0]["coverage"]) == (1, 0.5)


def test_questions_need_documents_and_an_open_task(tmp_path):
    raw = Raw(tmp_path, rows())
    with pytest.raises(NothingToAskAbout):
        raw.more(means(tmp_path, task=OPEN, questions={"ask": MODEL}))
    with pytest.raises(NoClasses, match="not written about documents"):
        raw.more(means(tmp_path, questions={"ask": MODEL}))
    with pytest.raises(NoClasses, match="got 'plum', want apple, pear"):
        raw.more(means(tmp_path, augment=[{"type": "typos", "classes": ["plum"]}]))


QUESTION = {"question": "Who owns it?", "answer": "<PERSON>.", "quote": "<PERSON> owns the mill"}


def test_documents_are_scrubbed_before_a_model_sees_them(tmp_path):
    raw = Raw(tmp_path, rows())
    text = "Margaret owns the mill."
    chunk = Chunk("d1", text, source="d", document="mill.pdf", sha256="0", start=0, end=len(text), heading="Owners", page=4)
    write_chunks(tmp_path, [chunk])
    bad = {**QUESTION, "quote": "Margaret owns the mill"}
    with model_server(lambda request, before: said(json.dumps([QUESTION, bad]))) as model:
        spec = use_case(tmp_path, more={"questions": {"ask": {**MODEL, "url": model.url}}})
        chat = Making(spec, House(tmp_path).store.open(), StandIns())._chat
        built, examples, quarantine = raw.more(means(tmp_path, task=OPEN, chat=chat, questions={"ask": {**MODEL, "url": model.url}}))
        assert model.users() == ["<PERSON> owns the mill."]
    [row] = examples[40:]
    assert (row.prompt, row.completion, row.metadata["made_from"], row.metadata["place"]) == (
        "Who owns it?",
        "<PERSON>.",
        "d1",
        "mill.pdf, page 4, Owners, characters 0-23",
    )
    assert [one.reason for one in quarantine] == ["quote_not_in_source"]
    assert built.metadata["sources"][-1]["quarantined"] == 1


def test_where_a_model_is_asked_does_not_matter_and_what_is_asked_does(tmp_path):
    def what(**ask):
        augment = {"type": "paraphrases", "ask": {**MODEL, **ask}}
        return Making(use_case(tmp_path, more={"augment": [augment]}), House(tmp_path).store.open(), StandIns()).what()

    assert what() == what(url="https://elsewhere/v1", key_variable="KEY", tries=9, parallel=1, timeout_seconds=5)
    assert what() != what(model="larger")
    assert "url" not in json.dumps(what(), default=str)


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def test_made_rows_go_through_all_five_assets_into_training_alone(house):
    house.run()
    before = {part: read_rows(house.artifact("dataset").file(f"{part}.jsonl")) for part in ("train", "validation", "test")}
    assert house.run(
        more={"augment": [{"type": "typos", "share": 0.6}, {"type": "templates", "templates": ["Say: {{ prompt }}, thanks"]}]}
    ).success
    after = {part: read_rows(house.artifact("dataset").file(f"{part}.jsonl")) for part in ("train", "validation", "test")}
    assert (after["validation"], after["test"]) == (before["validation"], before["test"])
    new = [row for row in after["train"] if "synthetic" in row["metadata"]]
    assert [row for row in after["train"] if "synthetic" not in row["metadata"]] == before["train"]
    assert {row["metadata"]["made_from"] for row in new} <= {row["id"] for row in before["train"]}
    assert 0 < len(new) <= 0.3 * len(after["train"])
    card = house.artifact("dataset").json("card.json")
    assert sum(card["made_rows"].values()) == len(new)
    assert card["quarantined"]["split"].keys() <= {"origin_held_out", "over_most_share"}
    assert [step["in"] for step in card["steps"][1:]] == [step["kept"] for step in card["steps"][:-1]]
    assert "Margaret" not in json.dumps(new)


def test_a_rerun_makes_nothing_again_and_another_rule_does(house):
    more = {"augment": [{"type": "typos"}]}
    house.run(more=more)
    house.run(more=more)
    assert set(house.reused().values()) == {True}
    house.run(more={**more, "most_share": 0.1})
    assert house.shown("raw_examples")["changed"] == "dataset.more.most_share"


def test_a_use_case_without_more_keeps_its_fingerprint(tmp_path):
    (tmp_path / "a").mkdir()
    house = House(tmp_path / "a")
    house.run()
    assert not any(name.startswith("dataset.more") for name in house.artifact("raw_examples").manifest.payload["what"])
