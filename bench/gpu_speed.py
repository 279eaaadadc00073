"""How fast LoRA trains on a GPU: this project and TRL as it comes, on the same full-length rows and the same model.

    python bench/gpu_speed.py                                   # Llama-3.1-8B's shape, rank 16, 4096 tokens, bfloat16, cuda:0
    python bench/gpu_speed.py --shape tiny --device cpu         # the same code without a GPU

**Not run on a GPU yet**: no figure of it has been published. It runs on a CPU with the tiny shape, which shows that it works and no more.

The weights are random, which does not change the speed; the loss on the random rows is printed and has to fall. Every measurement is a
process of its own, in turns. A token is one of the data set; rows are all of one length, so neither variant pads. Seconds are of the wall
clock, from the end of the first step to the end of the last; each step ends when its loss is read, so that the device has finished it.
The share of the device's peak (MFU) counts the operations that LoRA needs, not those that recomputing adds: see `flops_per_token`.

The figure to beat on one H100 is 12,473 tokens a second (NeMo AutoModel, micro-batch 2, no recomputing). The last line is JSON.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from random_training import write_tokenizer
from train_speed import RANK, Clock, Measured, Setting, by_trl, callback

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
}

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bfloat16 operations a second, from the data sheets; by a part of the device's name."""

FIGURE_TO_BEAT = 12_473.0


def flops_per_token(shape: dict[str, Any], *, rank: int, length: int) -> float:
    """Operations that one token of a row of `length` costs in a step of LoRA on all matrices: forward and backward, causal attention.

    Six operations a weight and token, times (2 + adapters / frozen) / 3: a frozen matrix needs no gradient of its own. Looking a token up
    in the embedding costs nothing.
    """
    hidden, wide, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    width = hidden // heads
    of_keys = shape["num_key_value_heads"] * width
    matrices = [(hidden, heads * width), (hidden, of_keys), (hidden, of_keys), (heads * width, hidden)]
    matrices += [(hidden, wide), (hidden, wide), (wide, hidden)]
    layers = shape["num_hidden_layers"]
    frozen = layers * sum(rows * columns for rows, columns in matrices) + shape["vocab_size"] * hidden
    adapters = layers * rank * sum(rows + columns for rows, columns in matrices)
    # A token sees half of the others on average: scores and their sum over values, forward and twice as much backward.
    attention = layers * 3 * 2 * 2 * heads * width * length / 2
    return 6 * frozen * (2 + adapters / frozen) / 3 + attention


def peak_flops(device: str) -> float | None:
    """None where the device is not known."""
    import torch

    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)


def random_model(folder: Path, *, shape: str, dtype: str, device: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], pad_token_id=0)).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    write_tokenizer(folder, words=SHAPES[shape]["vocab_size"])


def rows_of(shape: str, *, length: int, count: int) -> list[Any]:
    """All of one length, every token counts."""
    from fine_tune_pipeline.programs.training.batches import Row

    draw = random.Random(0)
    ids = [[draw.randrange(3, SHAPES[shape]["vocab_size"]) for _ in range(length)] for _ in range(count)]
    return [Row(str(place), row, row) for place, row in enumerate(ids)]


def ours(setting: Setting, options: argparse.Namespace) -> Measured:
    clock = Clock(setting.folder)
    from fine_tune_pipeline.programs.models import load_tokenizer
    from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
    from fine_tune_pipeline.programs.requests import Hyperparameters, Placement, PromptFormat, Technique
    from fine_tune_pipeline.programs.training.trainer import build_trainer

    request = PreflightRequest(
        output=str(setting.folder / "output"),
        model=str(setting.folder / "model"),
        train="",
        format=PromptFormat(),
        technique=Technique(type="lora", rank=RANK),
        hyperparameters=Hyperparameters(
            learning_rate=1e-3, epochs=1, effective_batch=len(setting.rows), max_length=options.length, loss_on="all"
        ),
        placement=Placement(
            device=options.device,
            dtype=options.dtype,
            micro_batch=setting.micro_batch,
            gradient_checkpointing=options.checkpointing,
            compile="always" if options.compile else "never",
        ),
    )
    tokenizer = load_tokenizer(setting.folder / "model")
    trainer = build_trainer(request, rows=setting.rows, tokenizer=tokenizer, max_steps=setting.steps, callbacks=[callback(clock)])
    trainer.train()
    return clock.measured(setting.rows)


def stock(setting: Setting, options: argparse.Namespace) -> Measured:
    """TRL's defaults, but for the number format, and recomputing as it is for us."""
    return by_trl(
        setting, dtype=options.dtype, device=options.device, max_length=options.length, activation_checkpointing=options.checkpointing
    )


RUNS: dict[str, Callable[[Setting, argparse.Namespace], Measured]] = {"ours": ours, "stock": stock}


def in_own_process(variant: str, folder: Path) -> Measured:
    command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant, "--folder", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{variant} failed:\n{ended.stderr[-3000:]}")
    return Measured(**json.loads(ended.stdout.splitlines()[-1]))


def figures(measured: Measured, *, flops: float, peak: float | None) -> dict[str, float | None]:
    rate = measured.tokens / measured.wall_seconds
    return {
        "tokens_per_second": round(rate, 1),
        "mfu": None if peak is None else round(rate * flops / peak, 4),
        "peak_memory_gib": round(measured.peak_memory_bytes / 2**30, 2),
        "first_loss": round(measured.first_loss, 4),
        "last_loss": round(measured.last_loss, 4),
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--length", type=int, default=4096, help="tokens of every row")
    parser.add_argument("--micro-batch", type=int, default=2, help="rows of a pass")
    parser.add_argument("--effective-batch", type=int, default=16, help="rows of a step")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps of a measurement; the first is not timed")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each variant, in turns; the best counts")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations, in both variants")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the layers of ours")
    parser.add_argument("--variant", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.variant:
        rows = rows_of(options.shape, length=options.length, count=options.effective_batch)
        setting = Setting(Path(options.folder), rows, options.steps, options.micro_batch)
        print(json.dumps(asdict(RUNS[options.variant](setting, options))))
        return
    found: dict[str, list[Measured]] = {variant: [] for variant in RUNS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "output").mkdir()
        random_model(folder / "model", shape=options.shape, dtype=options.dtype, device=options.device)
        for _ in range(options.rounds):
            for variant in RUNS:
                found[variant].append(in_own_process(variant, folder))
    flops = flops_per_token(SHAPES[options.shape], rank=RANK, length=options.length)
    best = {variant: min(runs, key=lambda each: each.wall_seconds) for variant, runs in found.items()}
    summary = {variant: figures(each, flops=flops, peak=peak_flops(options.device)) for variant, each in best.items()}
    for variant, numbers in summary.items():
        print(f"{variant:8}" + "   ".join(f"{name} {value}" for name, value in numbers.items()))
    asked = {name: value for name, value in vars(options).items() if name not in ("variant", "folder")}
    print(json.dumps({**asked, "flops_per_token": flops, "to_beat": FIGURE_TO_BEAT, **summary}))


if __name__ == "__main__":
    main()
