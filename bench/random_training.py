"""A model and rows as large as real ones, made of random numbers: as fast as real ones."""

import random
from pathlib import Path
from typing import Any


def random_model(folder: Path) -> None:
    """Gemma 3 270M's shape with random weights, and a tokenizer."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    layers = ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(18)]
    config = Gemma3TextConfig(
        vocab_size=262_144,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        layer_types=layers,
        sliding_window=512,
    )
    torch.manual_seed(0)
    Gemma3ForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, words=config.vocab_size)


def write_tokenizer(folder: Path, *, words: int) -> None:
    """One with as many words as the model, that is never asked for more than its special tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {f"word{place}": place for place in range(3, words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    tokenizer.save_pretrained(folder)


def random_rows(count: int) -> list[Any]:
    """One step of messages as people type them: 12 to 90 tokens of prompt, 11 to 15 of answer."""
    from fine_tune_pipeline.programs.training.batches import Row

    draw = random.Random(0)
    rows = []
    for place in range(count):
        prompt = [draw.randrange(3, 400) for _ in range(min(90, 12 + int(draw.expovariate(1 / 15))))]
        answer = [draw.randrange(3, 400) for _ in range(draw.randrange(11, 16))]
        rows.append(Row(str(place), prompt + answer, [-100] * len(prompt) + answer))
    return rows


def rows_of(path: str | None, *, model: Path, count: int) -> list[Any]:
    """The first step's rows of a file."""
    from fine_tune_pipeline.programs.models import load_tokenizer
    from fine_tune_pipeline.programs.requests import PromptFormat
    from fine_tune_pipeline.programs.training.batches import tokenised_rows

    if path is None:
        return random_rows(count)
    return tokenised_rows(path, tokenizer=load_tokenizer(model), format=PromptFormat(), loss_on="completion")[:count]
