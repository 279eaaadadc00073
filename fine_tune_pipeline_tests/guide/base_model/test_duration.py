import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.base_model.duration import Tokens, forward_operations, kilowatt_hours, training_operations, training_seconds
from fine_tune_pipeline.guide.base_model.hardware import inventory_of_named, speed
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline_tests.tiny import tiny_model


def work(tokens: int, labelled: int) -> Tokens:
    return Tokens(all=tokens, labelled=labelled, per_row=tokens)


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


@pytest.mark.parametrize("untrained", [True, False])
def test_operations_without_gradients_are_those_that_torch_counts(tmp_path, untrained):
    folder = tiny_model(tmp_path / "model", architecture="llama")
    architecture = read_model_folder(folder).architecture
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    if not untrained:
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(64)[None])
    predicted = forward_operations(architecture, Technique(type="lora", rank=8), work(64, 64), untrained=untrained)
    assert predicted == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_recomputing_costs_another_forward_pass_of_the_layers(tmp_path):
    architecture = read_model_folder(tiny_model(tmp_path / "model")).architecture
    technique = Technique(type="lora")
    once = training_operations(architecture, technique, work(100, 10))
    again = training_operations(architecture, technique, work(100, 10), checkpointing=True)
    assert again - once == 2 * architecture.body_parameters * 100


def test_seconds_grow_with_epochs_and_shrink_with_cores(tmp_path):
    architecture = read_model_folder(tiny_model(tmp_path / "model")).architecture

    def seconds(epochs: float, cores: int, technique: str = "lora") -> float:
        at = speed(inventory_of_named("CPU").model_copy(update={"cpu_cores": cores}))
        return training_seconds(architecture, Technique(type=technique), work(100, 10), epochs=epochs, at=at, checkpointing=False)

    assert seconds(2, 2) == pytest.approx(2 * seconds(1, 2))
    assert seconds(2, 4) == pytest.approx(seconds(1, 2))
    assert seconds(1, 2, "qlora") > seconds(1, 2)


def test_energy_is_known_only_where_the_power_is():
    assert kilowatt_hours(3600, at=speed(inventory_of_named("CPU"))) is None
    assert kilowatt_hours(3600, at=speed(inventory_of_named("H100"))) == pytest.approx(0.7)


def test_layers_below_those_that_learn_have_no_backward_pass(tmp_path):
    architecture = read_model_folder(tiny_model(tmp_path / "model")).architecture
    whole, upper = (
        training_operations(architecture, Technique(type="lora", rank=1, layers=layers), work(100, 10)) for layers in (None, (1,))
    )
    attention = 4 * architecture.query_width * 100 * work(100, 10).per_row
    adapters = 3 * architecture.lora_parameters(1) * 100
    assert whole - upper == pytest.approx(architecture.body_parameters * 100 + 2 * attention + adapters)


def test_experts_cost_what_a_token_passes_through():
    architecture = model_named("mixtral-8x7b").architecture
    lora, experts = (training_operations(architecture, Technique(type="lora", expert_rank=rank), work(100, 10)) for rank in (0, 8))
    assert experts - lora == pytest.approx(6 * 100 * architecture.expert_lora_parameters(8) / 4)
