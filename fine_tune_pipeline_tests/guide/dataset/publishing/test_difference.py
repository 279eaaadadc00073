"""Two versions of a dataset side by side, by rows whose fate is known; in the web UI and on the command line."""

import json
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Example, write_examples
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.guide.dataset.publishing.difference import Difference, compared, difference, markdown, read_version
from fine_tune_pipeline.places import places
from fine_tune_pipeline_tests.guide.dataset.make import example, jsonl
from fine_tune_pipeline_tests.guide.dataset.test_assets import House

PARTS = ("train", "validation", "test")


def version(store: Store, **parts: list[Example]) -> Artifact:
    """A version of a dataset with these rows."""
    rows = {part: parts.get(part, []) for part in PARTS}
    content = content_of(asset="dataset", version=len(store.history("fruit", "dataset")), what={}, upstream={})
    with store.draft("fruit", content) as draft:
        classes: dict[str, dict[str, int]] = {}
        for part, examples in rows.items():
            write_examples(draft.folder / f"{part}.jsonl", examples)
            for row in examples:
                counts = classes.setdefault(row.completion, dict.fromkeys(PARTS, 0))
                counts[part] += 1
        (draft.folder / "card.json").write_text(json.dumps({"classes": classes}), encoding="utf-8")
        return draft.finish(Built())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(str(tmp_path / "store"))


def changes(store: Store, before: dict[str, list[Example]], after: dict[str, list[Example]]) -> Difference:
    return difference(read_version(version(store, **before)), read_version(version(store, **after)))


def test_each_row_has_the_fate_that_it_had(store):
    before = {"train": [example("stays", "a"), example("goes", "b"), example("edited", "c")], "test": [example("moves", "d")]}
    after = {
        "train": [example("stays", "a"), example("edited", "c!", "pear"), example("moves", "d")],
        "validation": [example("comes", "e")],
    }
    found = changes(store, before, after)
    assert found.added == {"train": [], "validation": ["comes"], "test": []}
    assert found.removed == {"train": ["goes"], "validation": [], "test": []}
    assert found.changed == {"edited": ["prompt", "completion"]}
    assert found.moved == {"moves": ("test", "train")}
    assert found.renamed == {}


def test_equal_versions_do_not_differ(store):
    rows = {"train": [example("1", "a"), example("2", "b")], "test": [example("3", "c")]}
    found = changes(store, rows, rows)
    numbers = {name: value for name, value in found.numbers().items() if name != "compared_with"}
    assert set(numbers.values()) == {0}
    assert "No row is in another part than before" in markdown(found)


def test_the_same_content_under_another_id_is_renamed_once_and_can_move(store):
    found = changes(store, {"train": [example("old", "a"), example("twin", "a")]}, {"test": [example("new", "a")]})
    assert found.renamed == {"old": "new"}
    assert found.removed["train"] == ["twin"]
    assert found.moved == {"new": ("train", "test")}


def test_what_stands_beside_a_row_does_not_make_it_another_one(store):
    before, after = example("1", "a"), example("1", "a", metadata={"review": "accept"}, licence="own", provenance={"row": "3"})
    assert changes(store, {"train": [before]}, {"train": [after]}).changed == {}
    for change in ({"history": [{"role": "user", "content": "x"}]}, {"tools": [{"name": "t"}]}, {"role": "tool"}):
        assert changes(store, {"train": [before]}, {"train": [example("1", "a", **change)]}).changed == {"1": ["conversation"]}


def test_the_shift_is_the_share_of_rows_that_would_have_to_change_their_class(store):
    apples, pears = [example(f"a{n}", f"a{n}") for n in range(10)], [example(f"p{n}", f"p{n}", "pear") for n in range(10)]
    found = changes(store, {"train": apples[:5] + pears[:5]}, {"train": apples[:9] + pears[:3]})
    assert found.class_shift == pytest.approx(0.25)
    assert [(row["class"], row["before"], row["after"]) for row in found.classes] == [("apple", 5, 9), ("pear", 5, 3)]
    assert "| apple | 5 | 9 | 50.0% | 75.0% |" in markdown(found)


def test_a_version_is_compared_with_the_one_made_before_it_and_the_first_with_nothing(store):
    first = version(store, train=[example("1", "a")])
    second = version(store, train=[example("1", "a"), example("2", "b")])
    assert compared(store, first).metadata == {
        "compared_with": "nothing", "rows_added": 1, "rows_removed": 0, "rows_changed": 0, "rows_moved": 0, "class_shift": 0.0,
    }  # fmt: skip
    assert compared(store, second).metadata["compared_with"] == first.fingerprint
    assert compared(store, second).metadata["rows_added"] == 1


def test_a_damaged_old_version_does_not_stop_a_new_one(store):
    first = version(store, train=[example("1", "a")])
    (first.folder / "train.jsonl").unlink()
    built = compared(store, version(store, train=[example("1", "a")]))
    assert "Cannot be compared" in built.markdown["difference"]


def test_each_new_build_shows_it_and_the_fingerprint_does_not_know(tmp_path):
    house = House(tmp_path)
    house.run()
    first = house.artifact("dataset").fingerprint
    assert house.shown("dataset")["compared_with"] == "nothing"
    rows = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    jsonl(tmp_path / "rows.jsonl", [*rows, json.dumps({"prompt": "quince and medlar in a basket of straw", "completion": "pear"})])
    house.run()
    assert (house.shown("dataset")["compared_with"], house.shown("dataset")["rows_added"]) == (first, 1)
    assert house.shown("dataset")["rows_moved"] == 0, "rows keep their side when data grows"
    assert first in house.shown("dataset")["difference"]
    house.run()
    assert house.shown("dataset")["reused"]
    assert "rows_added" not in house.shown("dataset")


@pytest.fixture
def at_home(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path))
    monkeypatch.delenv("FINE_TUNE_PIPELINE_STORE", raising=False)
    return Store.at(places().store)


def test_the_command_compares_the_version_in_use_with_the_one_before(at_home, capsys):
    version(at_home, train=[example("1", "a")])
    version(at_home, train=[example("1", "b"), example("2", "c")])
    assert main(["diff", "fruit"]) == 0
    assert "Changed: 1 (prompt)" in capsys.readouterr().out
    assert main(["diff", "fruit", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows_changed"], said["added"]["train"]) == (1, ["2"])


def test_the_command_takes_beginnings_of_fingerprints_and_fails_when_rows_moved(at_home, capsys):
    first = version(at_home, train=[example("1", "a")])
    second = version(at_home, test=[example("1", "a")])
    assert main(["diff", "fruit", first.fingerprint[:8], second.fingerprint]) == 1
    assert "1 (train → test)" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "said"), [([], "Materialize dataset first"), (["abc"], "Materialize dataset first")])
def test_the_command_says_when_there_is_nothing(at_home, capsys, arguments, said):
    assert main(["diff", "fruit", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_command_names_the_versions_that_there_are(at_home, capsys):
    first = version(at_home, train=[example("1", "a")])
    assert main(["diff", "fruit"]) == 2
    assert "nothing was made before" in capsys.readouterr().err
    assert main(["diff", "fruit", "zz"]) == 2
    assert f"no version begins with 'zz'; there are {first.fingerprint}" in capsys.readouterr().err
    version(at_home, train=[example("1", "a")])
    assert main(["diff", "fruit", ""]) == 2
    assert "several versions begin" in capsys.readouterr().err
