"""What the data card may show of rows that left before personal data was taken out."""

import pytest

from fine_tune_pipeline.artifacts.examples import write_examples
from fine_tune_pipeline.artifacts.parts import Worked, cut, gathered, work_on
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.scrubbing.disclosure import WITHHELD, disclosable, disclosed
from fine_tune_pipeline.guide.dataset.steps import Step, made, of_parts, out, read_steps, write_parts
from fine_tune_pipeline.programs.pii.personal_data import type_tag
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline.spec.dataset import PiiSpec
from fine_tune_pipeline_tests.guide.dataset.make import Words, example

DETECT = Words(Oduya="PERSON", Riverton="LOCATION")


def left(*originals, detail="why", reason="too_long"):
    rows = [Quarantined(id=f"q{place}", reason=reason, detail=detail, original=original) for place, original in enumerate(originals)]
    return made("clean", kept=[], quarantine=rows).examples


def shown(rows):
    return disclosable(rows, detect=DETECT, stand_in=type_tag)


def test_the_first_rows_of_each_reason_go_on_to_the_card():
    rows = [Quarantined(id=str(place), reason="ab"[place % 2], detail="", original={"prompt": "x"}) for place in range(9)]
    assert [(row["reason"], row["id"]) for row in made("clean", kept=[], quarantine=rows).examples] == [
        ("a", "0"), ("b", "1"), ("a", "2"), ("b", "3"),
    ]  # fmt: skip


def test_personal_data_is_replaced_in_text_and_detail():
    [row] = shown(left({"prompt": "Oduya of Riverton\nasks"}, detail="not a label: 'Oduya'"))
    assert row == {"id": "q0", "reason": "too_long", "detail": "not a label: '<PERSON>'", "text": "<PERSON> of <LOCATION> asks"}


def test_a_row_that_never_became_an_example_is_looked_at_whole():
    [row] = shown(left({"line": "{broken Oduya"}))
    assert row["text"] == '{"line":"{broken <PERSON>"}'


def test_a_text_in_which_the_second_look_finds_something_is_withheld_with_its_detail():
    first, second = shown(left({"prompt": "write to a.b@fruit.example"}, {"prompt": "fine"}))
    assert (first["text"], first["detail"]) == (WITHHELD, WITHHELD)
    assert second["text"] == "fine"


def test_pseudonyms_that_were_given_out_are_nobodys():
    issued = set()

    def stand_in(entity, value):
        issued.add("k.l@fruit.example")
        return "k.l@fruit.example"

    [row] = disclosable(left({"prompt": "by Oduya"}), detect=DETECT, stand_in=stand_in, issued=issued)
    assert row["text"] == "by k.l@fruit.example"


def test_a_name_at_the_cut_is_replaced_whole():
    [row] = shown(left({"prompt": "x" * 157 + " Oduya"}))
    assert "Od" not in row["text"]
    assert row["text"].startswith("x" * 157 + " <P")


def test_ids_that_hold_a_known_pattern_are_replaced_too():
    [row] = made("clean", kept=[], quarantine=[Quarantined(id="Oduya", reason="r", detail="", original={"prompt": "x"})]).examples
    assert shown([row])[0]["id"] == "<PERSON>"


def test_half_a_word_at_the_end_of_a_quotation_is_not_shown():
    [row] = shown(left({"prompt": "x"}, detail="'please write to jane.o…' is not a label"))
    assert row["detail"] == "'please write to …' is not a label"


def test_steps_without_examples_load_no_detector(monkeypatch):
    monkeypatch.setattr("fine_tune_pipeline.programs.pii.scrubbing.detector", lambda pii: pytest.fail("was loaded"))
    steps = [Step("collect", 3, 3), Step("clean", 3, 3)]
    assert disclosed(steps, pii=PiiSpec(), stand_ins=StandIns(PiiSpec())) == steps


def test_a_step_worked_on_in_parts_has_examples_too(tmp_path):
    write_examples(tmp_path / "examples.jsonl", [example(str(n), "x") for n in range(5)])
    parts = cut(tmp_path / "examples.jsonl", rows=2)
    for part in parts:
        work_on(part, lambda rows: Worked([], [out(row, "odd", "why") for row in rows]), folder=tmp_path / "parts")
    done = gathered(parts, tmp_path / "parts")
    (tmp_path / "out").mkdir()
    write_parts(tmp_path / "out", of_parts("scrub", done), done, before=[])
    [step] = read_steps(tmp_path / "out")
    assert ([row["id"] for row in step.examples], step.quarantined) == (["0", "1"], {"odd": 5})
