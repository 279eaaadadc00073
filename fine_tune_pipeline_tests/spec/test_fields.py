"""Values of a use case by their dotted names."""

from pathlib import Path
from typing import Any

import pytest

import fine_tune_pipeline
from fine_tune_pipeline.spec.fields import fields_at, has_field, value_at
from fine_tune_pipeline.spec.reading import read_use_case

SPEC = read_use_case(Path(fine_tune_pipeline.__file__).parent / "defs" / "support_triage" / "defs.yaml", files=False)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("training.epochs", 2),
        ("training.learning_rate", "auto"),
        ("objective.task.schema", "answer.schema.json"),
        ("technique", {"type": "auto"}),
        ("technique.rank", None),
        ("dataset.sources.0.name", "messages"),
        ("dataset.sources.7.name", None),
        ("dataset.more.balance", None),
        ("base_model.candidates", ["gemma-3-270m"]),
        ("name.of", None),
    ],
)
def test_a_value_is_what_the_use_case_says_with_its_defaults(path: str, wanted: Any):
    assert value_at(SPEC, path) == wanted


@pytest.mark.parametrize(
    ("path", "there"),
    [("training.epochs", True), ("technique.rank", True), ("dataset.more.balance", True), ("training.epoch", False), ("no.such", False)],
)
def test_a_field_is_known_in_any_form_that_its_section_may_take(path: str, there: bool):
    assert has_field(path) is there


def test_fields_come_in_the_order_of_the_sections():
    assert fields_at(SPEC, ())[:4] == ["name", "owners", "objective", "base_model"]
    assert fields_at(SPEC, ("dataset", "sources")) == []
