from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Example, write_examples
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.rows import BadRows
from fine_tune_pipeline.programs.training.batches import (
    NoLabelledTokens,
    Row,
    RowsTooLong,
    Steps,
    check_rows,
    tokenised_rows,
)
from fine_tune_pipeline_tests.small_training import ROWS, write_rows
from fine_tune_pipeline_tests.tiny import tiny_tokenizer

LENGTHS = [5, 9, 2, 7, 30, 4, 4, 11, 8, 3, 6]


def row(id: str, *, prompt: Sequence[int], completion: Sequence[int]) -> Row:
    return Row(id, [*prompt, *completion], [-100] * len(prompt) + list(completion))


def test_only_the_completion_and_its_end_token_count(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    first = tokenised_rows(write_rows(tmp_path / "t.jsonl"), tokenizer=tokenizer, format=PromptFormat(), loss_on="completion")[0]
    served = encode(ROWS[0][1], None, tokenizer=tokenizer, format=PromptFormat())
    counted = [label for label in first.labels if label != -100]
    assert first.input_ids[: len(served.prompt_ids)] == served.prompt_ids
    assert tokenizer.decode(counted) == f" {ROWS[0][2]}<eos>"
    assert counted == first.input_ids[-len(counted) :]
    assert first.labelled == len(counted)


def test_a_conversation_is_trained_on_as_it_will_be_served_and_only_its_answer_counts(tmp_path: Path):
    history = [{"role": "user", "content": "my card"}, {"role": "assistant", "content": "what of it?"}]
    talk = Example("a", "it is lost", "lost_card", history=history)
    write_examples(tmp_path / "t.jsonl", [talk])
    tokenizer = tiny_tokenizer(chat=True)
    for format in (PromptFormat(), PromptFormat(style="chat")):
        [row] = tokenised_rows(tmp_path / "t.jsonl", tokenizer=tokenizer, format=format, loss_on="completion")
        served = encode(talk.asked, None, tokenizer=tokenizer, format=format).prompt_ids
        assert row.input_ids[: len(served)] == served
        assert set(row.labels[: len(served)]) == {-100}
        assert "what of it?" in tokenizer.decode(served)


def test_with_loss_on_all_every_token_but_the_first_counts(tmp_path: Path):
    first = tokenised_rows(write_rows(tmp_path / "t.jsonl"), tokenizer=tiny_tokenizer(), format=PromptFormat(), loss_on="all")[0]
    assert first.labels == first.input_ids
    assert first.labelled == len(first.input_ids) - 1


def test_a_wrong_line_is_named(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "a", "prompt": "p", "completion": "c"}\n{"id": "b", "prompt": "p"}\n', encoding="utf-8")
    with pytest.raises(BadRows, match=r"t\.jsonl:2: want completion as text"):
        tokenised_rows(path, tokenizer=tiny_tokenizer(), format=PromptFormat(), loss_on="completion")


def test_rows_longer_than_allowed_are_named_and_refused():
    rows = [row("fits", prompt=[2, 3], completion=[4, 1]), row("long", prompt=[2, 3, 3], completion=[4, 1])]
    with pytest.raises(RowsTooLong, match=r"^train\.jsonl: 1 of 2 rows are longer than max_length 4 \(the longest has 5 tokens\): long;"):
        check_rows(rows, source="train.jsonl", max_length=4)
    check_rows(rows, source="train.jsonl", max_length=5)


def test_rows_without_a_token_to_learn_are_named():
    rows = [row("good", prompt=[2], completion=[1]), row("mute", prompt=[2, 3], completion=[]), row("first", prompt=[], completion=[1])]
    with pytest.raises(NoLabelledTokens, match=r"^validation\.jsonl: 2 of 3 rows have no token to learn from: mute, first"):
        check_rows(rows, source="validation.jsonl", max_length=8)


@pytest.mark.parametrize("effective", [4, 16, 3, 11, 1])
def test_an_epoch_holds_every_row_once_in_as_many_steps_as_announced(effective: int):
    steps = Steps(LENGTHS, effective_batch=effective, seed=3)
    seen = list(steps)
    assert sorted(place for step in seen for place in step) == list(range(len(LENGTHS)))
    assert len(seen) == len(steps)
    assert {len(step) for step in seen[:-1]} <= {effective}
    assert 0 < len(seen[-1]) <= effective


def test_epochs_and_seeds_shuffle_differently_and_repeatably():
    def order(*, seed: int, epoch: int) -> str:
        steps = Steps(range(100), effective_batch=10, seed=seed)
        steps.set_epoch(epoch)
        return str(list(steps))

    orders = Counter(order(seed=seed, epoch=epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2))
    assert len(orders) == 9
    assert order(seed=1, epoch=1) == order(seed=1, epoch=1)


def test_the_longest_rows_of_a_step_come_first():
    for step in Steps(LENGTHS, effective_batch=4, seed=0):
        lengths = [LENGTHS[place] for place in step]
        assert lengths == sorted(lengths, reverse=True)
