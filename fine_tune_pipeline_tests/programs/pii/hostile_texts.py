"""Texts that are made to trip a search for personal data: valid and broken numbers, joined without gaps, in many scripts and lengths."""

import random
import string
from collections.abc import Callable, Iterator

_WORDS: list[str] = str.split(
    "my card was charged twice please call me back on the phone number below account bank transfer iban ssn social security "
    "passport driver license licence email date birthday url website link ip address wallet bitcoin mac uuid medical "
    "certificate tax itin checking saved dating mobile cells numbers Date: Phone: acct# of the and a is at to in not be was "
    ":-) business tin us lic public"
)
_NAMES = [
    "Julia Fischer",
    "Barack Obama",
    "Sir John O'Neil",
    "Müller & Söhne GmbH",
    "Nguyễn Văn A",
    "Иван Петров",
    "李雷",
    "Bank of America",
    "New York",
    "Ltd.",
]
_OTHER = ["é", "ſ", "K", "İ", "ı", "٣٤٥", "１２３", "’", "—", "\u200b", "\u00a0", "\u0301", "🙂", "ß", "\x01", "_", "\x0c", "\r\n", "\t"]
_JOINTS = [
    " ",
    " ",
    " ",
    "",
    "",
    "  ",
    "-",
    ".",
    ",",
    "/",
    ":",
    "\n",
    "(",
    ")",
    "#",
    "x",
    "+",
    "=",
    "@",
    "'",
    '"',
    "[",
    "]",
    " x",
    " ext. ",
    ";ext=",
]


def hostile_texts(count: int, *, seed: int) -> Iterator[str]:
    """So many texts, the same for the same seed."""
    draw = random.Random(seed)
    for _ in range(count):
        pieces = draw.choice([1, 2, 3, 4, 6, 8, 8, 12, 30 if draw.random() < 0.1 else 5])
        text = ""
        for _ in range(pieces):
            text += draw.choice(_PIECES)(draw) + (" " if draw.random() < 0.6 else draw.choice(_JOINTS))
        yield _broken(text, draw) if draw.random() < 0.3 else text


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice(string.digits) for _ in range(count))


def _grouped(draw: random.Random, digits: str) -> str:
    """Digits in groups, with one sign or several between them."""
    joint = draw.choice(["", " ", "-", ".", "/", " - ", "  ", "\u2013", ") ", " ("])
    parts = []
    while digits:
        size = draw.randrange(1, 6)
        parts.append(digits[:size])
        digits = digits[size:]
    return joint.join(parts)


def _card(draw: random.Random) -> str:
    body = draw.choice(["4", "49", "51", "34", "37", "6011", "1", "30"])
    body += _digits(draw, draw.choice([14, 15, 15, 15, 18]) - len(body))
    if draw.random() < 0.7:
        total = sum(int(d) if place % 2 else sum(divmod(2 * int(d), 10)) for place, d in enumerate(reversed(body)))
        body += str(-total % 10)
    joint = draw.choice(["", " ", "-", "."])
    return joint.join(body[start : start + 4] for start in range(0, len(body), 4))


def _iban(draw: random.Random) -> str:
    country, length = draw.choice([("DE", 18), ("GB", 18), ("FR", 23), ("NO", 11), ("BR", 25), ("XX", 16)])
    account = "WEST" + _digits(draw, length - 4) if country == "GB" else _digits(draw, length)
    check = 98 - int("".join(str(int(sign, 36)) for sign in account + country + "00")) % 97
    number = f"{country}{check if draw.random() < 0.7 else 11:02}{account}"
    number = draw.choice([str, str, str.lower])(number)
    joint = draw.choice(["", " ", "-"])
    return joint.join(number[start : start + 4] for start in range(0, len(number), 4))


