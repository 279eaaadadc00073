"""Personal data goes from prompts, completions and columns, and answers stay valid."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.parts import cut, gathered, work_on
from fine_tune_pipeline.artifacts.quarantine import read_quarantine
from fine_tune_pipeline.guide.dataset.scrubbing.scrub import scrub, scrubbed, scrubbed_part
from fine_tune_pipeline.guide.dataset.steps import read_steps
from fine_tune_pipeline.guide.objective.task import extraction
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline.programs.pii.vault import opened
from fine_tune_pipeline.spec.dataset import PiiSpec
from fine_tune_pipeline_tests.guide.dataset.make import FORM, FRUIT, OPEN, Words, example, ids

DETECT = Words(Ann="PERSON", Rome="LOCATION", **{"555-0100": "PHONE_NUMBER"})


def test_each_span_is_replaced_by_its_type_and_counted():
    result = scrub([example("1", "Call Ann on 555-0100"), example("2", "nobody")], detect=DETECT, task=FRUIT)
    assert [row.prompt for row in result.examples] == ["Call <PERSON> on <PHONE_NUMBER>", "nobody"]
    assert result.found == Counter(PERSON=1, PHONE_NUMBER=1)
    assert result.changed == ["1"]


def test_a_name_found_in_one_text_goes_from_the_other_too():
    class OnlyIn(Words):
        def patterns(self, text):
            return super().patterns(text) if "Mrs" in text else []

    detect = OnlyIn(**{"Ann Moor": "PERSON"})
    [row] = scrub([example("1", "from Mrs Ann Moor", "Dear Moor, thanks. Moorland is fine.")], detect=detect, task=OPEN).examples
    assert row.prompt == "from Mrs <PERSON>"
    assert row.completion == "Dear <PERSON>, thanks. Moorland is fine."


def test_a_json_answer_stays_json_and_values_of_a_closed_list_are_never_touched():
    [row] = scrub([example("1", "Ann in Rome", '{"city": "Rome", "name": "Ann"}')], detect=DETECT, task=FORM).examples
    assert row.prompt == "<PERSON> in <LOCATION>"
    assert json.loads(row.completion) == {"city": "Rome", "name": "<PERSON>"}


def test_an_answer_that_a_replacement_would_break_is_left_and_marked():
    form = extraction({"type": "object", "properties": {"who": {"type": "string", "maxLength": 5}, "note": {"type": "string"}}})
    result = scrub([example("1", "hello", '{"who": "Ann", "note": "Ann called"}')], detect=DETECT, task=form)
    assert json.loads(result.examples[0].completion) == {"who": "Ann", "note": "<PERSON> called"}
    assert result.examples[0].metadata["marked"] == "personal_data_unsure: PERSON"
    assert result.found == Counter(PERSON=1)


def test_an_answer_without_personal_data_keeps_its_spelling():
    [row] = scrub([example("1", "Ann", '{"city":"Rome"}')], detect=DETECT, task=FORM).examples
    assert row.completion == '{"city":"Rome"}'


def test_earlier_turns_calls_and_the_rejected_answer_lose_the_same_names_and_keep_their_form():
    arguments = json.dumps({"customer": {"name": "Ann", "since": 2019}})
    call = {"id": "Ann", "type": "function", "function": {"name": "lookup", "arguments": arguments}}
    history = [
        {"role": "user", "content": "I am Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "Ann is here", "tool_call_id": "Ann"},
    ]
    talk = replace(example("1", "call Ann", "Ann, hello"), history=history, rejected="no, Ann")
    [clean] = scrub([talk], detect=DETECT, task=OPEN).examples
    assert (clean.prompt, clean.completion, clean.rejected) == ("call <PERSON>", "<PERSON>, hello", "no, <PERSON>")
    assert [turn["content"] for turn in clean.history] == ["I am <PERSON>", None, "<PERSON> is here"]
    [changed] = clean.history[1]["tool_calls"]
    assert json.loads(changed["function"]["arguments"]) == {"customer": {"name": "<PERSON>", "since": 2019}}
    assert (changed["id"], clean.history[2]["tool_call_id"]) == ("Ann", "Ann")


def test_labels_are_never_touched():
    detect = Words(apple="PERSON")
    [row] = scrub([example("1", "an apple", "apple")], detect=detect, task=FRUIT).examples
    assert (row.prompt, row.completion) == ("an <PERSON>", "apple")


def test_columns_lose_numbers_but_keep_words_and_the_marks_of_steps():
    metadata = {"channel": "Ann", "phone": "555-0100", "cluster": "555-0100"}
    result = scrub([example("1", "hello", metadata=metadata)], detect=DETECT, task=FRUIT)
    assert result.examples[0].metadata == {"channel": "Ann", "phone": "<PHONE_NUMBER>", "cluster": "555-0100"}
    assert result.found == Counter(PHONE_NUMBER=1)


def test_a_weak_finding_is_marked_for_people():
    result = scrub([example("1", "Ann here")], detect=Words(score=0.4, Ann="PERSON"), task=FRUIT)
    assert result.examples[0].metadata["marked"] == "personal_data_unsure: PERSON"


def test_operator_remove_quarantines_the_row_without_its_personal_data():
    rows = [example("1", "Call Ann"), example("2", "nobody")]
    result = scrub(rows, detect=DETECT, task=FRUIT, remove=True)
    assert ids(result.examples) == ["2"]
    assert [(row.id, row.reason, row.original["prompt"]) for row in result.quarantine] == [("1", "personal_data", "Call <PERSON>")]


def run(tmp_path, rows, *, spec=None, detect=DETECT, stand_ins=None):
    clean, out = tmp_path / "clean", tmp_path / "out"
    clean.mkdir()
    out.mkdir()
    write_examples(clean / "examples.jsonl", rows)
    write_rows(clean / "steps.jsonl", [])
    pii = spec or PiiSpec()
    work = partial(scrubbed_part, spec=pii, task=FRUIT, detect=detect, stand_ins=stand_ins or StandIns(pii))
    # One row a part: what is added up shows.
    parts = cut(clean / "examples.jsonl", rows=1)
    for part in parts:
        work_on(part, work, folder=tmp_path / "parts")
    built = scrubbed(gathered(parts, tmp_path / "parts"), out, spec=pii, before=read_steps(clean))
    return out, built


def test_nothing_that_the_step_writes_or_shows_holds_what_was_taken_out(tmp_path):
    out, built = run(tmp_path, [example("1", "Call Ann on 555-0100"), example("2", "nobody")], spec=PiiSpec(operator="remove"))
    everything = built.model_dump_json() + "".join(path.read_text(encoding="utf-8") for path in out.iterdir())
    assert "Ann" not in everything
    assert "555-0100" not in everything
    assert len(read_examples(out / "examples.jsonl")) + len(read_quarantine(out)) == 2


def test_the_step_counts_entities_and_continues_the_record(tmp_path):
    out, built = run(tmp_path, [example("1", "Ann and Ann's 555-0100"), example("2", "Rome")])
    [step] = read_steps(out)
    assert step.notes["personal_data"] == {"LOCATION": 1, "PERSON": 1, "PHONE_NUMBER": 1}
    assert step.fixed == {"personal_data_replaced": 2}
    assert built.metadata["replacements"] == 3
    assert "&lt;PERSON>" in built.markdown["examples"]


@pytest.mark.parametrize(("limit", "passed"), [(0.0, False), (0.4, False), (0.5, True)])
def test_the_check_fails_when_more_rows_than_the_limit_still_hold_an_identifier(tmp_path, limit, passed):
    rows = [example("1", "ann@example.org"), example("2", "nobody")]
    _, built = run(tmp_path, rows, spec=PiiSpec(residue_limit=limit))
    [check] = built.checks
    assert (check.name, check.passed, check.blocking) == ("pii_residue", passed, True)
    assert check.metadata["rows"] == 1
    if not passed:
        assert "EMAIL_ADDRESS in 1 rows (1)" in check.description
        assert "ann@" not in check.description


def test_kinds_that_the_use_case_keeps_are_no_residue(tmp_path):
    _, built = run(tmp_path, [example("1", "ann@example.org")], spec=PiiSpec(entities=["PERSON"]))
    assert built.checks[0].passed


def test_prompt_and_answer_get_the_same_pseudonym():
    stand_in = StandIns(PiiSpec(operator="pseudonym"), key="the key of these tests")
    [row] = scrub([example("1", "I am Ann", "Hello Ann!")], detect=DETECT, task=OPEN, stand_in=stand_in).examples
    name = row.prompt.removeprefix("I am ")
    assert (name != "Ann", row.completion) == (True, f"Hello {name}!")


def test_pseudonyms_are_no_residue_but_what_was_missed_is(tmp_path):
    detect = Words(**{"ann@example.org": "EMAIL_ADDRESS", "4111 1111 1111 1111": "CREDIT_CARD"})
    rows = [example("1", "write to ann@example.org or use 4111 1111 1111 1111"), example("2", "bob@example.org was missed")]
    pii = PiiSpec(operator="pseudonym")
    _, built = run(tmp_path, rows, spec=pii, detect=detect, stand_ins=StandIns(pii, key="the key of these tests"))
    assert "EMAIL_ADDRESS in 1 rows (2)" in built.checks[0].description


def test_the_vault_of_a_use_case_opens_with_its_key_and_holds_nothing_readable(tmp_path):
    pii = PiiSpec(operator="pseudonym", vault=True)
    out, _ = run(
        tmp_path, [example("1", "Ann"), example("2", "Ann and Rome")], spec=pii, stand_ins=StandIns(pii, key="the key of these tests")
    )
    values = opened(read_rows(out / "vault.jsonl"), key="the key of these tests")
    assert sorted(value for found in values.values() for value in found) == ["Ann", "Rome"]
    assert not {"Ann", "Rome"} & {word for path in out.iterdir() for word in path.read_text(encoding="utf-8").split('"')}
