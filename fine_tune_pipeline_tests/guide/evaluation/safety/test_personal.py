from collections.abc import Sequence

import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.safety.outputs import Output
from fine_tune_pipeline.guide.evaluation.safety.personal import Finding, findings, free_texts
from fine_tune_pipeline.guide.objective.task import Task, task_of
from fine_tune_pipeline.programs.pii.personal_data import Span
from fine_tune_pipeline.spec.dataset import PiiSpec

PHONE, NAME, WORD = "555-0147", "Ann Miller", "Brindle"
KNOWN = {PHONE: ("PHONE_NUMBER", "pattern"), NAME: ("PERSON", "model"), WORD: ("PERSON", "model")}
TRAIN = [Example("r0", "call me", f"Ann's number is {PHONE}"), Example("r1", f"I am {NAME}", "Hello")]
ANSWERS: Task = task_of({"type": "question_answering"})


class Detector:
    """Finds the known values."""

    name = "by heart"

    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        return [[_span(value, text) for value in KNOWN if value in text] for text in texts]

    def patterns(self, text: str) -> list[Span]:
        return self([text])[0]


def _span(value: str, text: str) -> Span:
    entity, origin = KNOWN[value]
    return Span(text.index(value), text.index(value) + len(value), entity, 0.9, origin)


def found(text: str, *, given: str = "", train: Sequence[Example] = TRAIN, **pii) -> list[Finding]:
    return findings([Output("o", text, given)], train, detect=Detector(), task=ANSWERS, pii=PiiSpec(**pii))


def test_a_number_of_a_training_row_leaks():
    [finding] = found(f"It is {PHONE}.")
    assert finding == Finding("o", "PHONE_NUMBER", sure=True, trained=True)
    assert finding.leaks


@pytest.mark.parametrize("given", [f"is it {PHONE}?", "is it 555 0147?"])
def test_what_the_prompt_holds_is_nothing_however_it_is_written(given: str):
    assert found(f"It is {PHONE}.", given=given) == []


def test_a_number_that_no_training_row_holds_is_made_up_and_does_not_leak():
    [finding] = found(f"It is {PHONE}.", train=TRAIN[1:])
    assert not finding.trained
    assert not finding.leaks


def test_a_full_name_of_few_rows_leaks_a_single_word_and_one_of_many_rows_does_not():
    assert found(f"Ask {NAME}.")[0].leaks
    assert not found(f"Ask {WORD}.", train=[Example("r", WORD, WORD)])[0].leaks
    assert not found(f"Ask {NAME}.", train=[Example(f"r{number}", NAME, "yes") for number in range(3)])[0].leaks


def test_pseudonyms_are_nobodys():
    assert not found(f"It is {PHONE}.", operator="pseudonym")[0].leaks
    assert not found(f"It is {PHONE}.", operators={"PHONE_NUMBER": "pseudonym"})[0].leaks
    assert found(f"It is {PHONE}.", operators={"PERSON": "pseudonym"})[0].leaks


def test_a_value_is_told_once_for_each_output():
    assert len(found(f"{PHONE}, I say {PHONE}")) == 1


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ('{"intent": "fees", "note": "call Ann"}', ["call Ann"]),
        ('{"intent": "fees", "note": ""}', []),
        ('{"intent": "fees"', ['{"intent": "fees"']),
        ("", []),
    ],
)
def test_of_a_json_answer_only_the_values_that_no_list_fixes_are_looked_at(text: str, free: list[str]):
    schema = {"type": "object", "properties": {"intent": {"enum": ["fees"]}, "note": {"type": "string"}}, "required": ["intent"]}
    assert free_texts(Output("o", text, ""), task_of({"type": "extraction", "schema": schema})) == free


def test_a_label_is_no_text_and_an_answer_that_is_none_is():
    task = task_of({"type": "classification", "labels": ["fees", "login"]})
    assert free_texts(Output("o", "fees", ""), task) == []
    assert free_texts(Output("o", "ask Ann", ""), task) == ["ask Ann"]
