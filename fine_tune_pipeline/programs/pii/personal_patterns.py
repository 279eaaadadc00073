"""Patterns of personal data beside Presidio's own: what it misses in short messages. Data first; no model, no network."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import regex

from fine_tune_pipeline.programs.pii.personal_data import Origin, Span, lowered, plausible


@dataclass(frozen=True)
class Pattern:
    """One way to write one kind of personal data; `valid` checks the sum of its digits, if it has one. `why` says what Presidio misses.

    Nothing matches in a text with fewer than so many `digits`, without any of the `words`, which are in small letters, or without `sign`.
    """

    entity: str
    expression: regex.Pattern[str]
    score: float
    why: str
    valid: Callable[[str], bool] | None = None
    digits: int = 0
    words: tuple[str, ...] = ()
    sign: regex.Pattern[str] | None = None

    def may_match(self, text: str, *, lower: str, digits: int) -> bool:
        """Whether a text may match.

        Args:
            lower: the text as `personal_data.lowered` gives it.
        """
        if digits < self.digits or (self.words and not any(word in lower for word in self.words)):
            return False
        return self.sign is None or self.sign.search(text) is not None


def find(text: str, entities: Collection[str]) -> list[Span]:
    """Spans of these entities that the patterns find; they may overlap."""
    spans, lower, digits = [], lowered(text), len(_DIGIT.findall(text))
    for pattern in PATTERNS:
        if pattern.entity not in entities or not pattern.may_match(text, lower=lower, digits=digits):
            continue
        for match in pattern.expression.finditer(text):
            if pattern.valid is not None and not pattern.valid(match.group()):
                continue
            origin: Origin = "pattern" if pattern.valid is None else "checksum"
            spans.append(plausible(Span(match.start(), match.end(), pattern.entity, pattern.score, origin), text))
    return [span for span in spans if span is not None]


def luhn(number: str) -> bool:
    """Whether the digits of a card number add up (ISO/IEC 7812), and are not all the same."""
    digits = [int(sign) for sign in number if sign.isdigit()]
    total = sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return total % 10 == 0 and len(set(digits)) > 1


def iban_sum(number: str) -> bool:
    """Whether an IBAN's remainder by 97 is 1 (ISO 13616), gaps and case aside."""
    bare = "".join(sign for sign in number.upper() if sign.isalnum())
    return int("".join(str(int(sign, 36)) for sign in bare[4:] + bare[:4])) % 97 == 1


_DIGIT = regex.compile(r"\d")

# ISO 13616: characters of an IBAN by country. The length ends the match, where words follow without a mark.
_IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST",
    26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU",
    31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
_IBAN = "|".join(rf"(?:{'|'.join(countries.split())})\d\d(?:[ \-]?[A-Z0-9]){{{length - 4}}}" for length, countries in _IBAN_LENGTHS.items())

