"""Classes that a use case of the tests names in its YAML."""

from presidio_analyzer import Pattern, PatternRecognizer


class Badges(PatternRecognizer):
    def __init__(self, digits=4):
        super().__init__(supported_entity="BADGE", patterns=[Pattern("badge", rf"\bB-\d{{{digits}}}\b", 0.7)])


class NoRecognizer:
    pass
