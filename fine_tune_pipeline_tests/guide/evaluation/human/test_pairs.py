import json
from collections import Counter
from dataclasses import asdict, replace

from fine_tune_pipeline.guide.evaluation.human.pairs import HandOut, hand_out
from fine_tune_pipeline_tests.guide.evaluation.world import examples

ROWS = examples(60)
BASE = [f"base says {row.id}" for row in ROWS]
OWN = [f"own says {row.id}" if place >= 10 else BASE[place] + " " for place, row in enumerate(ROWS)]


def made(*, count: int = 20, seed: int = 0) -> HandOut:
    return hand_out(ROWS, other=BASE, fine_tuned=OWN, other_name="base_few_shot", count=count, repeated=0.2, seed=seed)


def test_pairs_are_drawn_from_rows_whose_answers_differ():
    found = made(count=1000)
    assert found.identical == 10
    assert len({secret.example for secret in found.key.values()}) == 50


def test_key_names_the_system_behind_each_side():
    found = made()
    for pair in found.pairs:
        secret = found.key[pair.id]
        texts = {"base_few_shot": f"base says {secret.example}", "fine_tuned": f"own says {secret.example}"}
        assert (texts[secret.A], texts[secret.B]) == (pair.A, pair.B)
        assert {secret.A, secret.B} == set(texts)


def test_each_system_is_a_in_half_of_the_pairs():
    found = made()
    first = Counter(secret.A for secret in found.key.values() if secret.repeats is None)
    assert first == {"fine_tuned": 10, "base_few_shot": 10}


def test_a_fifth_is_shown_again_with_sides_swapped():
    found = made()
    again = {name: secret for name, secret in found.key.items() if secret.repeats}
    assert len(found.pairs) == 24
    assert len(again) == 4
    for secret in again.values():
        original = found.key[secret.repeats or ""]
        assert (secret.example, secret.A, secret.B) == (original.example, original.B, original.A)


def test_nothing_that_people_see_names_a_system_or_tells_a_repeat():
    found = made()
    seen = json.dumps([asdict(pair) for pair in found.pairs])
    assert "fine_tuned" not in seen
    assert "base_few_shot" not in seen
    assert [pair.id for pair in found.pairs] == [f"p{number:03d}" for number in range(1, 25)]
    assert {frozenset(asdict(pair)) for pair in found.pairs} == {frozenset(("id", "prompt", "A", "B"))}


def test_same_seed_same_pairs_other_seed_other_pairs():
    assert made() == made()
    assert made() != made(seed=1)


def test_equal_systems_give_nothing_to_compare():
    found = hand_out(ROWS, other=BASE, fine_tuned=BASE, other_name="base_few_shot", count=5, repeated=0.2, seed=0)
    assert (list(found.pairs), found.identical) == ([], 60)


def test_the_key_names_what_a_row_shares_its_fate_with():
    rows = [replace(row, metadata={"customer": f"c{place // 2}"}) for place, row in enumerate(ROWS)]
    found = hand_out(rows, other=BASE, fine_tuned=OWN, other_name="base_few_shot", count=3, repeated=0.0, seed=0, cluster_by="customer")
    customers = {row.id: row.metadata["customer"] for row in rows}
    assert {secret.cluster for secret in found.key.values()} == {customers[secret.example] for secret in found.key.values()}
