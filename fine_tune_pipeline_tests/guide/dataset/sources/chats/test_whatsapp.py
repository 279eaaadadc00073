"""Chats that WhatsApp exported: every phone's way to write a line, and what is no message."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.guide.dataset.sources.chats import conversations
from fine_tune_pipeline.guide.dataset.sources.chats.conversations import UnseenSide, UnstatedSide
from fine_tune_pipeline.guide.dataset.sources.chats.whatsapp import MESSAGE_CHARACTERS, UnclearDates
from fine_tune_pipeline.guide.dataset.sources.files import UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.rows import Row
from fine_tune_pipeline.spec.sources import WhatsAppSource
from fine_tune_pipeline_tests.guide.dataset.sources.reading import open_at

LRM, NARROW = "\u200e", "\u202f"


def read(folder: Path, *lines: str, us: tuple[str, ...] = ("Shop",), **source: Any) -> list[Row]:
    (folder / "chat.txt").write_text("\n".join(lines), encoding="utf-8")
    return list(open_at(folder, WhatsAppSource(type="whatsapp", path="chat.txt", us=list(us), **source)).rows())


def talks(rows: list[Row]) -> list[list[tuple[str, str]]]:
    """Each conversation's roles, by their first letter, and texts."""
    return [[(one["role"][0], one["content"]) for one in row.columns["messages"]] for row in rows if row.columns is not None]


def unused(rows: list[Row]) -> list[tuple[int, str]]:
    return [(row.number, row.reason) for row in rows if row.columns is None]


@pytest.mark.parametrize(
    ("begin", "started"),
    [
        ("31/12/2023, 21:05 - ", "2023-12-31T21:05:00"),
        ("12/31/23, 9:05 PM - ", "2023-12-31T21:05:00"),
        (f"12/31/23, 9:05{NARROW}PM - ", "2023-12-31T21:05:00"),
        ("31/12/2023, 12:05 a. m. - ", "2023-12-31T00:05:00"),
        ("31/12/2023, 12:05 p.m. - ", "2023-12-31T12:05:00"),
        ("31.12.23, 21:05 - ", "2023-12-31T21:05:00"),
        ("03.04.23, 21:05 - ", "2023-04-03T21:05:00"),
        ("2023-12-31, 21:05 - ", "2023-12-31T21:05:00"),
        ("31/12/2023 21:05 - ", "2023-12-31T21:05:00"),
        ("31/12/23 21.05 - ", "2023-12-31T21:05:00"),
        ("[31/12/2023, 21:05:33] ", "2023-12-31T21:05:33"),
        ("[12/31/23, 9:05:33 PM] ", "2023-12-31T21:05:33"),
        (f"{LRM}[31.12.23, 21:05:33] ", "2023-12-31T21:05:33"),
        ("[2023/12/31 21:05:33] ", "2023-12-31T21:05:33"),
        ("[31.12.2023 klo 21.05.33] ", "2023-12-31T21:05:33"),
        ("31.12.2023 klo 21.05 - ", "2023-12-31T21:05:00"),
        ("31. 12. 2023. 21:05 - ", "2023-12-31T21:05:00"),
        ("[12.31.23 21:05:33] ", "2023-12-31T21:05:33"),
        ("31-12-23 21:05 - ", "2023-12-31T21:05:00"),
    ],
)
def test_lines_of_android_and_ios_in_every_form_of_date_and_hour(tmp_path, begin, started):
    [row] = read(tmp_path, f"{begin}Ann: Are you open?", f"{begin}Shop: Until six.")
    assert talks([row]) == [[("u", "Are you open?"), ("a", "Until six.")]]
    assert row.columns["started"] == started


