"""What a model itself makes of rows, one at a time, without batches of ours: a reference."""

from pathlib import Path
from typing import Any

import torch

from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline_tests.small_training import ROWS, Rows


@torch.no_grad()
def mean_loss(network: Any, *, model: Path, rows: Rows = ROWS) -> float:
    """Over the tokens of all completions, by the model's own forward."""
    tokenizer = load_tokenizer(model)
    total, count = 0.0, 0
    for _, prompt, completion in rows:
        row = encode(prompt, completion, tokenizer=tokenizer, format=PromptFormat())
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        labels = ids.clone()
        labels[0, : len(row.prompt_ids)] = -100
        total += float(network(input_ids=ids, labels=labels).loss) * len(row.completion_ids)
        count += len(row.completion_ids)
    return total / count
