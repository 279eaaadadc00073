from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.guide.base_model.candidates import demands, judge
from fine_tune_pipeline.guide.base_model.hardware import inventory_of_named
from fine_tune_pipeline.guide.base_model.side_by_side import Comparison, compare
from fine_tune_pipeline_tests.guide.technique.stand_ins import use_case
from fine_tune_pipeline_tests.tiny import tiny_model

TODAY = date(2026, 11, 27)
GEMMA = ["LicenseRef-Gemma-Terms", "Apache-2.0"]


@pytest.fixture
def compared(tmp_path: Path):
    """Candidates of a use case, side by side on a named device."""

    def compare_all(
        candidates: list[Any],
        *,
        device: str = "L4",
        catalogue: str = "",
        price: float | None = None,
        technique: dict[str, Any] | None = None,
        **more: Any,
    ) -> Comparison:
        (tmp_path / "ours.yaml").write_text(catalogue or "models: []", encoding="utf-8")
        prices = [] if price is None else [{"device": device, "per_hour": price, "currency": "EUR", "as_of": date(2026, 1, 1)}]
        base = {"candidates": candidates, "accept_licences": GEMMA, "catalogue": ["ours.yaml"], **more}
        sections = {"technique": technique} if technique else {}
        spec = use_case(tmp_path, base_model=base, environment={"prices": prices}, **sections)
        inventory = inventory_of_named(device)
        wanted = demands(spec, inventory)
        return compare(spec, judge(spec, wanted), wanted, inventory, today=TODAY)

    return compare_all


def test_a_row_says_what_the_model_is_and_who_stands_behind_it(compared):
    [row] = compared(["qwen3-30b-a3b"]).rows
    assert (row["parameters"], row["active parameters"]) == (30532122624, 3352821760)
    assert row["quality prior"] == "81.38 (MMLU, 5 shots; Qwen3 technical report, arXiv 2505.09388, 2026-11-27)"
    assert (row["maintained by"], row["released"], row["downloads"]) == ("Alibaba Cloud, Qwen team", "2025-04", None)
    assert (row["base or instruct"], row["chat template"], row["gated"]) == ("base", "chatml", False)


def test_a_row_says_memory_time_and_cost_by_technique_and_the_cost_of_answers(compared):
    [row] = compared(["gemma-3-270m"], price=1.0).rows
    for technique in ("lora", "qlora", "full"):
        assert row[f"{technique} GiB"] > 0
        assert row[f"{technique} minutes"] > 0
        assert row[f"{technique} cost"].endswith(" EUR")
    assert row["cost of 1,000 answers"].endswith(" EUR")
    assert row["qlora minutes"] > row["lora minutes"]


def test_a_model_without_the_chosen_layers_has_its_reason_and_no_time(compared):
    [row] = compared(["gemma-3-270m"], technique={"type": "lora", "layers": [20]}).rows
    assert row["verdict"].startswith("technique.layers: got 20")
    assert not [name for name in row if name.startswith("lora ")]


def test_without_prices_costs_stay_empty_and_nothing_warns(compared):
    found = compared(["gemma-3-270m"])
    assert (found.rows[0]["lora cost"], found.rows[0]["cost of 1,000 answers"], found.warnings) == (None, None, [])


def test_old_prices_warn_with_the_model_or_device_that_they_are_of(compared):
    offer = "prices: [{id: gemma-3-270m, input: 0.1, output: 0.2, currency: USD, as_of: 2026-02-01, source: an offer}]"
    found = compared(["gemma-3-270m"], price=1.0, catalogue=offer)
    assert [said.split(" ")[:4] for said in found.warnings] == [["the", "price", "of", "L4"], ["gemma-3-270m:", "its", "price", "is"]]
    assert found.rows[0]["cost of 1,000 answers"] == "0.032 USD"


def test_a_folder_of_ones_own_shows_nothing_of_a_model_of_the_same_name(compared, tmp_path):
    folder = {"type": "local", "id": "llama-3.1-8b", "path": str(tiny_model(tmp_path / "model")), "licence": "Apache-2.0"}
    [row] = compared([folder]).rows
    assert (row["quality prior"], row["maintained by"]) == (None, None)
    assert row["active parameters"] == row["parameters"]


def test_a_model_that_cannot_be_read_still_has_a_row(compared, tmp_path):
    found = compared([{"type": "local", "id": "gone", "path": str(tmp_path / "nowhere"), "licence": "MIT"}, "gemma-3-270m"])
    assert [row["candidate"] for row in found.rows] == ["gone", "gemma-3-270m"]
    assert (found.rows[0]["parameters"], "lora minutes" in found.rows[0]) == (None, False)


def test_the_next_larger_is_of_the_catalogue_and_has_an_accepted_licence_and_fits(compared):
    found = compared(["gemma-3-270m"])
    assert [(one.id, one.kind) for one in found.try_next] == [("qwen2.5-0.5b", "larger"), ("smollm2-135m", "smaller")]
    assert compared(["gemma-3-270m"], accept_licences=["LicenseRef-Gemma-Terms"]).try_next[0].id == "gemma-3-1b"


def test_the_next_larger_may_be_a_model_of_ones_own_catalogue(compared):
    ours = """
models:
  - id: ours
    hub: ours/ours
    parameters: 459276288
    context: 32768
    licence: Apache-2.0
    gated: false
    architecture: {hidden: 1024, layers: 14, heads: 16, kv_heads: 8, head_dim: 128, mlp_width: 4096, vocabulary: 190464, tied: true}
    facts: {source: our card, as_of: 2026-11-01}
"""
    assert compared(["gemma-3-270m"], catalogue=ours).try_next[0].id == "ours"


def test_when_no_candidate_passes_what_would_is_named(compared):
    [first] = compared(["qwen2.5-3b"]).try_next
    assert (first.id, first.kind) == ("smollm2-135m", "passes")


def test_the_metadata_says_on_which_run_costs_are_compared(compared):
    shown = compared(["gemma-3-270m"]).metadata()
    assert shown["compared_on"].startswith("1,000 rows of")
    assert "35% of 121 TFLOP/s" in shown["compared_on"]
    assert shown["try_next"][0]["id"] == "qwen2.5-0.5b"
