"""Values for the slots of templates: names, places and firms of many countries out of Faker's tables, and shapes of our own writing.

Everything is drawn by one seeded generator, so that the same seed gives the same texts, whatever else the process drew.
"""

import hashlib
import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

_DRAWN = 220
"""Values of each kind that are taken from Faker per locale."""

HELD_BACK = 5
"""One value in so many is for held-back texts only: a model that knows names by heart would look better than it is."""


@dataclass(frozen=True)
class Tables:
    """What one country gives."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    cities: tuple[str, ...]
    streets: tuple[str, ...]
    companies: tuple[str, ...]
    postcodes: tuple[str, ...]


def held_back(value: str) -> bool:
    """Whether a value is kept for held-back texts; by a hash, so that it stays there."""
    return hashlib.sha256(value.encode()).digest()[0] % HELD_BACK == 0


@cache
def tables(locale: str, *, held: bool) -> Tables:
    """Faker's values of one locale: those for training, or those that are held back."""
    from faker import Faker

    fake = Faker(locale)
    # Of the locale alone: which values there are does not depend on the user's seed.
    fake.seed_instance(int.from_bytes(hashlib.sha256(locale.encode()).digest()[:4]))

    def some(make: Callable[[], str], count: int = _DRAWN) -> tuple[str, ...]:
        made = dict.fromkeys(" ".join(make().split()) for _ in range(count))
        return tuple(value for value in made if held_back(value) == held) or tuple(made)

    street = fake.street_name if hasattr(fake, "street_name") else fake.city
    return Tables(
        first=some(fake.first_name),
        last=some(fake.last_name),
        cities=some(fake.city),
        streets=some(street),
        companies=some(fake.company, 60),
        postcodes=some(fake.postcode, 60),
    )


@cache
def words() -> Mapping[str, tuple[str, ...]]:
    """Our own lists."""
    read = yaml.safe_load(files(__package__).joinpath("words.yaml").read_text(encoding="utf-8"))
    return {name: tuple(" ".join(word.split()) for word in text.split(",")) for name, text in read.items()}


class Values:
    """Draws values; `held` takes only those that are held back."""

    def __init__(self, draw: random.Random, *, held: bool) -> None:
        self._draw = draw
        self._held = held
        self._locale = "en_US"
        self.move()

    def move(self) -> None:
        """Go to another country: people and places of one text are mostly of one."""
        self._locale = self.word("english_locales" if self.chance(0.5) else "other_locales")

    def of(self, slot: str) -> str:
        """A value for a slot."""
        make = _MAKERS.get(slot)
        assert make is not None, f"no slot {slot}"
        return make(self)

    def chance(self, share: float) -> bool:
        return self._draw.random() < share

    def number(self, low: int, high: int) -> int:
        return self._draw.randint(low, high)

    def choice(self, values: Sequence[str]) -> str:
        return self._draw.choice(values)

    def word(self, table: str) -> str:
        return self._draw.choice(words()[table])

    def digits(self, pattern: str) -> str:
        """The pattern with a digit for each `#`, a capital for each `?`."""
        signs = {"#": string.digits, "?": string.ascii_uppercase}
        return "".join(self._draw.choice(signs[sign]) if sign in signs else sign for sign in pattern)

    @property
    def local(self) -> Tables:
        """The tables of the country, now and then of another."""
        locale = self.word("other_locales") if self.chance(0.1) else self._locale
        return tables(locale, held=self._held)


def _first(values: Values) -> str:
    return values.choice(values.local.first)


def _last(values: Values) -> str:
    return values.choice(values.local.last)


def _person(values: Values) -> str:
    first, last, shape = _first(values), _last(values), values.number(0, 99)
    if shape < 72:
        return f"{first} {last}"
    if shape < 80:
        return f"{first} {values.digits('?')}. {last}"
    if shape < 84:
        return f"{first} {_first(values)} {last}"
    if shape < 88:
        return f"{first} {last}-{_last(values)}"
    if shape < 92:
        return f"{_initials(values)} {last}"
    return first if shape < 96 else f"{first} {values.digits('?')} {last}"


def _initials(values: Values) -> str:
    return values.digits("?. ?.") if values.chance(0.5) else values.digits("?.")


