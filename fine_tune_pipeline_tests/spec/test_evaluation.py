"""What may not be written in section `evaluation`."""

from typing import Any

import pytest
from pydantic import ValidationError

from fine_tune_pipeline.spec.evaluation import HumanSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec


def use_case(judge: dict[str, Any], candidate: Any = "gemma-3-270m") -> UseCaseSpec:
    objective = {"goal": "g", "task": {"type": "generation"}, "success": [{"metric": "token_f1", "at_least": 0.5}]}
    return UseCaseSpec.model_validate({
        "name": "triage", "objective": objective, "dataset": {"sources": [{"type": "jsonl", "path": "rows.jsonl"}]},
        "base_model": {"candidates": [candidate]}, "evaluation": {"judge": {"url": "https://models.example/v1", **judge}},
    })  # fmt: skip


HUB = {"type": "hub", "id": "own", "repo": "org/Small-Model", "revision": "0" * 40, "licence": "MIT"}
HOSTED = {"type": "api", "id": "hosted", "model": "gpt-4.1-mini", "licence": "LicenseRef-x"}


@pytest.mark.parametrize(
    ("judge", "candidate", "seen"),
    [
        ({"model": "gemma-3-270m"}, "gemma-3-270m", "'gemma-3-270m' is what is fine-tuned"),
        ({"model": "google/Gemma-3-270M"}, "gemma-3-270m", "'gemma-3-270m' is what is fine-tuned"),
        ({"model": "small-model"}, HUB, "'org/Small-Model' is what is fine-tuned"),
        ({"model": "own"}, HUB, "'own' is what is fine-tuned"),
        ({"model": "gpt-4.1-mini"}, HOSTED, "'gpt-4.1-mini' is what is fine-tuned"),
        ({"model": "ft:gpt-4.1-mini:acme::abc"}, HOSTED, "'gpt-4.1-mini' is what is fine-tuned"),
        ({"model": "triage"}, "gemma-3-270m", "a name of this use case's endpoint"),
        ({"model": "triage-v3"}, "gemma-3-270m", "a name of this use case's endpoint"),
        ({"model": "triage-base"}, "gemma-3-270m", "a name of this use case's endpoint"),
        ({"model": "x", "url": "http://127.0.0.1:8100/v1"}, "gemma-3-270m", "the endpoint of this use case"),
    ],
)
def test_a_judge_that_would_judge_itself_is_refused(judge: dict[str, Any], candidate: Any, seen: str):
    with pytest.raises(ValidationError, match=r"evaluation\.judge\.(model|url): got") as error:
        use_case(judge, candidate)
    assert seen in str(error.value)


@pytest.mark.parametrize("judge", [{"model": "gemma-3-27b"}, {"model": "triage2"}, {"model": "x", "url": "http://127.0.0.1:8000/v1"}])
def test_another_model_may_judge(judge: dict[str, Any]):
    assert use_case(judge).evaluation.judge is not None


@pytest.mark.parametrize("questions", [{"choice": "?"}, {"by": "?"}, {"Tone": "?"}, {"tone": ""}])
def test_a_question_without_a_name_of_its_own_is_refused(questions: dict[str, str]):
    with pytest.raises(ValidationError):
        HumanSpec(questions=questions)


def test_two_reviewers_of_one_name_are_refused():
    with pytest.raises(ValidationError, match="stands there twice"):
        HumanSpec(reviewers=["Kim", " kim"])
