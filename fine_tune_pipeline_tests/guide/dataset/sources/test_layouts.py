"""Training formats become one record an answer; what is no conversation is refused with its reason."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fine_tune_pipeline.guide.dataset.sources.layouts import Read, Record, read_row, resembled
from fine_tune_pipeline.guide.dataset.sources.messages import UnfitRow


def read(columns: dict[str, Any], layout: Any = "messages", *, turns: Any = "last", **names: str) -> Read:
    return read_row(columns, layout=layout, names=names, turns=turns)


def only(columns: dict[str, Any], layout: Any = "messages", **names: str) -> Record:
    [record] = read(columns, layout, **names).records
    return record


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [SYSTEM, user("hi"), assistant("hello"), user("why?"), assistant("because")]
ASKED_WEATHER = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
SUNNY = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_the_last_answer_is_learnt_from_and_what_stands_before_it_is_history():
    assert read({"messages": TALK}) == Read([Record("why?", "because", history=TALK[:3])])


def test_with_turns_all_every_answer_is_a_record():
    assert read({"messages": TALK}, turns="all").records == [
        Record("hi", "hello", history=[SYSTEM]),
        Record("why?", "because", history=TALK[:3]),
    ]


def test_an_unanswered_end_is_left_out_and_said():
    assert read({"messages": [*TALK, user("thanks")]}) == replace(read({"messages": TALK}), unanswered_end=True)


def test_answers_of_weight_0_are_history_but_not_learnt_from():
    talk = [user("hi"), assistant("hello", weight=0), user("why?"), assistant("because", weight=1)]
    assert read({"messages": talk}, turns="all").records == [Record("why?", "because", history=[user("hi"), assistant("hello")])]


def test_a_call_of_a_tool_is_an_answer_and_its_result_is_what_the_next_one_answers():
    talk = [user("weather?"), assistant("", tool_calls=[ASKED_WEATHER]), SUNNY, assistant("It is sunny.")]
    first, second = read({"messages": talk, "tools": [WEATHER]}, turns="all").records
    assert json.loads(first.completion) == {"name": "weather", "arguments": {"city": "Rome"}}
    assert (first.prompt, first.role, first.tools) == ("weather?", "user", [WEATHER])
    assert second == Record(
        "sunny", "It is sunny.", history=[user("weather?"), assistant("", tool_calls=[CALL])], role="tool", tools=[WEATHER]
    )


def test_older_and_looser_ways_to_write_messages_mean_the_same():
    old = [
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}], "name": None},
        user("weather?"),
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}, "tool_calls": None},
        {"role": "function", "name": "weather", "content": "sunny"},
        assistant("It is sunny."),
    ]
    record = only({"messages": json.dumps(old), "tools": '[{"name": "weather", "parameters": {"type": "object"}}]'})
    assert record.history[0] == {"role": "system", "content": "Be\nbrief."}
    assert record.history[2]["tool_calls"] == [{"type": "function", "function": CALL["function"]}]
    assert record.tools == [WEATHER]


@pytest.mark.parametrize(
    ("columns", "reason", "said"),
    [
        ({"text": "a"}, "missing_column", "no column 'messages'; the row has 'text'"),
        ({"messages": "Hi"}, "not_a_conversation", "messages: got text that is not JSON"),
        ({"messages": {"role": "user"}}, "not_a_conversation", "messages: got dict, want a list"),
        ({"messages": ["hi"]}, "not_a_conversation", r"messages\[0\]: got str"),
        ({"messages": []}, "no_answer", "is empty"),
        ({"messages": [user("hi")]}, "no_answer", "no message of the assistant"),
        ({"messages": [user("a"), user("b"), assistant("c")]}, "roles_out_of_order", r"messages\[1\]: user after user, want assistant"),
        ({"messages": [assistant("c")]}, "roles_out_of_order", r"messages\[0\]: assistant at the beginning, want system or user"),
        ({"messages": [user("a"), SUNNY]}, "roles_out_of_order", "tool after user"),
        ({"messages": [user("a"), assistant("", tool_calls=[CALL]), user("b")]}, "roles_out_of_order", "user after assistant, want tool"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "unknown_role", r"messages\[0\]\.role: got 'bot'"),
        ({"messages": [{"content": "a"}]}, "unknown_role", "got None"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "non_text_content", "a part is image_url"),
        ({"messages": [{"role": "user", "content": 7}]}, "non_text_content", "got int"),
        ({"messages": [user("a"), assistant("", tool_calls=[{"id": "x"}])]}, "broken_tools", "want a function with a name"),
        ({"messages": [user("a"), assistant("b")], "tools": "weather"}, "broken_tools", "tools: not JSON"),
        ({"messages": [user("a"), assistant("b")], "tools": [{"type": "function"}]}, "broken_tools", r"tools\[0\]"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_reason(columns, reason, said):
    with pytest.raises(UnfitRow, match=said) as error:
        read(columns)
    assert error.value.reason == reason


def test_sharegpt_speaks_of_human_and_gpt_and_of_calls_and_observations():
    talk = [
        {"from": "human", "value": "weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "It is sunny."},
    ]
    record = only({"conversations": talk, "system": "Be brief.", "tools": json.dumps([WEATHER])}, "sharegpt")
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL["function"]}]}
    assert record == Record("sunny", "It is sunny.", history=[SYSTEM, user("weather?"), call], role="tool", tools=[WEATHER])


def test_alpaca_puts_the_input_below_the_instruction():
    assert only({"instruction": "Add.", "input": "1 2", "output": 3}, "alpaca") == Record("Add.\n\n1 2", "3")
    assert only({"instruction": "Sing.", "input": "", "output": "La"}, "alpaca") == Record("Sing.", "La")
    assert only({"instruction": "Sing.", "system": "Be brief.", "output": "La"}, "alpaca").history == [SYSTEM]


def test_prompt_and_completion_are_texts_or_messages():
    assert only({"prompt": "a", "completion": "b"}, "prompt_completion") == Record("a", "b")
    chat = {"prompt": TALK[:4], "completion": TALK[4:]}
    assert only(chat, "prompt_completion") == only({"messages": TALK})
    assert len(read(chat, "prompt_completion", turns="all").records) == 1


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": [user("a")], "chosen": [assistant("b")], "rejected": [assistant("c")]},
        {"prompt": "a", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
    ],
)
def test_a_preference_is_an_answer_and_the_one_liked_less(columns):
    assert only(columns, "preference") == Record("a", "b", rejected="c")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "no_preference"),
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("c")]}, "not_one_answer"),
        ({"chosen": "b", "rejected": "c"}, "missing_column"),
        ({"prompt": "a", "chosen": "b"}, "missing_column"),
        ({"prompt": "a", "chosen": {"x": 1}, "rejected": "c"}, "non_text_content"),
    ],
)
def test_what_is_no_preference_is_refused_with_its_reason(columns, reason):
    with pytest.raises(UnfitRow) as error:
        read(columns, "preference")
    assert error.value.reason == reason


def test_columns_of_the_format_may_have_other_names():
    assert only({"dialogue": TALK}, messages="dialogue") == only({"messages": TALK})
    with pytest.raises(UnfitRow, match="no column 'dialogue'"):
        read({"messages": TALK}, messages="dialogue")


@pytest.mark.parametrize(
    ("columns", "proposal"),
    [
        ({"id": 1, "messages": TALK}, "layout: messages"),
        ({"dialogue": TALK}, "layout: messages and columns: {messages: dialogue}"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "layout: sharegpt"),
        ({"instruction": "a", "input": "", "output": "b"}, "layout: alpaca"),
        ({"prompt": [user("a")], "completion": [assistant("b")]}, "layout: prompt_completion"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "layout: preference"),
        ({"text": "a", "label": "b"}, None),
        ({"prompt": "a", "completion": "b"}, None),
    ],
)
def test_a_format_is_known_by_its_columns(columns, proposal):
    assert resembled(columns) == proposal
