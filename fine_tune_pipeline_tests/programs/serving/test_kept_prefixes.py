"""What prompts begin with is read once, stays from batch to batch, and changes no answer."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from fine_tune_pipeline.programs.decoding import common_tokens
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.kept_prefixes import KeptPrefixes
from fine_tune_pipeline.programs.serving.served_models import ServedModels
from fine_tune_pipeline_tests.programs.test_predict import restless_model
from fine_tune_pipeline_tests.served import tiny_adapter

INSTRUCTION = [*range(20, 60)]
OTHER = [*range(60, 100)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("prefixes")
    # Sliding windows of 16 tokens, shorter than what is shared.
    restless_model(found / "base", architecture="gemma3")
    tiny_adapter(found / "adapter", found / "base", seed=1)
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    found = load_model(folder / "base")
    assert isinstance(found, PreTrainedModel)
    return found


def lengths(kept: KeptPrefixes, model: PreTrainedModel, *batches: list[list[int]], name: str = "v1") -> list[int]:
    """Tokens that need not be read, for one batch after the other."""
    found = [kept.fitting(model, name, batch) for batch in batches]
    return [0 if prefix is None else len(prefix.ids) for prefix in found]


def test_what_two_batches_begin_with_is_kept_for_those_after(model: PreTrainedModel):
    one, two, three = ([*INSTRUCTION, token, 7] for token in (1, 2, 3))
    assert lengths(KeptPrefixes(), model, [one], [two], [three], [one, two], [[5, 6, 7]], [two]) == [0, 40, 40, 40, 0, 40]


def test_another_instruction_takes_its_place_when_it_comes_twice(model: PreTrainedModel):
    one, two = ([*INSTRUCTION, token, 7] for token in (1, 2))
    other, another = ([*OTHER, token, 7] for token in (1, 2))
    assert lengths(KeptPrefixes(), model, [one], [two], [other], [another], [one], [other]) == [0, 40, 0, 40, 0, 40]


def test_the_same_prompt_many_times_in_a_batch_is_read_once(model: PreTrainedModel):
    long = [*INSTRUCTION, *OTHER, *INSTRUCTION]
    assert lengths(KeptPrefixes(), model, [long] * 4) == [len(long) - 1]


def test_few_shared_tokens_are_not_worth_it_and_versions_do_not_share(model: PreTrainedModel):
    kept = KeptPrefixes()
    assert lengths(kept, model, [[1, 2, 3, 4]], [[1, 2, 3, 5]], [[1, 2, 3, 4], [1, 2, 3, 5]]) == [0, 0, 0]
    one, two = ([*INSTRUCTION, token, 7] for token in (1, 2))
    assert lengths(kept, model, [one], [two]) == [0, 40]
    assert lengths(kept, model, [one], name="v2") == [0]
    kept.forget("v1")
    assert lengths(kept, model, [one]) == [0]


def test_answers_with_a_kept_prefix_are_those_without(folder: Path):
    served = ServedModels(folder / "base", base_name="base", format=PromptFormat(), dtype="float32", device="cpu")
    served.load("v1", folder / "adapter")
    prompts = [[*INSTRUCTION, *range(first, first + count)] for first, count in [(100, 3), (130, 9), (200, 1), (150, 5)]]
    for name in ("base", "v1", "base", "v1"):
        for prompt in prompts:
            [found] = served.generate(name, [prompt], 6)
            fresh = ServedModels(folder / "base", base_name="base", format=PromptFormat(), dtype="float32", device="cpu")
            if name == "v1":
                fresh.load("v1", folder / "adapter")
            [alone] = fresh.generate(name, [prompt], 6)
            assert (found.text, found.logprob) == (alone.text, pytest.approx(alone.logprob, abs=1e-4))
    assert common_tokens(prompts) == len(INSTRUCTION)
    assert torch.is_tensor(served._prefixes._kept["v1"].layers[0][0])
