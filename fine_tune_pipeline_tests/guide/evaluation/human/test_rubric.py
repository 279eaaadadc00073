from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fine_tune_pipeline.guide.evaluation.human.rubric import questions
from fine_tune_pipeline.spec.objective import RubricItem
from fine_tune_pipeline_tests.guide.evaluation.world import use_case

VOICE = {"rubric": [{"name": "helpful", "ask": "Does the customer know what to do next?"}]}
OPEN: dict[str, Any] = {"task": {"type": "generation"}, "success": [{"metric": "rouge_l", "at_least": 0.3}], "guards": []}


def test_people_are_asked_what_the_use_case_says_else_its_voice_else_its_task(tmp_path: Path):
    asked = {"evaluation": {"human": {"questions": {"clear": "Which is clear?"}}}}
    voiced = OPEN | {"voice": VOICE}
    assert questions(use_case(tmp_path, objective=voiced, **asked)) == {"clear": "Which is clear?"}
    assert questions(use_case(tmp_path, objective=voiced)) == {"helpful": "Does the customer know what to do next?"}
    assert list(questions(use_case(tmp_path, objective=OPEN))) == ["correct", "follows", "tone"]
    assert list(questions(use_case(tmp_path))) == ["correct", "follows"]


def test_rules_alone_leave_the_questions_of_the_task(tmp_path: Path):
    ruled = OPEN | {"voice": {"rules": [{"name": "calm", "never": ["!"]}]}}
    assert list(questions(use_case(tmp_path, objective=ruled))) == ["correct", "follows", "tone"]


def test_a_question_cannot_have_the_name_of_a_column_of_verdicts():
    with pytest.raises(ValidationError, match="note is a column of every verdict"):
        RubricItem(name="note", ask="Is it right?")
