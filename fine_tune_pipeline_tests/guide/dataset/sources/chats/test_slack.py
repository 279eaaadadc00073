"""Slack's exports: channels and threads, bots, edits; names of people become roles."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.guide.dataset.sources.chats.conversations import UnseenSide, UnstatedSide
from fine_tune_pipeline.guide.dataset.sources.chats.slack_text import plain_text
from fine_tune_pipeline.guide.dataset.sources.files import UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.rows import Row
from fine_tune_pipeline.spec.sources import SlackSource
from fine_tune_pipeline_tests.guide.dataset.sources.reading import open_at

USERS = [
    {"id": "U1", "name": "ann", "profile": {"real_name": "Ann Lee", "display_name": "annie"}},
    {"id": "U2", "name": "kim", "profile": {"real_name": "Kim Support", "display_name": ""}},
]
START = 1_700_000_000


def say(user: str, text: str, second: float, **more: Any) -> dict[str, Any]:
    return {"type": "message", "user": user, "text": text, "ts": f"{START + second:.6f}", **more}


def export(folder: Path, days: dict[str, Any], **lists: Any) -> Path:
    """`days` is the content of each file of a day, by its path."""
    for name, content in {**{f"{name}.json": content for name, content in lists.items()}, **days}.items():
        path = folder / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder / "export"


def read(folder: Path, *messages: Any, us: tuple[str, ...] = ("Kim Support",), **source: Any) -> list[Row]:
    export(folder, {"help/2023-11-14.json": list(messages)}, users=USERS, channels=[{"id": "C1", "name": "help"}])
    return rows_of(folder, us=us, **source)


def rows_of(folder: Path, us: tuple[str, ...] = ("Kim Support",), path: str = "export", **source: Any) -> list[Row]:
    return list(open_at(folder, SlackSource(type="slack", path=path, us=list(us), **source)).rows())


def talks(rows: list[Row]) -> list[list[tuple[str, str]]]:
    return [[(one["role"][0], one["content"]) for one in row.columns["messages"]] for row in rows if row.columns is not None]


def unused(rows: list[Row]) -> list[tuple[int, str]]:
    return [(row.number, row.reason) for row in rows if row.columns is None]


@pytest.mark.parametrize("us", ["U2", "kim", "Kim Support"])
def test_we_are_known_by_id_name_or_real_name(tmp_path, us):
    rows = read(tmp_path, say("U1", "It is down", 0), say("U2", "On it", 5), us=(us,))
    assert talks(rows) == [[("u", "It is down"), ("a", "On it")]]
    assert rows[0].place == "help/2023-11-14.json, row 1"
    assert (rows[0].columns["channel"], rows[0].columns["started"]) == ("help", "2023-11-14T22:13:20+00:00")


def test_a_thread_is_a_conversation_whenever_its_replies_come(tmp_path):
    parent = {"thread_ts": f"{START + 10:.6f}"}
    days = {
        "help/2023-11-14.json": [
            say("U1", "Main question", 0), say("U1", "Thread question", 10, **parent), say("U2", "Main answer", 20),
        ],
        "help/2023-12-20.json": [
            say("U2", "Thread answer", 3_000_000, subtype="thread_broadcast", **parent), say("U1", "Later", 3_000_001),
            say("U2", "Later still", 3_000_002),
        ],
        "other/2023-11-14.json": [say("U1", "Elsewhere", 5), say("U2", "Indeed", 6)],
    }  # fmt: skip
    export(tmp_path, days, users=USERS)
    assert talks(rows_of(tmp_path)) == [
        [("u", "Main question"), ("a", "Main answer")],
        [("u", "Later"), ("a", "Later still")],
        [("u", "Thread question"), ("a", "Thread answer")],
        [("u", "Elsewhere"), ("a", "Indeed")],
    ]


def test_a_zip_and_a_folder_give_the_same_and_have_the_same_fingerprint(tmp_path):
    folder = export(tmp_path, {"help/2023-11-14.json": [say("U1", "Down", 0), say("U2", "Up", 1)]}, users=USERS)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for path in sorted(folder.rglob("*.json")):
            file.write(path, path.relative_to(folder))
    assert talks(rows_of(tmp_path, path="export.zip")) == talks(rows_of(tmp_path)) == [[("u", "Down"), ("a", "Up")]]
    plain, packed = (open_at(tmp_path, SlackSource(type="slack", path=path)).sha256 for path in ("export", "export.zip"))
    (folder / "help").rename(folder / "helpdesk")
    assert plain == packed != open_at(tmp_path, SlackSource(type="slack", path="export")).sha256


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (say("U1", "<@U1> has joined the channel", 1, subtype="channel_join"), "system_line"),
        (say("U1", "set the topic", 1, subtype="channel_topic"), "system_line"),
        ({"type": "message", "subtype": "bot_message", "bot_id": "B9", "username": "ci", "text": "Built", "ts": "1"}, "bot_message"),
        (say("USLACKBOT", "Reminder: stand-up", 1), "bot_message"),
        (say("U1", "", 1, files=[{"id": "F1"}]), "media_only"),
        ({"type": "message", "user": "U1", "text": "when?"}, "impossible_date"),
        (say("U1", "First", 0), "said_twice"),
        ("text", "broken_row"),
        (say("U1", "half \ud83d", 1), "broken_row"),
    ],
)
def test_what_nobody_said_goes_to_the_quarantine_with_file_place_and_reason(tmp_path, message, reason):
    rows = read(tmp_path, say("U1", "First", 0), message, say("U2", "Second", 2))
    assert unused(rows) == [(2, reason)]
    assert talks(rows) == [[("u", "First"), ("a", "Second")]]
    assert next(row for row in rows if row.columns is None).place == "help/2023-11-14.json, row 2"


def test_a_bot_may_be_us_and_its_attachments_are_its_words(tmp_path):
    bot = {
        "type": "message", "subtype": "bot_message", "bot_id": "B1", "username": "Helper", "text": "", "ts": f"{START + 1}.000000",
        "attachments": [{"text": "Try again"}, {"fallback": "later"}],
    }  # fmt: skip
    for us in ("Helper", "B1"):
        assert talks(read(tmp_path, say("U1", "It fails", 0), bot, us=(us,))) == [[("u", "It fails"), ("a", "Try again\nlater")]]


def test_an_edited_message_is_taken_as_it_became_and_a_deleted_one_is_not(tmp_path):
    rows = read(
        tmp_path,
        say("U1", "It is dwon", 0),
        say("U1", "Sorry, wrong channel", 1),
        say("U2", "On it", 2, edited={"user": "U2", "ts": "3"}),
        {"type": "message", "subtype": "message_changed", "ts": f"{START + 3}.0", "message": say("U1", "It is down", 0)},
        {"type": "message", "subtype": "message_deleted", "ts": f"{START + 4}.0", "deleted_ts": f"{START + 1}.000000"},
    )
    assert talks(rows) == [[("u", "It is down"), ("a", "On it")]]
    assert unused(rows) == [(4, "edit"), (5, "deleted"), (5, "deleted")]
    assert "Sorry, wrong channel" in rows[1].raw


def test_what_we_say_before_anybody_asks_is_quarantined_message_by_message(tmp_path):
    rows = read(tmp_path, say("U2", "Good morning", 0), say("U2", "Maintenance at 9", 1), say("U1", "OK?", 2), say("U2", "Yes", 3))
    assert unused(rows) == [(1, "opens_with_us"), (2, "opens_with_us")]
    assert talks(rows) == [[("u", "OK?"), ("a", "Yes")]]


def test_an_endless_conversation_is_cut_before_a_turn_of_the_user(tmp_path):
    messages = [say(user, f"{user} {second}", second) for second, user in enumerate(["U1", "U2"] * 5)]
    assert [len(talk) for talk in talks(read(tmp_path, *messages, most_turns=3))] == [4, 4, 2]


def test_a_conversation_keeps_its_id_when_it_goes_on(tmp_path):
    messages = [say("U1", "Down", 0), say("U2", "Up", 1)]
    before = read(tmp_path, *messages)[0].columns["id"]
    assert read(tmp_path, *messages, say("U1", "Thanks", 2))[0].columns["id"] == before
    assert read(tmp_path, say("U1", "Down?", 0), messages[1])[0].columns["id"] != before


def test_names_of_people_are_in_no_message(tmp_path):
    rows = read(tmp_path, say("U1", "Hi <@U2>, <@U1|ann> here", 0), say("U2", "Hello <@U1>", 1), say("U9", "<@U7>?", 2))
    assert talks(rows) == [[("u", "Hi @assistant, @user here"), ("a", "Hello @user"), ("u", "@user?")]]
    assert not any(name in json.dumps(rows[0].columns) for name in ("Ann", "annie", "Kim", "kim", "U1", "U2", "U7", "U9"))


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("see <https://a.example/x?a=1&amp;b=2>", "see https://a.example/x?a=1&b=2"),
        ("see <https://a.example/x|the page>", "see [the page](https://a.example/x)"),
        ("see <http://a.example|a.example>", "see http://a.example"),
        ("<mailto:a@b.example|a@b.example> or <tel:+491701|+491701>", "a@b.example or +491701"),
        ("<!here> in <#C1|general> and <#C2>", "@here in #general and #C2"),
        ("<!subteam^S1|@support> by <!date^1392734382^{date}|February 18th>", "@support by February 18th"),
        ("1 &lt; 2 &amp;&amp; &amp;lt; :smile:", "1 < 2 && &lt; :smile:"),
        ("a &lt;b&gt; c", "a <b> c"),
    ],
)
def test_markup_becomes_what_a_reader_sees(written, shown):
    assert plain_text(written, lambda id_: False) == shown


def test_without_us_the_error_lists_ids_names_and_messages(tmp_path):
    messages = (say("U1", "Down", 0), say("U2", "Up", 1), say("U2", "Sure", 2))
    with pytest.raises(UnstatedSide, match=r"dataset\.sources\[0\] .*us is missing.*'U2' = 'Kim Support' \(2\), 'U1' = 'Ann Lee' \(1\)"):
        read(tmp_path, *messages, us=())
    with pytest.raises(UnseenSide, match="us: 'U7' says nothing in it"):
        read(tmp_path, *messages, us=("U2", "U7"))


@pytest.mark.parametrize(
    ("days", "said"),
    [
        ({"help/notes.json": []}, "no file is called after a day, such as general/2026-01-31.json"),
        ({"help/2023-11-14.json": {"ok": True}}, r"2023-11-14\.json\): got dict, want a list of messages"),
        ({"help/2023-11-14.json": '[{"type": "message",'}, r"2023-11-14\.json\): line 1 is not JSON"),
    ],
)
def test_what_is_no_export_is_refused_with_the_file(tmp_path, days, said):
    export(tmp_path, days, users=USERS)
    with pytest.raises(UnreadableSource, match=rf"dataset\.sources\[0\] \(.*{said}"):
        rows_of(tmp_path)


def test_a_file_that_no_export_has_is_said(tmp_path):
    export(tmp_path, {"help/2023-11-14.json": [say("U1", "Down", 0), say("U2", "Up", 1)], "help/notes.json": []}, users=USERS)
    rows = rows_of(tmp_path)
    assert [(row.file, row.reason) for row in rows if row.columns is None] == [("help/notes.json", "unknown_file")]


def test_one_channel_without_the_list_of_users_knows_the_names_beside_its_messages(tmp_path):
    profile = {"user_profile": {"real_name": "Kim Support"}}
    export(tmp_path, {"help/2023-11-14.json": [say("U1", "Down", 0), say("U2", "Up", 1, **profile)]})
    assert talks(rows_of(tmp_path, path="export/help")) == [[("u", "Down"), ("a", "Up")]]
