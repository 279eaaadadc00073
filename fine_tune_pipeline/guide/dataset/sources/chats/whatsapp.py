"""Chats as WhatsApp exports them: a text file whose lines begin with date, time and name, in the way of the phone that wrote it."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from fine_tune_pipeline.guide.dataset.sources.chats.conversations import MENTIONS, Said, Sides, one_space, unused
from fine_tune_pipeline.guide.dataset.sources.chats.files import ChatFile
from fine_tune_pipeline.guide.dataset.sources.files import UnreadableSource
from fine_tune_pipeline.guide.dataset.sources.readers import SHOWN_CHARACTERS, check_undecoded, lines_of
from fine_tune_pipeline.guide.dataset.sources.rows import Row

MESSAGE_CHARACTERS = 65_536
"""WhatsApp sends no longer message: what follows is none of it."""

ORDERS = {"dmy": (2, 1, 0), "mdy": (2, 0, 1), "ymd": (0, 1, 2)}
"""Where year, month and day stand among the three numbers of a date."""

# Android: `31/12/2023, 21:05 - Ann: text`; iOS: `[31.12.23, 21:05:33] Ann: text`.
# \s is also the narrow space before PM; Finns write `klo` before the hour.
_BEGIN = re.compile(
    r"[\u200e\u200f]?(?P<bracket>\[)?(?P<one>\d{1,4})(?P<sign>[./-])\s?(?P<two>\d{1,2})[./-]\s?(?P<three>\d{1,4})\.?,?\s(?:[a-zà-ÿ]{1,5}\.?\s)?"
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2}))?(?:\s?(?P<half>[AaPp])\.?\s?[Mm]\.?)?"
    r"(?(bracket)\]|\s[-–])\s(?P<rest>.*)"
)
_NAMED = re.compile(r"(?P<name>[^:\"“”]{1,100}):(?:\s|$)(?P<text>.*)", re.DOTALL)
_DIRECTIONS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MENTION = re.compile("@\u2068~?\\s?(?P<name>[^\u2069]{1,100})\u2069|@(?P<number>\\d{7,15})\\b")
_LEFT_TO_RIGHT = "\u200e"

# WhatsApp's own phrases in English, German, Spanish, French, Portuguese and Italian.
_OMITTED = r"omitted|weggelassen|omitid[ao]|omis(?:es?)?|absente?|ocult[ao]|omess[ao]|ausgeschlossen"
_MEDIA = re.compile(
    rf"<(?:Media|Medien|Multimedia|Archivo|Médias|Mídia|Arquivo de mídia) (?:{_OMITTED})>"
    r"|<\s?(?:attached|Anhang|adjunto|pièce jointe|anexado|allegato): [^>\n]+>"
    r"|^[^\n]+ \((?:file attached|Datei angehängt|archivo adjunto|fichier joint|arquivo anexado|file allegato)\)$",
    re.MULTILINE,
)
_PLACE = re.compile(
    r"^(?:live )?(?:location|standort|ubicación|localisation|position|localização|posizione)(?: shared)?:?(?: https?://maps\.\S+)?$", re.I
)
_POLL = re.compile(r"(?:POLL|UMFRAGE|ENCUESTA|SONDAGE|ENQUETE|SONDAGGIO):(?:\n|$)")
_UNSEEN = re.compile(r"<View once (?:voice )?message omitted>$|Waiting for this message")
_EDITED = re.compile(
    r"\s*<(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje|Ce message a été modifié|Mensagem editada"
    r"|Questo messaggio è stato modificato)\.?>\s*$"
)
_DELETED = re.compile(
    r"(?:This message was deleted|You deleted this message|Diese Nachricht wurde gelöscht|Du hast diese Nachricht gelöscht"
    r"|Se eliminó este mensaje|Eliminaste este mensaje|Ce message a été supprimé|Vous avez supprimé ce message|Mensagem apagada"
    r"|Esta mensagem foi apagada|Você apagou esta mensagem|Questo messaggio è stato eliminato|Hai eliminato questo messaggio)"
    r"(?: by admin [^\n]*)?\.?$"
)
_FORM = "`31/12/2023, 21:05 - Name: text` or `[31/12/23, 21:05:33] Name: text`"


class UnclearDates(ValueError):
    """The dates of a chat can be read in two ways."""


@dataclass
class _Begun:
    """A message whose further lines are still read."""

    number: int
    begin: re.Match[str]
    lines: list[str]
    characters: int

    def takes(self, line: str) -> bool:
        """Whether the line is a further one; then it is taken."""
        self.characters += len(line) + 1
        if self.characters > MESSAGE_CHARACTERS:
            return False
        self.lines.append(line)
        return True


def whatsapp_messages(file: ChatFile, sides: Sides, *, order: str | None) -> Iterator[Said | Row]:
    """Messages of one chat in their order, and what is none as broken rows: system lines, media without a word, deleted messages.

    Args:
        order: of day, month and year, one of `ORDERS`; by default the dates show it.

    Raises:
        UnreadableSource: no line begins as a message does, or the file is no UTF-8 text.
        UnclearDates: the dates show no order.
    """
    with file.open() as stream:
        if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UnreadableSource(f"{file.place}: begins as UTF-16 does; save the file as UTF-8")
    known = order or _order(file)
    with file.open() as stream:
        for found in _begun(stream, file):
            yield found if isinstance(found, Row) else _message(found, file, sides, known)


def _begun(stream: BinaryIO, file: ChatFile) -> Iterator[_Begun | Row]:
    begun: _Begun | None = None
    undecoded = number = 0
    for number, (line, rest) in enumerate(lines_of(stream), start=1):
        text = _decoded(line)
        if text is None or rest:
            undecoded += text is None
            yield _unread(file, number, line, rest)
        elif begin := _BEGIN.match(text):
            if begun:
                yield begun
            begun = _Begun(number, begin, [text], len(text))
        elif not (begun and begun.takes(text)) and text.strip():
            yield unused(file.name, number, "unparsed_line", f"is no part of a message; want {_FORM}", text)
    if begun:
        yield begun
    check_undecoded(undecoded, number, wanted="UTF-8", remedy="export the chat again, or save the file as UTF-8", place=file.place)


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n")
    except UnicodeDecodeError:
        return None


def _unread(file: ChatFile, number: int, line: bytes, rest: int) -> Row:
    shown = line[:SHOWN_CHARACTERS].decode("utf-8", errors="replace").rstrip("\r\n")
    problem = f"the line has {len(line) + rest:,} bytes" if rest else "not UTF-8 text"
    return unused(file.name, number, "broken_row", problem, shown if rest else line.decode("utf-8", errors="replace").rstrip("\r\n"))


def _message(begun: _Begun, file: ChatFile, sides: Sides, order: str) -> Said | Row:
    raw = "\n".join(begun.lines)
    at = _time(begun.begin, order)
    if at is None:
        return unused(file.name, begun.number, "impossible_date", f"there is no such day or hour; dates are read as {order}", raw)
    named = _NAMED.fullmatch("\n".join([begun.begin["rest"], *begun.lines[1:]]))
    if named is None:
        return unused(file.name, begun.number, "system_line", "nobody says it: WhatsApp tells of the chat", raw)
    who = _name(named["name"])
    ours = sides.hear(who)
    said = named["text"]
    if reason := _wordless(said):
        return unused(file.name, begun.number, reason, _WORDLESS[reason], raw)
    return Said(file.name, begun.number, at, ours, _words(said, sides), raw, talk=file.name, who=who)


_WORDLESS = {
    "media_only": "a picture, sound, file or place without a word, or what the phone had not received",
    "deleted": "its writer deleted it",
    "system_line": "WhatsApp tells of a call, a poll or of the chat",
    "empty_message": "holds no text",
}


def _wordless(text: str) -> str | None:
    """Why a message says nothing, if so."""
    bare = _DIRECTIONS.sub("", text).strip()
    if _DELETED.match(bare):
        return "deleted"
    if _PLACE.match(bare) or _UNSEEN.match(bare):
        return "media_only"
    if _POLL.match(bare):
        return "system_line"
    words = _EDITED.sub("", _MEDIA.sub("", bare)).strip()
    # Android writes `null` for what can be seen once.
    if bare and (not words or words == "null"):
        return "media_only"
    # iOS puts this sign before all that it writes itself.
    if text.startswith(_LEFT_TO_RIGHT):
        return "media_only" if re.search(_OMITTED, bare) or _MEDIA.search(bare) else "system_line"
    return None if bare else "empty_message"


def _words(text: str, sides: Sides) -> str:
    called = _MENTION.sub(lambda found: MENTIONS[sides.ours(_name(found["name"] or found["number"]))], text)
    bare = sides.called(called.replace(_LEFT_TO_RIGHT, ""))
    return _EDITED.sub("", _MEDIA.sub("", bare)).strip()


def _name(written: str) -> str:
    # `~` stands before the names of people who are not in the phone's contacts.
    return one_space(_DIRECTIONS.sub("", written).strip().removeprefix("~"))


def _time(begin: re.Match[str], order: str) -> datetime | None:
    hour, second = int(begin["hour"]), int(begin["second"] or 0)
    if begin["half"]:
        hour = hour % 12 + (12 if begin["half"] in "Pp" else 0)
    day = _day(begin, order)
    return day.replace(hour=hour, minute=int(begin["minute"]), second=second) if day and hour < 24 else None


def _day(begin: re.Match[str], order: str) -> datetime | None:
    numbers = [int(begin[name]) for name in ("one", "two", "three")]
    year, month, day = (numbers[place] for place in ORDERS[order])
    try:
        return datetime(year + 2000 if year < 100 else year, month, day)
    except ValueError:
        return None


@dataclass
class _Reading:
    """How well the dates of a chat fit an order: days that do not exist, steps back in time."""

    order: str
    impossible: int = 0
    back: int = 0
    last: datetime | None = None

    def see(self, begin: re.Match[str]) -> None:
        day = _day(begin, self.order)
        if day is None:
            self.impossible += 1
            return
        self.back += self.last is not None and day < self.last
        self.last = day


def _order(file: ChatFile) -> str:
    """The order of day, month and year that the dates of a chat show."""
    readings = [_Reading("dmy"), _Reading("mdy")]
    clear = True
    for begin in _begins(file):
        if len(begin["one"]) == 4:
            return "ymd"
        # Nearly all who write dots write the day first, so without a sign of another order that is theirs.
        clear = clear and (begin["sign"] == "." or int(begin["one"]) == int(begin["two"]))
        for reading in readings:
            reading.see(begin)
    best, other = sorted(readings, key=lambda reading: (reading.impossible, reading.back))
    if not clear and (best.impossible, best.back) == (other.impossible, other.back):
        raise UnclearDates(f"{file.place}: day and month can be either number of each date; write date_order: dmy, or mdy")
    return best.order


def _begins(file: ChatFile) -> Iterator[re.Match[str]]:
    """Where messages begin; raises if none does."""
    first, begun = "", False
    with file.open() as stream:
        for line, _ in lines_of(stream):
            text = _decoded(line) or ""
            first = first or text
            if begin := _BEGIN.match(text):
                begun = True
                yield begin
    if not begun:
        shown = first[:SHOWN_CHARACTERS]
        raise UnreadableSource(f"{file.place}: no line begins as in a chat that WhatsApp exported ({_FORM}); the first is {shown!r}")
