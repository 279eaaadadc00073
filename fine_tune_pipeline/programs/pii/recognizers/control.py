"""What a use case says about detection: thresholds, values that always or never go, countries, further detectors, rules to skip."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import phonenumbers
import presidio_analyzer.predefined_recognizers
import regex
from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerRegistry
from presidio_analyzer.predefined_recognizers import PhoneRecognizer

from fine_tune_pipeline.programs.pii.personal_data import Span, unedged
from fine_tune_pipeline.programs.pii.recognizers.detectors import explicit_entities, recognizers
from fine_tune_pipeline.spec.dataset import PiiSpec

_LANGUAGE = "en"
_PRESIDIO_CODES = {"GB": "uk"}
"""Where Presidio's code of a country is not the one of ISO 3166."""


class UnknownCountry(ValueError):
    """No telephone numbers are known for a country."""


@dataclass(frozen=True)
class Control:
    """Applied to findings. `denied`: pattern -> entity; `allowed` in small letters; `skip` names groups of rules."""

    score: float = 0.4
    thresholds: Mapping[str, float] = field(default_factory=dict)
    denied: tuple[tuple[regex.Pattern[str], str], ...] = ()
    allowed: frozenset[str] = frozenset()
    skip: frozenset[str] = frozenset()

    @classmethod
    def of(cls, pii: PiiSpec) -> "Control":
        return cls(
            score=pii.score,
            thresholds=pii.thresholds,
            denied=tuple((_any_of(values), entity) for entity, values in pii.deny.items() if values),
            allowed=frozenset(value.casefold() for value in pii.allow),
            skip=frozenset(pii.skip),
        )

    @property
    def lowest(self) -> float:
        """The score below which no entity is wanted."""
        return min((self.score, *self.thresholds.values()))

    def kept(self, spans: Iterable[Span], text: str) -> list[Span]:
        """Findings that are sure enough for their kind, and none of the values that never go."""
        sure = [span for span in spans if span.score >= self.thresholds.get(span.entity, self.score)]
        return self.without_allowed(sure, text)

    def without_allowed(self, spans: Iterable[Span], text: str) -> list[Span]:
        """Findings that are none of the values that never go."""
        return [span for span in spans if unedged(text[span.start : span.end]).casefold() not in self.allowed]

    def always(self, text: str) -> list[Span]:
        """Every place of a value that always goes; nothing outweighs it."""
        return [
            Span(match.start(), match.end(), entity, 1.0, "checksum") for pattern, entity in self.denied for match in pattern.finditer(text)
        ]


def controlled(engine: AnalyzerEngine, pii: PiiSpec) -> AnalyzerEngine:
    """An engine with the countries and further detectors of a use case; the same engine where it names none.

    Raises:
        UnknownCountry: names the country.
        MissingDetector, DetectorFailed: of a further detector.
    """
    if not pii.countries and not pii.detectors:
        return engine
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=[_LANGUAGE], nlp_engine=engine.nlp_engine)
    if pii.countries:
        phones = [one for one in registry.recognizers if isinstance(one, PhoneRecognizer)]
        registry.recognizers = [one for one in registry.recognizers if one not in phones]
        registry.add_recognizer(PhoneRecognizer(supported_language=_LANGUAGE, supported_regions=_regions(pii)))
    there = {type(one) for one in registry.recognizers}
    for recognizer in [one for one in national(pii) if type(one) not in there] + recognizers(pii):
        registry.add_recognizer(recognizer)
    return AnalyzerEngine(registry=registry, nlp_engine=engine.nlp_engine, supported_languages=[_LANGUAGE])


def wanted(pii: PiiSpec) -> tuple[str, ...]:
    """Every entity that is to be found: those of the use case, of its countries, and those that a further detector is asked for."""
    of_countries = {entity for one in national(pii) for entity in one.supported_entities}
    return tuple(sorted({*pii.entities, *of_countries, *explicit_entities(pii)}))


def national(pii: PiiSpec) -> list[EntityRecognizer]:
    """Presidio's recognisers of the identifiers of these countries, such as tax numbers; they look at texts of any language."""
    codes = {_PRESIDIO_CODES.get(country, country.lower()) for country in pii.countries}
    known = vars(presidio_analyzer.predefined_recognizers).values()
    classes = {one for one in known if isinstance(one, type) and getattr(one, "COUNTRY_CODE", None) in codes}
    return [one(supported_language=_LANGUAGE) for one in sorted(classes, key=lambda one: one.__name__)]


def _regions(pii: PiiSpec) -> tuple[str, ...]:
    unknown = [country for country in pii.countries if country not in phonenumbers.SUPPORTED_REGIONS]
    if unknown:
        raise UnknownCountry(f"dataset.pii.countries: got {', '.join(unknown)}, want codes of ISO 3166 such as GB, DE or IN")
    return tuple(pii.countries)


def _any_of(values: Iterable[str]) -> regex.Pattern[str]:
    either = "|".join(regex.escape(value) for value in sorted(values, key=len, reverse=True))
    return regex.compile(rf"(?i)(?<![\p{{L}}\p{{N}}])(?:{either})(?![\p{{L}}\p{{N}}])")
