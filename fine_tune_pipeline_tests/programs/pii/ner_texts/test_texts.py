"""Texts made of templates: every name stands where it is said to stand, and nothing of what is held back is learnt from."""

import random
import re

import pytest

from fine_tune_pipeline.programs.pii.ner_texts.texts import LABELS, NAMELESS, Named, fill, made, templates
from fine_tune_pipeline.programs.pii.ner_texts.values import Values, tables


class Told(Values):
    """Draws the values that it is told, and remembers nothing else."""

    def __init__(self, **values):
        self.values = values

    def of(self, slot):
        return self.values[slot]


@pytest.mark.parametrize(
    ("template", "text", "names"),
    [
        ("Hi {first} in {city}", "Hi Ann in Rome", [(3, 6, "PERSON"), (10, 14, "GPE")]),
        ("{last}, {first}: {money}", "Doe, Ann: £5", [(0, 8, "PERSON")]),
        ("{initials} {last} {city}", "A. Doe Rome", [(0, 6, "PERSON"), (7, 11, "GPE")]),
        ("{first} {first}⏎{org}", "Ann Ann\nAcme", [(0, 3, "PERSON"), (4, 7, "PERSON"), (8, 12, "ORG")]),
        ("{money} {product}", "£5 Lamp", []),
    ],
)
def test_a_template_says_where_its_values_stand_and_a_name_in_parts_is_one(template, text, names):
    filled = fill(template, Told(first="Ann", last="Doe", initials="A.", city="Rome", org="Acme", money="£5", product="Lamp"))
    assert filled.text == text
    assert list(filled.names) == [Named(*name) for name in names]


@pytest.mark.parametrize("side", ["train", "held_back"])
def test_every_name_of_a_made_text_is_a_value_that_was_drawn(side, monkeypatch):
    drawn = set()
    of = Values.of

    def remembered(self, slot):
        value = of(self, slot)
        if slot in LABELS:
            drawn.add(value.casefold())
        return value

    monkeypatch.setattr(Values, "of", remembered)
    every = made(side, 300, seed=1)
    for text in every:
        starts = [0, *(name.end for name in text.names)]
        assert all(name.start >= start for name, start in zip(text.names, starts, strict=False))
        for name in text.names:
            value = text.text[name.start : name.end].casefold()
            parts = [part for part in drawn if part in value]
            assert value in drawn or len("".join(parts)) >= len(value.replace(", ", "").replace(" ", "")), value
    assert sum(len(text.names) for text in every) > 150


def test_no_template_and_no_name_is_on_both_sides():
    here, there = ({template.text for template in templates(side)} for side in ("train", "held_back"))
    assert not here & there
    assert len(there) > 40
    genres = {template.genre for template in templates("train")}
    assert genres == {template.genre for template in templates("held_back")}


@pytest.mark.parametrize("locale", ["en_GB", "de_DE", "pl_PL"])
def test_no_name_of_fakers_tables_is_on_both_sides(locale):
    here, there = (tables(locale, held=held) for held in (False, True))
    for kind in ("first", "last", "cities", "companies"):
        assert not set(getattr(here, kind)) & set(getattr(there, kind))
        assert getattr(there, kind)


def test_what_is_learnt_names_somebody_and_nobody():
    share = sum(not text.names for text in made("train", 500, seed=0)) / 500
    assert 0.2 < share < 0.6


def test_nameless_genres_have_no_slot_that_names_somebody():
    slots = {slot for template in templates("train") if template.genre in NAMELESS for slot in re.findall(r"\{(\w+)\}", template.text)}
    assert not slots & LABELS.keys()


def test_the_same_seed_gives_the_same_texts_and_another_gives_others():
    assert made("train", 50, seed=3) == made("train", 50, seed=3)
    assert made("train", 50, seed=3) != made("train", 50, seed=4)


@pytest.mark.parametrize("side", ["train", "held_back"])
def test_every_slot_of_every_template_has_values(side):
    values = Values(random.Random(0), held=False)
    assert [template.text for template in templates(side) if re.search(r"\{\w+\}", fill(template.text, values).text)] == []


def test_of_metrics_and_products_nothing_is_said():
    filled = fill("{metric} of {city}", Told(metric="ROE", city="Rome"))
    assert filled.open == ((0, 3),)
    assert filled.names == (Named(7, 11, "GPE"),)


def test_capitals_and_small_letters_keep_every_place():
    for text in made("train", 400, seed=2):
        assert all(name.end <= len(text.text) for name in text.names)
        assert all(text.text[name.start : name.end].strip() for name in text.names)
