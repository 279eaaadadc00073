from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Example, write_examples
from fine_tune_pipeline.programs.batches import (
    Collate,
    NoLabelledTokens,
    Row,
    RowsTooLong,
    StepBatches,
    as_records,
    check_rows,
    counted_labels,
    real_tokens,
    tokenised_rows,
)
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.rows import BadRows
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
    with pytest.raises(RowsTooLong, match=r"1 of 2 rows are longer than max_length 4 \(the longest has 5 tokens\): long;"):
        check_rows(rows, max_length=4)
    check_rows(rows, max_length=5)


def test_rows_without_a_token_to_learn_are_named():
    rows = [row("good", prompt=[2], completion=[1]), row("mute", prompt=[2, 3], completion=[]), row("first", prompt=[], completion=[1])]
    with pytest.raises(NoLabelledTokens, match="2 of 3 rows have no token to learn from: mute, first"):
        check_rows(rows, max_length=8)


@pytest.mark.parametrize(("effective", "micro"), [(4, 4), (4, 2), (4, 3), (4, 9), (16, 5), (3, 1), (11, 4)])
def test_an_epoch_holds_every_row_once_in_as_many_batches_as_announced(effective: int, micro: int):
    batches = StepBatches(LENGTHS, effective_batch=effective, micro_batch=micro, seed=3)
    seen = list(batches)
    assert sorted(place for batch in seen for place in batch) == list(range(len(LENGTHS)))
    assert len(seen) == len(batches)
    assert max(map(len, seen)) <= micro


def steps_of(micro: int) -> list[list[int]]:
    batches = StepBatches(LENGTHS, effective_batch=4, micro_batch=micro, seed=0)
    flat = [place for batch in batches for place in batch]
    return [flat[first : first + 4] for first in range(0, len(flat), 4)]


def test_the_rows_of_a_step_do_not_depend_on_the_micro_batch():
    assert steps_of(1) == steps_of(2) == steps_of(3) == steps_of(4)


def test_epochs_and_seeds_shuffle_differently_and_repeatably():
    def order(*, seed: int, epoch: int) -> str:
        batches = StepBatches(range(100), effective_batch=10, micro_batch=5, seed=seed)
        batches.set_epoch(epoch)
        return str(list(batches))

    orders = Counter(order(seed=seed, epoch=epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2))
    assert len(orders) == 9
    assert order(seed=1, epoch=1) == order(seed=1, epoch=1)


def test_micro_batches_of_a_step_hold_rows_of_a_like_length_longest_first():
    for step in steps_of(2):
        lengths = [LENGTHS[place] for place in step]
        assert lengths == sorted(lengths, reverse=True)


def test_every_whole_step_has_the_same_number_of_micro_batches_and_the_last_no_more():
    batches = StepBatches(LENGTHS, effective_batch=4, micro_batch=3, seed=0)
    sizes = [len(batch) for batch in batches]
    assert batches.accumulation == 2
    assert batches.steps == 3
    assert sizes == [3, 1, 3, 1, 3]


ROWS_TO_COLLATE = as_records([row("a", prompt=[2, 5, 6], completion=[7, 1]), row("b", prompt=[2], completion=[8, 1])])


def test_flat_batches_lay_rows_end_to_end_with_their_borders():
    batch = Collate(pad_id=0, flat=True)(ROWS_TO_COLLATE)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 7, 1, 2, 8, 1]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 7, 1, -100, 8, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 5, 8]
    assert batch["row"] == [0, 1]
    assert (real_tokens(batch), counted_labels(batch["labels"])) == (8, 4)


def test_in_a_flat_batch_no_row_is_predicted_from_the_one_before_it():
    every_token = as_records([Row("a", [2, 5], [2, 5]), Row("b", [3, 6], [3, 6])])
    assert Collate(pad_id=0, flat=True)(every_token)["labels"].tolist() == [[-100, 5, -100, 6]]


def test_padded_batches_count_no_padding():
    batch = Collate(pad_id=0, flat=False)(ROWS_TO_COLLATE)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 7, 1], [2, 8, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 7, 1], [-100, 8, 1, -100, -100]]
    assert (real_tokens(batch), counted_labels(batch["labels"])) == (8, 4)
