"""What the tests of the endpoint serve: adapters of the tiny model that answer differently, and what evaluation says they answer."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.decoding import Generated, generate_batch
from fine_tune_pipeline.programs.models import load_model, load_tokenizer, weights_sha256
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.contract import OfferedVersion

PROMPTS = (
    "my card was charged twice",
    "I lost my card",
    "where can I see the fees",
    "the transfer to my landlord has not arrived this week",
    "please change my address",
)
NEW_TOKENS = 6

# Threads that wait for each other cost far more than the tiny model's sums.
torch.set_num_threads(1)


def tiny_adapter(folder: Path, base: Path, *, seed: int, rank: int = 4) -> Path:
    """A LoRA adapter with random weights, large enough to change every answer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(load_model(base), LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=2.0)
    model.save_pretrained(str(folder))
    return folder


def evaluated(
    base: Path, adapter: Path | None, prompts: Sequence[str | Asked] = PROMPTS, *, new_tokens: int = NEW_TOKENS
) -> list[Generated]:
    """What step 7 would find: each prompt alone, by a model of its own."""
    tokenizer, format = load_tokenizer(base), PromptFormat()
    model = load_model(base, adapter=adapter)
    ids = [encode(prompt, None, tokenizer=tokenizer, format=format).prompt_ids for prompt in prompts]
    return [generate_batch(model, tokenizer, [row], format=format, max_new_tokens=new_tokens)[0] for row in ids]


def offered_version(version: int, adapter: Path, base: Path) -> OfferedVersion:
    """An adapter as the deployment offers it."""
    return OfferedVersion(
        version=version,
        adapter=str(adapter),
        adapter_sha256=weights_sha256(adapter),
        base_sha256=weights_sha256(base),
        max_new_tokens=NEW_TOKENS,
    )