def _phone(draw: random.Random) -> str:
    number = draw.choice(
        [
            "(312) 555-0147",
            "312-867-5309",
            "+1 312 867 5309",
            "1-800-356-9377",
            "020 7946 0958",
            "+44 7700 900518",
            "(0)20 7946 0958",
            "0171 1234567",
            "+49 (0)30 901820",
            "030/901820",
            "49 30 901820",
            "0049 30 901820",
            "01 42 68 53 00",
            "+33 1 42 68 53 00",
            "03-5256123",
            "+972 3-525-6123",
            "098765 43210",
            "+91 98765 43210",
            "(11) 91234-5678",
            "+55 11 91234-5678",
            "011 44 20 7946 0958",
            "0800 1111",
            "110",
            "911",
            "11880",
            "+290 22158",
            "312.867.5309 ext. 12",
            "312 867 5309x123#",
            "3128675309 / 3128675310",
            "1111",
            "0151 2345",
        ]
    )
    if draw.random() < 0.3:
        place = draw.randrange(len(number))
        number = number[:place] + draw.choice(string.digits + " -()") + number[place + draw.randrange(2) :]
    return number


_PIECES: list[Callable[[random.Random], str]] = [
    lambda draw: " ".join(draw.choice(_WORDS) for _ in range(draw.randrange(1, 8))),
    lambda draw: " ".join(draw.choice(_WORDS) for _ in range(draw.randrange(1, 8))),
    lambda draw: draw.choice(_NAMES),
    lambda draw: draw.choice(_OTHER),
    _card,
    _iban,
    _phone,
    _phone,
    lambda draw: _grouped(draw, _digits(draw, draw.randrange(1, 22))),
    lambda draw: _digits(draw, draw.choice([2, 3, 4, 4, 6, 8, 9, 10, 11, 13, 17, 21, 40])),
    lambda draw: draw.choice(["{}-{}-{}", "{}{}{}", "{} {} {}", "{}.{}.{}"]).format(_digits(draw, 3), _digits(draw, 2), _digits(draw, 4)),
    lambda draw: f"9{_digits(draw, 2)}-{draw.choice(['70', '50', '93', '12'])}-{_digits(draw, 4)}",
    lambda draw: draw.choice(["943 476 5919", "4010232137", "401-023-2137", "9434765918"]),
    lambda draw: f"{draw.choice(_WORDS)}@{draw.choice(['example.com', 'bank.co.uk', 'é.fr', 'x.invalid', 'a-b.de', 'post'])}",
    lambda draw: (
        draw.choice(["http://", "https://", "www.", "'http://", '"'])
        + draw.choice(["a.com", "bank.co.uk/x?y=1", "x.museum", "a.b.c", "file.py"])
    ),
    lambda draw: ".".join(str(draw.randrange(0, 300)) for _ in range(draw.choice([3, 4, 4, 5]))) + draw.choice(["", "/24", "/33", ":80"]),
    lambda draw: draw.choice(["2001:db8::8a2e:370:7334", "::1", "::", "fe80::1%eth0", "::ffff:192.168.1.1", "1:2:3:4:5:6:7:8", "10:30:00"]),
    lambda draw: draw.choice(["{}/{}/{}", "{}-{}-{}", "{}.{}.{}"]).format(
        draw.randrange(0, 34), draw.randrange(0, 14), draw.choice([19, 99, 2024, 1900])
    ),
    lambda draw: draw.choice(
        ["2024-05-06T10:00:00Z", "2024-13-01", "05-MAY-2024", "MAY-24", "12/24", "3/2024", "2024/1/2", "2012-01-02 08:00"]
    ),
    lambda draw: draw.choice(
        ["1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb"]
    ),
    lambda draw: draw.choice(["00:1A:2B:3C:4D:5E", "00-1A-2B-3C-4D-5E", "001A.2B3C.4D5E", "ff:ff:ff:ff:ff:ff", "00:1A-2B:3C:4D:5E"]),
    lambda draw: draw.choice(
        ["123e4567-e89b-12d3-a456-426614174000", "00000000-0000-0000-0000-000000000000", "123e4567-e89b-92d3-a456-42661417400g"]
    ),
    lambda draw: draw.choice(["BB1388568", "BB1388569", "A1234567", "AB12345", "H12345678", "12ABC12345", "X1234567", "K1234567"]),
    lambda draw: f"${draw.randrange(1, 9999):,}.{_digits(draw, 2)}",
]


def _broken(text: str, draw: random.Random) -> str:
    """The text with a sign exchanged, taken away, doubled or put in."""
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(text) + 1)
        sign = draw.choice([*_JOINTS, *_OTHER, *string.digits, ""])
        text = text[:place] + sign + text[place + draw.randrange(2) :]
    return text
