"""A chat export goes all the way to examples: an answer each, with history, conversation and place; what is unused is counted."""

import json

import pytest

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.artifacts.quarantine import read_quarantine
from fine_tune_pipeline.guide.dataset.sources.collect import collected, gather
from fine_tune_pipeline.guide.dataset.sources.shape import UnstatedLayout
from fine_tune_pipeline_tests.guide.dataset.make import use_case

CHAT = """31/12/2023, 10:00 - Messages and calls are end-to-end encrypted.
31/12/2023, 10:01 - Ann Lee: Do you have apples?
31/12/2023, 10:02 - Shop: Yes.
31/12/2023, 10:03 - Ann Lee: And pears?
31/12/2023, 10:04 - Ann Lee: <Media omitted>
31/12/2023, 10:05 - Shop: Tomorrow.
31/12/2023, 10:06 - Ann Lee: Thanks
"""


def test_each_answer_of_a_chat_is_an_example_and_every_other_line_is_accounted_for(tmp_path):
    (tmp_path / "chat.txt").write_text(CHAT, encoding="utf-8")
    source = {"type": "whatsapp", "path": "chat.txt", "us": ["Shop"], "metadata": ["started"], "licence": "own", "name": "shop chat"}
    built = collected(gather(use_case(tmp_path, sources=[source])), tmp_path, seed=0)
    first, second = read_examples(tmp_path / "examples.jsonl")
    assert (first.prompt, first.completion, first.history) == ("Do you have apples?", "Yes.", [])
    assert (second.prompt, second.completion) == ("And pears?", "Tomorrow.")
    assert second.history == [{"role": "user", "content": "Do you have apples?"}, {"role": "assistant", "content": "Yes."}]
    assert first.metadata == second.metadata == {"started": "2023-12-31T10:01:00", "conversation": first.id.removesuffix(":1")}
    assert second.provenance == {"file": "chat.txt", "row": "2", "answer": "2"}
    assert [(row.reason, row.original["line"][:24]) for row in read_quarantine(tmp_path)] == [
        ("system_line", "31/12/2023, 10:00 - Mess"),
        ("media_only", "31/12/2023, 10:04 - Ann "),
    ]
    assert built.metadata["fixed"] == [{"repair": "unanswered_end_left_out", "rows": 1}]
    assert not any("Ann" in str(example) for example in (first, second))


@pytest.mark.parametrize(
    ("message", "type_"),
    [
        ({"type": "message", "user": "U1", "text": "Hi", "ts": "1.0"}, "slack"),
        ({"messageType": "message", "createdDateTime": "2026-02-11T09:15:22Z", "body": {"content": "Hi"}}, "teams"),
    ],
)
def test_messages_of_a_chat_read_as_json_say_what_to_write(tmp_path, message, type_):
    (tmp_path / "2024-01-01.json").write_text(json.dumps([message]), encoding="utf-8")
    with pytest.raises(UnstatedLayout, match=f"write type: {type_}"):
        collected(gather(use_case(tmp_path, sources=[{"type": "json", "path": "2024-01-01.json"}])), tmp_path, seed=0)