def _city(values: Values) -> str:
    return values.word("towns") if values.chance(0.35) else values.choice(values.local.cities)


def _country(values: Values) -> str:
    return values.word("countries")


def _org(values: Values) -> str:
    shape = values.number(0, 99)
    if shape < 18:
        return values.choice(values.local.companies)
    if shape < 40:
        return f"{_company_word(values)} {values.word('company_ends')}"
    if shape < 50:
        return f"{_last(values)} {values.word('company_ends')}"
    if shape < 60:
        return f"{_last(values)} {values.choice(('&', 'and'))} {_last(values)}" + (
            f" {values.word('company_ends')}" if values.chance(0.4) else ""
        )
    if shape < 70:
        return _made_up(values)
    if shape < 76:
        return f"{_made_up(values)} {values.word('company_ends')}"
    if shape < 80:
        return _acronym(values)
    if shape < 84:
        return _company_word(values)
    if shape < 94:
        return values.word("public_bodies").format(place=_city(values), country=_country(values))
    return f"{_city(values)} {values.word('company_ends')}"


def _company_word(values: Values) -> str:
    first = values.word("company_words")
    if values.chance(0.35):
        return first + values.word("company_second")
    if values.chance(0.3):
        return f"{first} {values.word('company_words')}"
    return first + values.choice(("Pay", "Net", "Tech", "Hub", "Works")) if values.chance(0.1) else first


def _made_up(values: Values) -> str:
    made = values.word("made_up_beginnings") + values.word("made_up_endings")
    return made.upper() if values.chance(0.08) else made.capitalize()


def _acronym(values: Values) -> str:
    return values.digits(values.choice(("??", "???", "???", "????")))


def _street(values: Values) -> str:
    """House number and street, in the order of some country."""
    name, number = _streetname(values), _house_number(values)
    line = f"{name} {number}" if values.chance(0.3) else f"{number} {name}"
    if values.chance(0.12):
        flat = values.word("flats").format(n=values.number(1, 400))
        return f"{flat}, {line}" if values.chance(0.4) else f"{line} {flat}"
    return line


def _streetname(values: Values) -> str:
    if values.chance(0.45):
        return values.choice(values.local.streets)
    named = _last(values) if values.chance(0.5) else values.word("company_words")
    return f"{named} {values.word('street_ends')}"


def _house_number(values: Values) -> str:
    number = str(values.number(1, 300) if values.chance(0.8) else values.number(300, 9999))
    return number + values.choice("abcB") if values.chance(0.08) else number


def _postcode(values: Values) -> str:
    return values.choice(values.local.postcodes)


def _address(values: Values) -> str:
    city = f"{_postcode(values)} {_city(values)}" if values.chance(0.4) else f"{_city(values)} {_postcode(values)}"
    parts = [_street(values), _city(values) if values.chance(0.2) else city]
    return ", ".join([*parts, _country(values)] if values.chance(0.2) else parts)


def _address_lines(values: Values) -> str:
    parts = [_street(values), _city(values), *([values.word("regions")] if values.chance(0.25) else []), _postcode(values)]
    return values.choice(("\n", "\n", "\n  ", ", ")).join(parts)


def _facility(values: Values) -> str:
    named = _city(values) if values.chance(0.6) else _last(values)
    return f"{named} {values.word('facility_ends')}"


def _university(values: Values) -> str:
    return (
        f"University of {_city(values)}"
        if values.chance(0.5)
        else f"{_city(values)} {values.choice(('University', 'College', 'Institute of Technology'))}"
    )


def _team(values: Values) -> str:
    return _city(values) if values.chance(0.2) else f"{_city(values)} {values.word('team_ends')}"


def _band(values: Values) -> str:
    name = f"{values.word('band_words')} {values.word('band_ends')}"
    return f"The {name.split()[1] if values.chance(0.4) else name}" if values.chance(0.6) else name


def _noun_phrase(values: Values) -> str:
    words = [values.word("adjectives"), *(values.word("nouns") for _ in range(values.number(1, 3)))]
    return " ".join(words[values.number(0, 1) :])


@cache
def _english_words() -> tuple[str, ...]:
    from faker.providers.lorem.en_US import Provider

    # Its list also holds a few names.
    return tuple(word for word in Provider.word_list if word.islower())


