"""Which rows a data recipe keeps, by the marks of step 3."""

from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Example, write_examples
from fine_tune_pipeline.guide.dataset.more.made_rows import SYNTHETIC
from fine_tune_pipeline.guide.dataset.steps import marked
from fine_tune_pipeline.guide.technique.recipes import ALL, EmptyRecipe, Recipe, kept, left_out, recipes, told_apart
from fine_tune_pipeline.spec.search import DataSpace

PLAIN = [Example(id=f"row-{number}", prompt=f"question {number}", completion="card") for number in range(12)]
MADE = [Example(id=f"made-{number}", prompt=f"qestion {number}", completion="card", metadata={SYNTHETIC: "typos"}) for number in range(8)]
DOUBTED = marked(Example(id="doubted", prompt="what", completion="card"), "label_disagrees: label is card, like rows say cash")
CONFIRMED = marked(Example(id="confirmed", prompt="where", completion="card", metadata={"review": "accept"}), "label_disagrees: no")
ROWS = [*PLAIN, *MADE, DOUBTED, CONFIRMED]


def ids(recipe: Recipe) -> list[str]:
    return [row.id for row in kept(ROWS, recipe)]


def test_all_rows_are_kept_in_their_order_by_the_recipe_of_all():
    assert ids(ALL) == [row.id for row in ROWS]
    assert str(ALL) == "all rows"


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_share_of_the_made_rows_is_kept_and_every_other_row(share: float, count: int):
    found = ids(Recipe(share_of_augmentation=share))
    assert sum(id.startswith("made") for id in found) == count
    assert [id for id in found if not id.startswith("made")] == [row.id for row in ROWS if SYNTHETIC not in row.metadata]


def test_marked_rows_go_unless_people_have_confirmed_them():
    assert set(ids(ALL)) - set(ids(Recipe(drop_suspects=True))) == {"doubted"}


def test_a_smaller_share_is_part_of_a_larger_one_whatever_the_order_of_the_rows():
    half, most = set(ids(Recipe(rows_share=0.5))), set(ids(Recipe(rows_share=0.75)))
    assert (len(half), len(most)) == (11, 16)
    assert half < most
    assert {row.id for row in kept(ROWS[::-1], Recipe(rows_share=0.5))} == half
    assert len(kept(ROWS[:3], Recipe(rows_share=0.01))) == 1


def test_values_that_keep_the_same_rows_are_one():
    space = DataSpace(share_of_augmentation=[0.0, 0.5], drop_suspects=[True, False], rows_share=[0.5])
    assert told_apart(ROWS, space) == {"share_of_augmentation": [1.0, 0.5, 0.0], "drop_suspects": [False, True], "rows_share": [1.0, 0.5]}
    assert told_apart(PLAIN, space) == {"share_of_augmentation": [1.0], "drop_suspects": [False], "rows_share": [1.0, 0.5]}


def test_every_combination_has_its_rows_and_one_without_any_is_refused():
    found = recipes(ROWS, told_apart(ROWS, DataSpace(share_of_augmentation=[0.0], drop_suspects=[True])))
    assert {str(recipe): len(rows) for recipe, rows in found.items()} == {
        "all rows": 22,
        "no row that is marked as worth a look": 21,
        "0% of the made rows": 14,
        "0% of the made rows; no row that is marked as worth a look": 13,
    }
    only = [*MADE, DOUBTED]
    with pytest.raises(EmptyRecipe, match="0% of the made rows; no row that is marked as worth a look keeps none of 9 training rows"):
        recipes(only, told_apart(only, DataSpace(share_of_augmentation=[0.0], drop_suspects=[True])))


def test_ids_that_a_recipe_leaves_out_are_read_from_the_file(tmp_path: Path):
    write_examples(tmp_path / "train.jsonl", ROWS)
    assert left_out(tmp_path / "train.jsonl", None) == ()
    assert set(left_out(tmp_path / "train.jsonl", Recipe(rows_share=0.5))) == {row.id for row in ROWS} - set(ids(Recipe(rows_share=0.5)))
