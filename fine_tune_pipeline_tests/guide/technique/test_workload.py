import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.technique.workload import FRAME_TOKENS, SPARE_TOKENS, likely_tokens, most_tokens, workload
from fine_tune_pipeline_tests.guide.technique.stand_ins import examples
from fine_tune_pipeline_tests.tiny import tiny_tokenizer


def row(prompt: str, completion: str) -> Example:
    return Example(id="1", prompt=prompt, completion=completion)


def test_tokens_are_those_of_prompt_frame_and_answer():
    work = workload([row("a" * 35, "b" * 14), row("a" * 70, "b" * 7)])
    assert work.rows == 2
    assert work.labelled_tokens == 4 + 2
    assert work.tokens == 10 + 20 + 2 * FRAME_TOKENS + 6
    assert work.labelled_share == 6 / work.tokens


def test_the_longest_row_of_either_set_counts():
    work = workload([row("a" * 10, "b")], [row("a" * 200, "b" * 20)])
    assert work.rows == 1
    assert work.longest_bound == 100 + 10 + SPARE_TOKENS
    assert work.longest_tokens == 63 + FRAME_TOKENS


def test_all_tokens_are_labelled_when_the_loss_is_on_all():
    work = workload([row("a" * 35, "b" * 14)], loss_on="all")
    assert work.labelled_tokens == work.tokens


@pytest.mark.parametrize(
    "text", ["my card was charged twice for one coffee", "call 0049 170 1234567", "přišel jsem o kartu", "カードをなくしました"]
)
def test_the_bound_is_above_what_a_tokenizer_that_knows_the_words_makes(text):
    tokenizer = tiny_tokenizer([example.prompt for example in examples()] + [text] * 3)
    assert most_tokens(text) >= len(tokenizer(text)["input_ids"])
    assert most_tokens(text) > likely_tokens(text)


def test_every_digit_may_be_a_token():
    assert most_tokens("1234567890") == 10