def test_further_lines_belong_to_their_message_and_turns_of_one_side_are_joined(tmp_path):
    rows = read(
        tmp_path,
        "31/12/2023, 21:05 - Ann: Two things:",
        "",
        "12/12 - is that fine? 10:30",
        "31/12/2023, 21:06 - Ann: And: where?",
        "31/12/2023, 21:07 - Shop: Yes.",
        "31/12/2023, 21:08 - Bob: Who else?",
    )
    assert talks(rows) == [[("u", "Two things:\n\n12/12 - is that fine? 10:30\nAnd: where?"), ("a", "Yes."), ("u", "Who else?")]]
    assert (rows[0].number, rows[0].file) == (1, "chat.txt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Ann: <Media omitted>", "media_only"),
        ("Ann: <Medien ausgeschlossen>", "media_only"),
        (f"Ann: {LRM}image omitted", "media_only"),
        (f"Ann: {LRM}Bild weggelassen", "media_only"),
        (f"Ann: {LRM}<attached: 00000012-PHOTO-2023.jpg>", "media_only"),
        (f"Ann: {LRM}Bill.pdf • {LRM}3 pages {LRM}<attached: 0003-Bill.pdf>", "media_only"),
        ("Ann: IMG-2023-WA0001.jpg (file attached)", "media_only"),
        ("Ann: null", "media_only"),
        ("Ann: This message was deleted", "deleted"),
        (f"Ann: {LRM}You deleted this message.", "deleted"),
        (f"Ann: {LRM}Missed voice call", "system_line"),
        ("Ann: ", "empty_message"),
        ("Messages and calls are end-to-end encrypted. Tap to learn more.", "system_line"),
        ('Ann changed the subject from "Help: now" to "Help: later"', "system_line"),
    ],
)
def test_what_says_nothing_goes_to_the_quarantine_with_its_line_and_reason(tmp_path, text, reason):
    rows = read(tmp_path, "31/12/2023, 21:05 - Ann: Hi", f"31/12/2023, 21:06 - {text}", "31/12/2023, 21:07 - Shop: Hello")
    assert unused(rows) == [(2, reason)]
    assert talks(rows) == [[("u", "Hi"), ("a", "Hello")]]
    [left] = [row for row in rows if row.columns is None]
    assert left.content == {"line": f"31/12/2023, 21:06 - {text}"}
    assert left.place == "chat.txt, row 2"


def test_words_beside_a_picture_and_edited_ones_stay(tmp_path):
    rows = read(
        tmp_path,
        "[31/12/23, 21:05:00] Ann: It is broken " + LRM + "<attached: 0001.jpg>",
        "[31/12/23, 21:06:00] Shop: Send it back. " + LRM + "<This message was edited>",
        "[31/12/23, 21:07:00] Ann: IMG-1.jpg (file attached)",
        "this one?",
        "[31/12/23, 21:08:00] Shop: Yes",
    )
    assert talks(rows) == [[("u", "It is broken"), ("a", "Send it back."), ("u", "this one?"), ("a", "Yes")]]


def test_who_is_called_by_name_becomes_a_role(tmp_path):
    rows = read(
        tmp_path,
        "[31/12/23, 21:05:00] ~ Ann Lee: @\u2068Shop\u2069 is this right? " + LRM,
        "[31/12/23, 21:06:00] \u202aShop\u202c: Yes @\u2068~Ann Lee\u2069, and ask @4917012345678.",
    )
    assert talks(rows) == [[("u", "@assistant is this right?"), ("a", "Yes @user, and ask @user.")]]


def test_a_number_is_typed_with_plain_spaces_and_hyphens(tmp_path):
    number = "\u202a+1\u00a0(555)\u00a0010\u20110100\u202c"
    rows = read(tmp_path, "31/12/23, 21:05 - Ann: Hi", f"31/12/23, 21:06 - {number}: Hello", us=("+1 (555) 010-0100",))
    assert talks(rows) == [[("u", "Hi"), ("a", "Hello")]]


def test_one_side_that_speaks_alone_makes_no_endless_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(conversations, "JOINED_MESSAGES", 3)
    lines = [f"31/12/23, 21:{minute:02} - {name}: {minute}" for minute, name in enumerate(["Shop"] * 5 + ["Ann"] * 6 + ["Shop"])]
    rows = read(tmp_path, *lines)
    assert unused(rows) == [(number, "opens_with_us") for number in range(1, 6)]
    assert talks(rows) == [[("u", "5\n6\n7")], [("u", "8\n9\n10"), ("a", "11")]]


def test_a_long_silence_begins_a_new_conversation(tmp_path):
    lines = [
        "30/12/2023, 10:00 - Ann: One?", "30/12/2023, 15:00 - Shop: One.",
        "30/12/2023, 22:00 - Ann: Two?", "30/12/2023, 23:00 - Shop: Two.",
    ]  # fmt: skip
    assert len(talks(read(tmp_path, *lines))) == 1
    rows = read(tmp_path, *lines, pause_hours=6)
    assert talks(rows) == [[("u", "One?"), ("a", "One.")], [("u", "Two?"), ("a", "Two.")]]
    assert [row.number for row in rows] == [1, 3]


