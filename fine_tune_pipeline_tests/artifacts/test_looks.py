import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from upath import UPath

from fine_tune_pipeline.artifacts.looks import Look, Looks
from fine_tune_pipeline.artifacts.store import Store

ITEMS = [f"question {number}" for number in range(100)]
OTHERS = [f"fresh question {number}" for number in range(100)]


@pytest.fixture(params=["local", "memory"])
def looks(request: pytest.FixtureRequest, tmp_path: Path) -> Looks:
    return Store.at(str(tmp_path / "store") if request.param == "local" else f"memory://{uuid4().hex}/store").looks


def take(looks: Looks, what: str, items: list[str] = ITEMS) -> int:
    return looks.take(items, at_what={"answers": what}, use_case="triage").number


def test_each_new_look_has_the_next_number_and_the_same_one_keeps_its_own(looks: Looks):
    assert looks.next(ITEMS) == Look(number=1, items=100, seen_before=0)
    assert [take(looks, what) for what in ("a", "b", "a", "c", "b")] == [1, 2, 1, 3, 2]
    assert looks.next(ITEMS) == Look(number=4, items=100, seen_before=100)


def test_the_order_of_the_items_does_not_matter(looks: Looks):
    assert take(looks, "a") == 1
    assert take(looks, "a", ITEMS[::-1]) == 1
    assert take(looks, "b", ITEMS[::-1]) == 2


def test_fresh_items_have_looks_of_their_own(looks: Looks):
    assert [take(looks, what) for what in "abc"] == [1, 2, 3]
    assert take(looks, "d", OTHERS) == 1
    assert take(looks, "d") == 4


@pytest.mark.parametrize(("kept", "number"), [(100, 3), (50, 3), (6, 3), (5, 1), (0, 1)])
def test_leaving_items_out_or_adding_some_does_not_make_a_test_set_fresh(looks: Looks, kept: int, number: int):
    take(looks, "a")
    take(looks, "b")
    mixed = ITEMS[:kept] + OTHERS[kept:]
    assert looks.next(mixed).number == number
    assert looks.next(mixed).seen_before == kept
    assert looks.next([*ITEMS, *OTHERS[:50]]).number == 3


def test_a_use_case_with_the_same_items_counts_too(looks: Looks):
    assert looks.take(ITEMS, at_what=1, use_case="one").number == 1
    assert looks.take(ITEMS, at_what=2, use_case="other").number == 2


def test_runs_at_the_same_time_never_share_a_number(tmp_path: Path):
    looks = Looks(UPath(str(tmp_path / "looks")))
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda what: take(looks, str(what % 20)), range(60)))
    assert sorted(set(numbers)) == list(range(1, 21))
    assert [numbers[place] for place in range(20)] == numbers[20:40] == numbers[40:]
    assert sorted(path.name for path in (tmp_path / "looks").iterdir()) == [f"{number:05d}" for number in range(1, 21)]


EVENTS = ("open", "os.mkdir", "os.rename", "os.listdir", "os.scandir")


def _killed_at(looks: Looks, moment: int) -> bool:
    """Take a look in a child that dies before its file operation of that number; whether it got that far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def die(event: str, _arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in EVENTS:
                seen += 1
                if seen == moment:
                    os._exit(9)

        sys.addaudithook(die)
        take(looks, "second")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_kill_between_any_two_file_operations_neither_loses_a_look_nor_counts_it_twice(tmp_path: Path):
    moments = 0
    for moment in range(1, 60):
        looks = Looks(UPath(str(tmp_path / str(moment))))
        assert take(looks, "first") == 1
        if not _killed_at(looks, moment):
            break
        moments += 1
        assert take(looks, "second") == 2
        assert take(looks, "first") == 1
        assert take(looks, "third") == 3
    assert 4 <= moments < 59


def test_the_record_says_who_looked_and_when_and_nothing_of_the_items(tmp_path: Path):
    looks = Looks(UPath(str(tmp_path)))
    take(looks, "a", ["my secret"])
    text = (tmp_path / "00001" / "look.json").read_text(encoding="utf-8")
    assert "secret" not in text
    assert set(json.loads(text)) == {"look", "use_case", "at", "items"}
