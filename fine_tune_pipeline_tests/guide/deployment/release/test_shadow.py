"""The shadow gate: both versions answer what was asked last, and the new one must not be worse."""

import json

import pytest

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.artifacts.traffic import Logged
from fine_tune_pipeline.guide.deployment.release.shadow import Shadow, asked_in, replay, shadow_check
from fine_tune_pipeline.programs.serving.answer_shape import AnswerShape
from fine_tune_pipeline.resources.endpoint_client import EndpointError, ServedAnswer, Unreachable
from fine_tune_pipeline_tests.guide.deployment.release.log_rows import arm, logged

LABELS = AnswerShape(labels=("yes", "no"))


class Endpoint:
    """Answers `yes` as champion; as the new version what `says` gives, or the HTTP status that it names."""

    def __init__(self, says: dict[int, str | int]) -> None:
        self.says = says
        self.asked: list[tuple[str, str]] = []

    def answer(self, asked: Asked, *, model: str, probe: bool) -> ServedAnswer:
        assert probe
        self.asked.append((asked.prompt, model))
        found = "yes" if model == "bank-v1" else self.says.get(int(asked.prompt.split()[-1]), "yes")
        if isinstance(found, int):
            raise EndpointError(found, "no")
        return ServedAnswer(id="1", text=found, model=model, sha256="a", prompt_tokens=1, new_tokens=1)


def replayed(window: list[Logged], says: dict[int, str | int]) -> tuple[Shadow | None, Endpoint]:
    endpoint = Endpoint(says)
    shadow = replay(window, endpoint.answer, version="bank-v2", champion="bank-v1", shape=LABELS, limit_ms=60_000.0)
    return shadow, endpoint


def test_both_versions_answer_the_same_prompts_one_after_the_other():
    shadow, endpoint = replayed(arm(3), {1: "no"})
    assert endpoint.asked == [(f"question {number}", model) for number in range(3) for model in ("bank-v2", "bank-v1")]
    assert shadow is not None
    assert (shadow.prompts, shadow.agree) == (3, 2)
    assert shadow.differences == ({"prompt": "question 1", "new version": "no", "champion": "yes"},)
    check = shadow_check(shadow, skipped="")
    assert check.passed
    assert check.description.startswith("3 recent prompts were answered by both; 2 answers are the same")


def test_other_answers_are_no_fault_but_invalid_ones_and_errors_are():
    other, _ = replayed(arm(20), dict.fromkeys(range(20), "no"))
    invalid, _ = replayed(arm(20), dict.fromkeys(range(6), "perhaps"))
    failing, _ = replayed(arm(20), dict.fromkeys(range(6), 500))
    assert [shadow_check(shadow, skipped="").passed for shadow in (other, invalid, failing)] == [True, False, False]
    assert "invalid_answers: 6 of 20 against 0 of 20" in shadow_check(invalid, skipped="").description
    assert "errors: 6 of 20 against 0 of 20" in shadow_check(failing, skipped="").description


def test_what_could_not_be_kept_or_was_not_answered_is_not_replayed():
    assert replayed([logged(prompt_scrubbed=None), logged(status=500)], {})[0] is None
    check = shadow_check(None, skipped="not replayed: the traffic log holds no prompt yet")
    assert (check.passed, check.description) == (True, "not replayed: the traffic log holds no prompt yet")


def test_a_conversation_is_replayed_with_its_turns():
    before = {"history": [{"role": "user", "content": "hi"}], "role": "tool", "tools": [{"name": "t"}]}
    assert asked_in(logged(before_scrubbed=json.dumps(before))) == Asked(
        "question 0", history=before["history"], role="tool", tools=before["tools"]
    )


def test_an_endpoint_that_is_gone_is_no_verdict():
    def gone(*_: object, **__: object) -> ServedAnswer:
        raise Unreachable("nobody")

    with pytest.raises(Unreachable):
        replay(arm(1), gone, version="bank-v2", champion="bank-v1", shape=LABELS, limit_ms=None)
