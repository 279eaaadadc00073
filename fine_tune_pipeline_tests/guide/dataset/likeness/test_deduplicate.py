"""One example for one question."""

import pytest

from fine_tune_pipeline.guide.dataset.likeness.deduplicate import deduplicate
from fine_tune_pipeline.guide.dataset.sources.collect import FEEDBACK
from fine_tune_pipeline_tests.guide.dataset.make import FORM, FRUIT, OPEN, example, ids

LONG = "my card was charged twice for one coffee at the station this morning"
LIKE = "my card was charged twice for one coffee at the airport this morning"


def run(*examples, task=FRUIT, threshold=0.7):
    result = deduplicate(examples, task=task, threshold=threshold)
    assert sorted(ids(result.kept) + ids(result.quarantine)) == sorted(ids(examples))
    return result


def gone(result):
    return {row.id: row.reason for row in result.quarantine}


def test_of_exact_duplicates_the_first_stays_whatever_case_and_punctuation():
    result = run(example("a", "Card stolen"), example("b", "card STOLEN!!"), example("c", "other words"))
    assert ids(result.kept) == ["a", "c"]
    assert gone(result) == {"b": "exact_duplicate"}
    assert "a" in result.quarantine[0].detail
    assert result.quarantine[0].original["prompt"] == "card STOLEN!!"


def test_the_same_prompt_with_two_answers_goes_out_whole():
    result = run(example("a", "red or green?", "apple"), example("b", "Red or green", "pear"))
    assert result.kept == []
    assert gone(result) == {"a": "contradictory_labels", "b": "contradictory_labels"}


def test_of_three_the_majority_stays_once():
    rows = [example("a", "sweet", "pear"), example("b", "sweet", "apple"), example("c", "sweet!", "apple")]
    result = run(*rows)
    assert ids(result.kept) == ["b"]
    assert gone(result) == {"a": "contradictory_labels", "c": "exact_duplicate"}


def test_no_majority_keeps_none():
    rows = [example(str(n), "sweet", label) for n, label in enumerate(["apple", "apple", "pear", "pear"])]
    assert set(gone(run(*rows)).values()) == {"contradictory_labels"}


def test_answers_are_compared_by_what_they_say():
    assert gone(run(example("a", "sweet", "Apple."), example("b", "sweet", "apple"))) == {"b": "exact_duplicate"}
    forms = [example("a", "where", '{"city": "Rome", "name": "x"}'), example("b", "where", '{"name":"x","city":"Rome"}')]
    assert gone(run(*forms, task=FORM)) == {"b": "exact_duplicate"}


def test_a_correction_from_production_beats_what_was_there():
    rows = [example("a", "sweet", "pear"), example("b", "sweet", "pear"), example("r", "sweet", "apple", source=FEEDBACK)]
    result = run(*rows)
    assert ids(result.kept) == ["r"]
    assert gone(result) == {"a": "contradictory_labels", "b": "contradictory_labels"}
    assert "correction from production" in result.quarantine[0].detail


def test_near_duplicates_with_the_same_answer_leave_the_first_and_name_it():
    result = run(example("a", LONG), example("b", LIKE))
    assert ids(result.kept) == ["a"]
    assert gone(result) == {"b": "near_duplicate"}
    assert "like a" in result.quarantine[0].detail


def test_near_duplicates_with_different_answers_stay_with_a_mark_and_one_cluster():
    result = run(example("a", LONG, "apple"), example("b", LIKE, "pear"), example("c", "nothing of the kind"))
    assert ids(result.kept) == ["a", "b", "c"]
    assert [kept.metadata["cluster"] for kept in result.kept] == ["a", "a", "c"]
    assert "b" in result.kept[0].metadata["marked"]
    assert "a" in result.kept[1].metadata["marked"]
    assert "marked" not in result.kept[2].metadata


def test_an_open_task_may_have_several_answers_to_like_prompts_without_marks():
    result = run(example("a", LONG, "one story"), example("b", LIKE, "quite another tale"), task=OPEN)
    assert ids(result.kept) == ["a", "b"]
    assert "marked" not in result.kept[0].metadata


def test_a_row_is_only_taken_out_for_one_that_stays():
    chain = [
        "the quick brown fox jumps over the lazy dog today",
        "the quick brown fox jumps over the lazy cat today",
        "the quick brown ape jumps over the lazy cat today",
    ]
    # Each is like its neighbour (0.73), the ends are not (0.53): with the middle gone, the last one has no twin any more.
    result = run(*[example(str(n), prompt) for n, prompt in enumerate(chain)], threshold=0.6)
    assert ids(result.kept) == ["0", "2"]


@pytest.mark.parametrize("prompt", [LONG.upper() + "!", LIKE])
def test_a_training_row_like_a_held_out_one_goes_whatever_its_answer(prompt):
    result = run(example("t", prompt, "pear"), example("h", LONG, "apple", held_out=True))
    assert ids(result.kept) == ["h"]
    assert gone(result) == {"t": "duplicate_of_held_out"}


def test_held_out_rows_count_as_seen_from_the_leak_threshold_even_if_duplicates_are_defined_more_narrowly():
    result = run(example("t", LIKE), example("u", LONG + " again"), example("h", LONG, held_out=True), threshold=0.99)
    assert gone(result) == {"t": "duplicate_of_held_out", "u": "duplicate_of_held_out"}


def test_held_out_rows_are_deduplicated_among_themselves():
    rows = [example("h", LONG, held_out=True), example("i", LIKE, held_out=True), example("j", LONG + "!", held_out=True)]
    assert gone(run(*rows)) == {"i": "near_duplicate", "j": "exact_duplicate"}


def test_examples_keep_their_order():
    rows = [
        example("t1", "first words here"),
        example("h", "held out words", held_out=True),
        example("r", "corrected text", source=FEEDBACK),
    ]
    assert ids(run(*rows).kept) == ["t1", "h", "r"]


BEFORE = [{"role": role, "content": f"{role} said number {n} {n * n} of many things"} for n in range(8) for role in ("user", "assistant")]


def turn(id_, prompt, completion, conversation=None):
    metadata = {} if conversation is None else {"conversation": conversation}
    return example(id_, prompt, completion, history=BEFORE, metadata=metadata)


@pytest.mark.parametrize("task", [OPEN, FRUIT], ids=["open", "classes"])
def test_turns_of_one_conversation_are_no_duplicates_however_much_was_said_before(task):
    rows = [turn("a", "thanks", "apple", "c1"), turn("b", "thanks a lot", "apple", "c1"), turn("c", "anything else?", "apple", "c1")]
    result = run(*rows, task=task)
    assert ids(result.kept) == ["a", "b", "c"]
    assert not any("marked" in row.metadata for row in result.kept)


def test_what_was_said_before_does_not_make_other_questions_or_answers_the_same():
    rows = [
        turn("a", "how heavy is the round pot", "forty kilos with the glass top", "c1"),
        turn("b", "how heavy is the round pot?!", "only its lid is made of iron", "c2"),
        turn("c", "is there a smaller one as well", "forty kilos with the glass top", "c3"),
    ]
    assert gone(run(*rows[::2], task=OPEN)) == {}
    assert gone(run(rows[1], rows[2], task=OPEN)) == {}
    again = turn("d", "how heavy is the round pot now", "forty kilos with the glass top!", "c4")
    assert gone(run(rows[0], again, task=OPEN)) == {"d": "near_duplicate"}
