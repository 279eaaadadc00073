from pathlib import Path

import pytest

from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.base_model.memory import GIB, trainable_parameters, training_memory
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline_tests.tiny import tiny_model


# torchtune's README: recomputed activations, a loss that keeps no logits, bfloat16 adapters of rank 8, peak without the CUDA context.
@pytest.mark.parametrize(
    ("model", "technique", "tokens", "published_gib"),
    [
        ("llama-3.2-3b", "lora", 2 * 4096, 8.5),
        ("llama-3.2-3b", "qlora", 2 * 4096, 4.6),
        ("llama-3.1-8b", "lora", 2 * 2048, 16.2),
        ("llama-3.1-8b", "qlora", 2 * 2048, 7.4),
    ],
)
def test_the_prediction_is_near_published_peaks_and_not_below_them(model, technique, tokens, published_gib):
    predicted = training_memory(
        model_named(model).architecture,
        Technique(type=technique, rank=8),
        number_bytes=2,
        tokens=tokens,
        labelled_tokens=0,
        checkpointing=True,
        device="cuda",
    )
    assert published_gib <= (predicted.total - predicted.fixed) / GIB <= 1.12 * published_gib


# Gemma 3 270M, float32, two CPU cores: peak of the program's resident memory over two steps.
@pytest.mark.parametrize(
    ("technique", "tokens", "checkpointing", "measured_gib"),
    [
        ("lora", 98, False, 2.38),
        ("lora", 743, False, 3.12),
        ("lora", 743, True, 2.33),
        ("lora", 1342, False, 4.36),
        ("full", 183, False, 5.61),
    ],
)
def test_the_prediction_is_near_peaks_measured_on_a_cpu(technique, tokens, checkpointing, measured_gib):
    predicted = training_memory(
        model_named("gemma-3-270m").architecture,
        Technique(type=technique),
        number_bytes=4,
        tokens=tokens,
        labelled_tokens=tokens // 3,
        checkpointing=checkpointing,
    )
    assert predicted.total / GIB == pytest.approx(measured_gib, rel=0.12)


def test_full_tuning_keeps_sixteen_bytes_for_every_weight():
    model = model_named("llama-3.2-1b").architecture
    predicted = training_memory(model, Technique(type="full"), number_bytes=2, tokens=1, labelled_tokens=0)
    assert predicted.weights + predicted.trained == 16 * model.parameters


def test_the_logits_of_a_large_vocabulary_are_never_held_all_at_once():
    model = model_named("gemma-3-270m").architecture
    predicted = training_memory(model, Technique(type="lora"), number_bytes=4, tokens=2048, labelled_tokens=2048)
    assert predicted.logits == 2048 * 4096 * 8 < predicted.weights / 10


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_trained_parameters_are_those_that_peft_trains(tmp_path: Path, architecture):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path / "model", architecture=architecture)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    trained, everything = model.get_nb_trainable_parameters()
    read = read_model_folder(folder).architecture
    assert trainable_parameters(read, Technique(type="lora", rank=4)) == trained
    assert trainable_parameters(read, Technique(type="full")) == pytest.approx(everything - trained, rel=0.01)