def test_the_dates_show_their_order_by_a_day_above_12_or_by_going_on(tmp_path):
    def first(*days: str) -> str:
        lines = [f"{day}, 10:00 - {name}: x" for day in days for name in ("Ann", "Shop")]
        return read(tmp_path, *lines)[0].columns["started"][:10]

    assert first("01/02/2024", "13/02/2024") == "2024-02-01"
    assert first("01/02/2024", "01/13/2024") == "2024-01-02"
    assert first("03/04/24", "05/04/24", "02/05/24") == "2024-04-03"
    assert first("04/03/24", "04/05/24", "05/02/24") == "2024-04-03"


def test_dates_that_can_be_read_in_two_ways_are_refused_until_the_order_is_given(tmp_path):
    lines = ["03/04/2024, 10:00 - Ann: Hi", "04/04/2024, 10:00 - Shop: Hello"]
    with pytest.raises(UnclearDates, match=r"dataset\.sources\[0\] \(.*chat\.txt\): day and month .* write date_order: dmy, or mdy"):
        read(tmp_path, *lines)
    assert read(tmp_path, *lines, date_order="dmy")[0].columns["started"].startswith("2024-04-03")
    assert read(tmp_path, *lines, date_order="mdy")[0].columns["started"].startswith("2024-03-04")


def test_a_day_that_does_not_exist_costs_its_message(tmp_path):
    lines = ["31/12/2023, 10:00 - Ann: Hi", "31/13/2023, 10:01 - Ann: lost", "31/12/2023, 10:02 - Shop: Hello"]
    rows = read(tmp_path, *lines)
    assert unused(rows) == [(2, "impossible_date")]
    assert "dates are read as dmy" in next(row.problem for row in rows if row.columns is None)


def test_lines_before_the_first_message_and_bytes_that_are_no_text_are_kept_with_their_number(tmp_path):
    (tmp_path / "chat.txt").write_bytes(b"Chat with Ann\n31/12/2023, 10:00 - Ann: Hi\ncaf\xe9\n31/12/2023, 10:02 - Shop: Hello\n")
    rows = list(open_at(tmp_path, WhatsAppSource(type="whatsapp", path="chat.txt", us=["Shop"])).rows())
    assert unused(rows) == [(1, "unparsed_line"), (3, "broken_row")]
    assert talks(rows) == [[("u", "Hi"), ("a", "Hello")]]


def test_what_is_longer_than_whatsapp_sends_is_no_part_of_a_message(tmp_path):
    rows = read(tmp_path, "31/12/2023, 10:00 - Ann: Hi", *["x" * 1000] * (MESSAGE_CHARACTERS // 1000 + 2), "31/12/2023, 10:01 - Shop: No")
    assert {reason for _, reason in unused(rows)} == {"unparsed_line"}
    assert len(talks(rows)[0][0][1]) <= MESSAGE_CHARACTERS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Dear Ann,\nhello\n", r"no line begins as in a chat that WhatsApp exported .*the first is 'Dear Ann,'"),
        (b"", "no line begins"),
        ("[2023/12/31 下午 9:05:33] Ann: Hi\n".encode(), "no line begins"),
        ("31/12/2023, 10:00 - Ann: Hi".encode("utf-16"), "begins as UTF-16 does; save the file as UTF-8"),
        (b"31/12/2023, 10:00 - Ann: Hi\n" + b"caf\xe9\n" * 20, "20 of 21 rows are not UTF-8"),
    ],
)
def test_a_file_that_is_no_chat_is_refused_with_what_to_do(tmp_path, content, said):
    (tmp_path / "chat.txt").write_bytes(content)
    with pytest.raises(UnreadableSource, match=said) as error:
        list(open_at(tmp_path, WhatsAppSource(type="whatsapp", path="chat.txt", us=["Shop"])).rows())
    assert "dataset.sources[0]" in str(error.value)