def _english(values: Values) -> str:
    """Common English words without sense: so that the model does not learn that every other text holds a name."""
    return " ".join(values.choice(_english_words()) for _ in range(values.number(3, 11)))


def _date(values: Values) -> str:
    day, month, year = values.number(1, 28), values.number(1, 12), values.number(1940, 2027)
    name = values.word("months")
    return values.choice(
        (
            *(f"{day} {name} {year}", f"{name} {day}, {year}", f"{name} {day}", f"the {day}th of {name}", values.word("weekdays")),
            *(f"{day}/{month:02}/{year}", f"{year}-{month:02}-{day:02}", f"{day}.{month}.{year}", f"{month:02}/{day:02}/{year % 100:02}"),
        )
    )


def _time(values: Values) -> str:
    minutes = f"{values.number(0, 59):02}"
    return f"{values.number(0, 23)}:{minutes}" if values.chance(0.5) else f"{values.number(1, 12)}:{minutes} {values.choice(('am', 'pm'))}"


def _money(values: Values) -> str:
    amount = f"{values.number(1, 2500)}.{values.number(0, 99):02}" if values.chance(0.6) else str(values.number(1, 9000))
    return values.choice((f"£{amount}", f"${amount}", f"€{amount}", f"{amount} EUR", f"{amount} dollars"))


def _email(values: Values) -> str:
    plain = "".join(sign for sign in _first(values).lower() if sign in string.ascii_lowercase) or "mail"
    return f"{plain}.{values.digits('##')}@{values.word('made_up_beginnings')}{values.word('made_up_endings')}.example"


def _handle(values: Values) -> str:
    return (
        _first(values) + values.choice(("_x", "99", "Fan", "_" + values.word("company_words"), "xo", ""))
        if values.chance(0.6)
        else (values.word("band_words") + values.word("band_ends"))
    )


_MAKERS: dict[str, Callable[[Values], str]] = {
    "acronym": _acronym,
    "address": _address,
    "address_lines": _address_lines,
    "band": _band,
    "city": _city,
    "city_caps": lambda values: _city(values).upper(),
    "country": _country,
    "country_caps": lambda values: _country(values).removeprefix("the ").upper(),
    "date": _date,
    "email": _email,
    "english": _english,
    "English": lambda values: _english(values).capitalize(),
    "facility": _facility,
    "first": _first,
    "handle": _handle,
    "hashtag": lambda values: values.word("hashtags"),
    "hospital": lambda values: f"{_city(values)} {values.word('hospital_ends')}",
    "initials": _initials,
    "job": lambda values: values.word("jobs"),
    "last": _last,
    "metric": lambda values: values.word("metrics"),
    "money": _money,
    "month": lambda values: values.word("months"),
    "nationality": lambda values: values.word("nationalities"),
    "nationality_short": lambda values: values.word("nations"),
    "noun": lambda values: values.word("nouns"),
    "np": _noun_phrase,
    "number": lambda values: values.digits("####"),
    "org": _org,
    "org_caps": lambda values: _org(values).upper(),
    "paper": lambda values: f"{_city(values)} {values.word('paper_ends')}",
    "person": _person,
    "person_caps": lambda values: _person(values).upper(),
    "phone": lambda values: values.digits(values.choice(("+44 20 #### ####", "(###) 555-####", "0## #######", "+49 ### #######"))),
    "postcode": _postcode,
    "product": lambda values: values.word("products"),
    "ref": lambda values: values.digits(values.choice(("??-#####", "#######", "???###", "REF ######"))),
    "region": lambda values: values.word("regions"),
    "school": lambda values: f"{_city(values)} {values.word('school_ends')}",
    "street": _street,
    "street_caps": lambda values: _street(values).upper(),
    "streetname": _streetname,
    "team": _team,
    "Title": lambda values: _english(values).title(),
    "time": _time,
    "university": _university,
    "url": lambda values: f"http://{values.word('made_up_beginnings')}.example/{values.digits('?##?')}",
    "weekday": lambda values: values.word("weekdays"),
    "year": lambda values: str(values.number(1850, 2026)),
}  # fmt: skip
