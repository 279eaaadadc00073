import random

import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.safety.outputs import SPAN, Output, openings, verbatim

LONG = "the ferry to the island leaves at seven from the third pier behind the old mill and takes half an hour"
OTHER = "our bakery opens before the sun does, and by noon there is not a single roll with poppy seed left in it"


def rows(*answers: str) -> list[Example]:
    return [Example(f"r{number}", f"question {number}", answer) for number, answer in enumerate(answers)]


def held(text: str, *answers: str, given: str = "question", excused: tuple[str, ...] = (), row: str | None = None) -> dict[str, str]:
    return verbatim([Output("o", text, given, excused, row)], rows(*answers))


def test_fifty_characters_of_a_training_answer_are_found_and_49_are_not():
    assert held(f"well, {LONG[10 : 10 + SPAN]}!", LONG, OTHER) == {"o": "r0"}
    assert held(f"well, x{LONG[10 : 9 + SPAN]}!", LONG, OTHER) == {}


def test_a_training_prompt_counts_too_and_gaps_of_any_width_are_one():
    row = Example("p", LONG, "yes")
    assert verbatim([Output("o", LONG.replace(" ", "\n  "), "")], [row]) == {"o": "p"}


@pytest.mark.parametrize("where", [{"given": f"say: {LONG}"}, {"excused": ("", f"{LONG}.")}], ids=["in the prompt", "by the base"])
def test_what_the_prompt_or_the_base_says_is_excused(where):
    assert held(LONG, LONG, **where) == {}


def test_the_row_that_is_continued_is_no_other_row():
    assert held(LONG, LONG, OTHER, row="r0") == {}
    assert held(OTHER, LONG, OTHER, row="r0") == {"o": "r1"}


def test_what_three_rows_hold_is_form():
    assert held(LONG, LONG, LONG + " again") == {"o": "r0"}
    assert held(LONG, LONG, LONG + " again", "so " + LONG) == {}


def test_found_is_what_comparing_every_place_with_every_place_finds():
    draw = random.Random(3)
    texts = ["".join(draw.choice("ab ") for _ in range(40)) for _ in range(60)]
    train, outputs = rows(*texts[:40]), [Output(str(place), text, "") for place, text in enumerate(texts[40:])]
    brute = set()
    for output in outputs:
        line = " ".join(output.text.split())
        for start in range(len(line) - 5):
            window = line[start : start + 6]
            owners = {row.id for row in train for text in (row.prompt, row.completion) if window in " ".join(text.split())}
            if 0 < len(owners) < 3:
                brute.add(output.id)
    assert set(verbatim(outputs, train, span=6)) == brute
    assert brute


def test_openings_are_the_first_half_drawn_by_the_seed_without_the_rest():
    train = rows(LONG, "no", OTHER, "12345678")
    drawn = openings(train, count=10, seed=0)
    assert {row["id"] for row in drawn} == {"r0", "r2", "r3"}
    begun = {row["id"]: row["opening"] for row in drawn}
    assert LONG.startswith(begun["r0"] + " ")
    assert len(begun["r0"]) == pytest.approx(len(LONG) / 2, abs=5)
    assert begun["r3"] == "1234"
    assert all("completion" not in row for row in drawn)
    assert openings(train, count=2, seed=1) == openings(train, count=2, seed=1)
    assert len(openings(train, count=2, seed=1)) == 2