_NO_NAME = (
    r"(?!I['’]|(?:After|All|Although|An|And|Any|As|At|Because|Before|But|By|Can|Could|Did|Do|Does|During|Every|For|From|Have|How|If|In|Is|"
    r"It|Its|Just|Last|My|Near|Next|No|Not|Now|On|Or|Our|Over|Since|So|Some|Still|That|The|Their|Then|There|This|To|Today|Tomorrow|Under|"
    r"Until|Was|We|What|When|Where|Which|While|Who|Why|Will|With|Yes|Yesterday|You|Your)\b)"
)
"""English function words that begin sentences with a capital, and are nobody's first name."""
_WORD = rf"{_NO_NAME}\p{{Lu}}[\p{{L}}'’]*\p{{Ll}}(?:-\p{{L}}[\p{{L}}'’]*)*"
_FULL_NAME = rf"{_WORD}(?:[ ](?:\p{{Lu}}\.[ ]|(?:de|del|der|van|von|bin|al|la|le)[ ])*{_WORD}){{1,3}}"
_NAME = rf"{_WORD}(?:[ ]{_WORD}){{0,3}}"
_CLOSING = r"(?:regards|wishes|best|thanks|thank[ ]you|sincerely|faithfully|truly|yours|cheers|love)"
_UNIT = r"(?:(?:flat|apt\.?|apartment|unit|suite|room)[ ]\w{1,5},?[ ]+)"
_STREET = (
    r"(?:street|st|road|rd|lane|ln|avenue|ave|close|drive|dr|court|ct|place|pl|square|sq|terrace|mews|row|way|walk|crescent|cres|"
    r"gardens?|grove|hill|park|rise|yard|gate|green|view|quay|parade|boulevard|blvd|highway)"
)
_NUMBER = rf"(?i:{_UNIT})?\b\d{{1,5}}[a-zA-Z]?,?[ ]"
_NO_STREET = r"(?!(?:miles?|minutes?|metres?|more|other|of)\b)"
_CAPITALS = r"\p{Lu}[\p{L}'’\-]+"
_TOWN = rf"(?:,[ ]*{_CAPITALS}(?:[ ]{_CAPITALS}){{0,2}})"
# The last two letters of a British postcode are never C I K M O V, so `b4 5pm` is none; `b4 2nd` looks like one, but for its small letters.
_POSTCODE = r"\b(?i:[a-z]{1,2}\d[a-z\d]?[ ]?)(?!\d(?:st|nd|rd|th)\b)(?i:\d[abd-hjlnp-uw-z]{2})\b"
_ZIP = r"\b\p{Lu}{2}[ ]\d{5}(?:-\d{4})?\b"
_PHONE_WORD = r"(?i:\b(?:phone|telephone|tel|mobile|cell|landline|whatsapp|ring|call|text)\b[^\d\n]{0,20})"

_SECRET_WORD = (
    r"(?i:\b(?:password|passwd|pwd|passcode|passphrase|secret|credentials?|token|api[_\- ]?key|access[_\- ]?key|secret[_\- ]?key|"
    r"client[_\- ]?secret|auth[_\- ]?token))"
)
_SECRET = r"(?=\S*\d)(?=\S*\p{L})[^\s\"',;<>]{6,}(?<![.!?])"


def _made(expression: str) -> regex.Pattern[str]:
    return regex.compile(expression)


PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        "CREDIT_CARD", _made(r"(?<!\d)\d(?:[ .\-]?\d){12,18}(?!\d)"), 1.0,
        "cards of other lengths and first digits than Presidio lists: recall .91 -> .98 on 800 texts of presidio-research", luhn,
        digits=13,
    ),
    Pattern(
        "IBAN_CODE", _made(rf"(?i)(?<![A-Z0-9])(?:{_IBAN})(?![A-Z0-9])"), 1.0, "lower case", iban_sum,
        digits=2, sign=_made(r"\d(?<=[A-Za-z\u017f\u212a\u0130]{2}\d)\d"),
    ),
    Pattern(
        "EMAIL_ADDRESS", _made(r"[\p{L}\p{N}._%+\-]+@[\p{L}\p{N}\-]+(?:\.[\p{L}\p{N}\-]+)*\.[\p{L}\-]{2,}"), 0.9,
        "domains that are not on the list of public suffixes", words=("@",),
    ),
    Pattern(
        "PHONE_NUMBER", _made(r"\+[ ]?\d(?:[ .()\-/]{0,2}\d){6,14}"), 0.8, "international numbers that are not (yet) assigned",
        digits=7, words=("+",),
    ),
    Pattern(
        "PHONE_NUMBER", _made(rf"(?<={_PHONE_WORD})\(?\d(?:[ .()\-]{{0,2}}\d){{6,14}}"), 0.6,
        "national numbers of other countries than Presidio's eight, next to a word that says so", digits=7,
    ),
    Pattern("PERSON", _made(rf"(?<=(?i:\b(?:name is|name:|signed,?|surname is)[ ]))(?:{_NAME})"), 0.7, "names after a word that says so"),
    Pattern(
        "PERSON", _made(rf"(?<=(?i:\b(?:this is|i am|i['’]m|it['’]?s|we are|on behalf of)[ ]))(?:{_FULL_NAME})"), 0.6,
        "full names in an introduction",
    ),
    Pattern("PERSON", _made(rf"\b{_FULL_NAME}(?=[ ]here\b)"), 0.6, "the other form of an introduction", words=("here",)),
    Pattern("PERSON", _made(rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Rev)\b\.?[ ]{_NAME}"), 0.7, "names after a title"),
    Pattern(
        "PERSON", _made(rf"(?<=(?i:\b{_CLOSING})[,.!]?\s+)(?:{_NAME})(?=\s*(?:[,.]|$|\n))"), 0.6, "names under a letter",
    ),
    Pattern(
        "PERSON", _made(rf"(?<=[.!?]\s+|\n)(?:{_FULL_NAME})(?=\.?\s*$|,[^\n]{{0,80}}$)"), 0.5,
        "names that stand alone at the end of a message",
    ),
    Pattern("LOCATION", _made(_POSTCODE), 0.6, "postcodes", digits=2),
    Pattern(
        "LOCATION", _made(rf"{_NUMBER}(?:{_CAPITALS}[ ,]+){{1,7}}(?:{_POSTCODE}|{_ZIP})"), 0.8,
        "addresses that end with a postcode, whatever the street is called", digits=3,
    ),
    Pattern(
        "LOCATION", _made(rf"{_NUMBER}(?:{_CAPITALS}[ ]){{1,3}}(?i:{_STREET})\b(?:,?[ ](?i:{_UNIT}))?{_TOWN}{{0,2}}"),
        0.7, "street and number", digits=1,
    ),
    Pattern(
        "LOCATION", _made(rf"\b\d{{1,4}}[a-z]?[ ]{_NO_STREET}(?:[a-z]{{3,}}[ ]){{1,2}}(?:street|road|lane|avenue|crescent|terrace)\b"),
        0.5, "street and number in lower case; only endings that are nothing else", digits=1,
    ),
    *(
        Pattern("SECRET", _made(rf"(?<![A-Za-z0-9_\-]){expression}"), 0.9, what)
        for what, expression in (
            ("access keys of AWS", r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"),
            ("tokens of GitHub", r"(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})"),
            ("tokens of GitLab", r"glpat-[A-Za-z0-9_\-]{20,}"),
            ("tokens of Slack", r"xox[abeoprs]-[A-Za-z0-9\-]{10,}"),
            ("keys of Stripe", r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}"),
            ("keys of OpenAI, Anthropic and others that write them so", r"sk-(?=[A-Za-z0-9_\-]*\d)[A-Za-z0-9_\-]{20,}"),
            ("keys of Google", r"AIza[0-9A-Za-z_\-]{35}"),
            ("tokens of Hugging Face", r"hf_[A-Za-z0-9]{30,}"),
            ("signed web tokens (RFC 7519)", r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}"),
        )
    ),
    Pattern(
        "SECRET", _made(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----(?s:.*?)(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----|\Z)"), 1.0,
        "private keys (RFC 7468), also cut off",
    ),
    Pattern("SECRET", _made(r"(?<=[a-z]://[^\s:/@]{1,64}:)[^\s@/]{3,}(?=@[\w\-])"), 0.95, "passwords in URLs", words=("://",)),
    Pattern(
        "SECRET", _made(rf"(?<={_SECRET_WORD}[\"']?[ ]{{0,2}}(?:[:=]|[ ]is:?)[ ]{{0,2}}[\"']?){_SECRET}"), 0.6,
        "passwords and keys after a word that says so; they hold letters and digits, unlike `my password is wrong`",
        digits=1, words=("pass", "pwd", "secret", "credential", "token", "key"),
    ),
)  # fmt: skip
