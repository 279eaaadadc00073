import numpy as np
import pytest

from fine_tune_pipeline_tests.bench.test_speed import module_of


def test_a_bar_is_met_on_the_right_side_of_its_bound(monkeypatch: pytest.MonkeyPatch):
    bench = module_of("drift_power", monkeypatch)
    rows = [
        {"task": "out_of_scope", "false_alarms": 0.05, "power": {"0.1": 0.95, "0.2": 1.0}},
        {"task": "unseen_intents", "false_alarms": 0.055, "power": {"0.1": 0.99, "0.2": 0.94}},
    ]
    assert [(bar["bar"].split(":")[0], bar["met"]) for bar in bench.bars(rows)] == [
        ("out_of_scope", True),
        ("unseen_intents", False),
        ("out_of_scope", True),
        ("unseen_intents", False),
    ]


def test_no_text_is_in_two_parts_of_a_round(monkeypatch: pytest.MonkeyPatch):
    bench = module_of("drift_power", monkeypatch)
    draw = np.random.default_rng(0)
    known = [(f"text {number}", f"intent {number % 5}") for number in range(760)]
    vectors = {text: vector / np.linalg.norm(vector) for (text, _), vector in zip(known, draw.normal(0, 1, (760, 8)), strict=True)}
    drawn = bench.cut(bench.Task("x", known, [], train=100, held_back=60), vectors, seed=1)
    texts = [text for window in drawn.windows for text, _ in window]
    reference = drawn.compared(drawn.windows[0]).reference
    used = {vector.tobytes() for vector in (*reference.train, *reference.held_back.vectors)}
    assert (len(drawn.windows), len(texts), len(set(texts))) == (3, 600, 600)
    assert not any(vectors[text].tobytes() in used for text in texts)