def test_without_us_the_error_lists_who_takes_part(tmp_path):
    lines = ["31/12/2023, 10:00 - Ann: Hi", "31/12/2023, 10:01 - Shop: Hello", "31/12/2023, 10:02 - Shop: Yes?"]
    with pytest.raises(UnstatedSide, match=r"dataset\.sources\[0\] \(.*\): us is missing: .*'Shop' \(2\), 'Ann' \(1\)"):
        read(tmp_path, *lines, us=())
    with pytest.raises(UnseenSide, match=r"us: 'Shpo' says nothing in it; .*'Shop' \(2\), 'Ann' \(1\)"):
        read(tmp_path, *lines, us=("Shop", "Shpo"))


def archive(path: Path, **members: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(name.replace("__", "/").replace("-", "."), text)


def test_a_folder_of_texts_and_archives_is_read_file_by_file(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("31/12/2023, 10:00 - Ann: A?\n31/12/2023, 10:01 - Shop: A.\n", encoding="utf-8")
    texts = {"_chat-txt": "[30/12/23, 10:00:00] Bob: B?\n[30/12/23, 10:00:09] Shop: B.\n", "photo-jpg": "x", "__MACOSX__-_chat-txt": "x"}
    archive(tmp_path / "in" / "b.zip", **texts)
    rows = list(open_at(tmp_path, WhatsAppSource(type="whatsapp", path="in", us=["Shop"])).rows())
    assert talks(rows) == [[("u", "A?"), ("a", "A.")], [("u", "B?"), ("a", "B.")]]
    assert [row.place for row in rows] == ["a.txt, row 1", "b.zip/_chat.txt, row 1"]


@pytest.mark.parametrize(("content", "said"), [(b"PK cut off", "not a .zip, or not all of one"), (None, r"the archive holds no \*\.txt")])
def test_an_archive_without_a_chat_is_refused(tmp_path, content, said):
    archive(tmp_path / "chat.zip", **{"photo-jpg": "x"})
    if content is not None:
        (tmp_path / "chat.zip").write_bytes(content)
    with pytest.raises(UnreadableSource, match=rf"dataset\.sources\[0\] \(.*chat\.zip\): {said}"):
        open_at(tmp_path, WhatsAppSource(type="whatsapp", path="chat.zip", us=["Shop"]))


def test_the_content_decides_and_not_the_name(tmp_path):
    for name, text in (("a.txt", "one"), ("b.txt", "one"), ("c.txt", "two")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    archive(tmp_path / "d.zip", **{"_chat-txt": "one"})
    a, b, c, d = (open_at(tmp_path, WhatsAppSource(type="whatsapp", path=name)).sha256 for name in ("a.txt", "b.txt", "c.txt", "d.zip"))
    assert a == b == d != c


def test_people_who_have_spoken_and_we_ourselves_are_called_by_side(tmp_path):
    [row] = read(
        tmp_path,
        "31/12/2023, 21:05 - Bob Grün: Are you open, @Shop?",
        "31/12/2023, 21:06 - Shop: Yes @Bob Grün, until six; ask @Eva or a@shop.example",
    )
    assert talks([row]) == [[("u", "Are you open, @assistant?"), ("a", "Yes @user, until six; ask @Eva or a@shop.example")]]


def test_two_people_who_write_the_same_in_one_minute_have_conversations_of_their_own(tmp_path):
    ids = set()
    for name in ("Zed", "Yvonne"):
        (tmp_path / name).mkdir()
        [row] = read(tmp_path / name, f"31/12/2023, 21:05 - {name}: Hi", "31/12/2023, 21:06 - Shop: Hello!")
        ids.add(row.columns["id"])
    assert len(ids) == 2
    assert not any("Zed" in id_ for id_ in ids)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("location: https://maps.google.com/?q=51.5,-0.14", "media_only"),
        ("Live location shared", "media_only"),
        ("<View once message omitted>", "media_only"),
        ("POLL:\nWhich one?\nOPTION: A (2 votes)", "system_line"),
    ],
)
def test_places_polls_and_what_was_not_received_are_no_words_of_a_customer(tmp_path, text, reason):
    rows = read(tmp_path, f"31/12/2023, 21:04 - Ann: {text}", "31/12/2023, 21:05 - Ann: What location?", "31/12/2023, 21:06 - Shop: Here.")
    assert unused(rows) == [(1, reason)]
    assert talks(rows) == [[("u", "What location?"), ("a", "Here.")]]
