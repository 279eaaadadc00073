"""Messages of Microsoft Teams as Graph gives them: channels by thread, chats by pause, HTML as text."""

import json
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.guide.dataset.sources.chats.conversations import UnstatedSide
from fine_tune_pipeline.guide.dataset.sources.files import UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.rows import Row
from fine_tune_pipeline.spec.sources import TeamsSource
from fine_tune_pipeline_tests.guide.dataset.sources.reading import open_at

NAMES = {"1": "Ann Lee", "2": "Kim Support"}


def say(id_: str, user: str, content: str, minute: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": id_, "messageType": "message", "createdDateTime": f"2026-02-11T09:{minute:02}:22.31Z", "chatId": "19:chat",
        "from": {"user": {"id": user, "displayName": NAMES[user]}, "application": None},
        "body": {"contentType": "html", "content": content}, "mentions": [], "attachments": [], **more,
    }  # fmt: skip


def post(id_: str, user: str, content: str, minute: int = 0, **more: Any) -> dict[str, Any]:
    """The same in a channel."""
    return say(id_, user, content, minute, chatId=None, channelIdentity={"teamId": "t", "channelId": "19:help"}, **more)


def read(folder: Path, content: Any, us: tuple[str, ...] = ("Kim Support",), **source: Any) -> list[Row]:
    (folder / "chat.json").write_text(json.dumps(content), encoding="utf-8")
    return list(open_at(folder, TeamsSource(type="teams", path="chat.json", us=list(us), **source)).rows())


def talks(rows: list[Row]) -> list[list[tuple[str, str]]]:
    return [[(one["role"][0], one["content"]) for one in row.columns["messages"]] for row in rows if row.columns is not None]


def unused(rows: list[Row]) -> list[tuple[int, str]]:
    return [(row.number, row.reason) for row in rows if row.columns is None]


@pytest.mark.parametrize("us", ["2", "Kim Support"])
def test_a_chat_is_read_in_the_order_of_its_times_and_a_pause_ends_a_conversation(tmp_path, us):
    page = {"value": [say("3", "1", "Still down", 50), say("2", "2", "Try again", 1), say("1", "1", "It is down")], "@odata.nextLink": "x"}
    assert talks(read(tmp_path, page, us=(us,))) == [[("u", "It is down"), ("a", "Try again"), ("u", "Still down")]]
    rows = read(tmp_path, page, us=(us,), pause_hours=0.5)
    assert talks(rows) == [[("u", "It is down"), ("a", "Try again")], [("u", "Still down")]]
    assert (rows[0].place, rows[0].columns["started"]) == ("chat.json, row 3", "2026-02-11T09:00:22.310000+00:00")


def test_a_thread_of_a_channel_is_a_conversation_with_its_replies_inside_or_beside(tmp_path):
    beside = [
        post("1", "1", "First?"), post("2", "1", "Second?", 1), post("4", "2", "Second.", 2, replyToId="2"),
        post("3", "2", "First.", 3, replyToId="1"),
    ]  # fmt: skip
    inside = [
        {**beside[0], "replies": [{**beside[3], "replyToId": None}]},
        {**beside[1], "replies": [{name: value for name, value in beside[2].items() if name != "channelIdentity"}]},
    ]
    expected = [[("u", "First?"), ("a", "First.")], [("u", "Second?"), ("a", "Second.")]]
    assert talks(read(tmp_path, beside)) == talks(read(tmp_path, inside)) == expected


def test_html_becomes_text_and_people_who_are_mentioned_roles(tmp_path):
    mentions = [{"id": 0, "mentioned": {"user": {"id": "2", "displayName": "Kim Support"}}}, {"id": 1, "mentioned": {"user": {"id": "9"}}}]
    written = (
        '<div><p><at id="0">Kim Support</at> ask <at id="1">Bob</at>:</p><ul><li>fast&nbsp;&amp; <b>safe</b>?</li></ul>'
        '<p>See <a href="https://a.example">this</a> '
        '<emoji id="smile" alt="🙂" title=""></emoji><img src="https://x/y.png" alt="image"></p>'
        '<attachment id="7"></attachment></div>'
    )
    [talk] = talks(read(tmp_path, [say("1", "1", written, mentions=mentions), say("2", "2", "Yes", 1)]))
    text = talk[0][1]
    assert text.startswith("@assistant ask @user:")
    assert "**safe**?" in text
    assert "[this](https://a.example) 🙂" in text
    assert not any(word in text for word in ("Kim", "Bob", "image", "<"))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (say("2", "1", "<systemEventMessage/>", messageType="systemEventMessage", **{"from": None}), "system_line"),
        (say("2", "1", "", deletedDateTime="2026-02-11T09:30:00Z"), "deleted"),
        (say("2", "1", "Built", **{"from": {"application": {"id": "a", "displayName": "ci"}}}), "bot_message"),
        (say("2", "1", '<attachment id="7"></attachment>'), "media_only"),
        (say("2", "1", "when?", createdDateTime="yesterday"), "impossible_date"),
        (say("1", "1", "again"), "said_twice"),
        ("text", "broken_row"),
        (say("2", "1", "<div>" * 5000 + "deep"), "broken_row"),
    ],
)
def test_what_nobody_said_goes_to_the_quarantine_with_place_and_reason(tmp_path, message, reason):
    rows = read(tmp_path, [say("1", "1", "Down"), message, say("3", "2", "Up", 5)])
    assert unused(rows) == [(2, reason)]
    assert talks(rows) == [[("u", "Down"), ("a", "Up")]]


def test_a_program_may_be_us(tmp_path):
    bot = say("2", "1", "Try again", 1, **{"from": {"user": None, "application": {"id": "a", "displayName": "Helper"}}})
    assert talks(read(tmp_path, [say("1", "1", "Down"), bot], us=("Helper",))) == [[("u", "Down"), ("a", "Try again")]]


def test_without_us_the_error_lists_who_takes_part(tmp_path):
    with pytest.raises(UnstatedSide, match=r"'1' = 'Ann Lee' \(1\), '2' = 'Kim Support' \(1\)"):
        read(tmp_path, [say("1", "1", "Down"), say("2", "2", "Up", 1)], us=())


@pytest.mark.parametrize("content", [{"error": {}}, "text"])
def test_what_graph_does_not_answer_is_refused(tmp_path, content):
    with pytest.raises(UnreadableSource, match=r"dataset\.sources\[0\] \(.*chat\.json\): want a list of messages"):
        read(tmp_path, content)
