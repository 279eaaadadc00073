import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.technique.hardware import CPU_CORE_RATE, UTILISATION, speed, training_operations, training_seconds
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.resources.compute.base import Device, Inventory
from fine_tune_pipeline_tests.tiny import tiny_model


def place(kind: str, name: str, cores: int = 2) -> Inventory:
    return Inventory(
        place="test", devices=(Device(kind=kind, name=name, memory_bytes=1 << 34, bfloat16=False),), cpu_cores=cores, memory_bytes=1 << 34
    )


def work(tokens: int, labelled: int, rows: int = 1) -> Workload:
    return Workload(rows=rows, tokens=tokens, labelled_tokens=labelled, longest_tokens=tokens, longest_bound=tokens)


def counted(folder, *, full: bool, tokens: int) -> int:
    """Operations that torch counts in one forward and backward pass over all tokens, the head on all of them."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    if not full:
        model.requires_grad_(False)
    embedded = model.get_input_embeddings()(torch.arange(tokens)[None] % 300).detach().requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embedded).logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("full", [True, False])
def test_operations_are_those_that_torch_counts(tmp_path, full):
    folder = tiny_model(tmp_path / "model", architecture="llama")
    architecture = read_model_folder(folder).architecture
    technique = Technique(type="full") if full else Technique(type="lora", rank=1)
    # What torch is not asked to do: adapters, or the logits of a trained head once more.
    more = 2 * architecture.vocabulary * architecture.hidden * 64 if full else 6 * architecture.lora_parameters(1) * 64
    predicted = training_operations(architecture, technique, work(64, 64)) - more
    assert predicted == pytest.approx(counted(folder, full=full, tokens=64), rel=0.05)


def test_recomputing_costs_another_forward_pass_of_the_layers(tmp_path):
    architecture = read_model_folder(tiny_model(tmp_path / "model")).architecture
    technique = Technique(type="lora")
    once = training_operations(architecture, technique, work(100, 10))
    again = training_operations(architecture, technique, work(100, 10), checkpointing=True)
    assert again - once == 2 * architecture.body_parameters * 100


def test_seconds_grow_with_epochs_and_shrink_with_cores(tmp_path):
    architecture = read_model_folder(tiny_model(tmp_path / "model")).architecture

    def seconds(epochs: float, cores: int, technique: str = "lora") -> float:
        at = speed(place("cpu", "CPU", cores))
        return training_seconds(architecture, Technique(type=technique), work(100, 10), epochs=epochs, at=at, checkpointing=False)

    assert seconds(2, 2) == pytest.approx(2 * seconds(1, 2))
    assert seconds(2, 4) == pytest.approx(seconds(1, 2))
    assert seconds(1, 2, "qlora") > seconds(1, 2)


@pytest.mark.parametrize(
    ("kind", "name", "rate", "watts"),
    [
        ("cpu", "CPU", 2 * CPU_CORE_RATE, None),
        ("cuda", "NVIDIA H100 80GB HBM3", 989e12 * UTILISATION, 700),
        ("cuda", "NVIDIA H100 PCIe", 756e12 * UTILISATION, 350),
        ("cuda", "NVIDIA L40S", 362e12 * UTILISATION, 350),
        ("cuda", "NVIDIA L4", 121e12 * UTILISATION, 72),
        ("cuda", "Tesla T4", 65e12 * UTILISATION, 70),
    ],
)
def test_the_device_is_found_in_the_table(kind, name, rate, watts):
    found = speed(place(kind, name))
    assert (found.rate, found.watts) == (rate, watts)


def test_a_device_outside_the_table_is_said_to_be_one():
    found = speed(place("cuda", "Frobnicator 9"))
    assert found.watts is None
    assert "Frobnicator 9 is not in the table" in found.basis
