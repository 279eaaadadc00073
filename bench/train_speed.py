"""How fast LoRA trains here: this project, TRL as it comes, and a plain loop, on the same rows and the same model.

    python bench/train_speed.py --model <folder of Gemma 3 270M> --train <rows.jsonl>

Without arguments the model has the shape of Gemma 3 270M and random weights, and the rows have random tokens: as fast as the real one.
Every measurement is a process of its own, in turns, so that a busy machine is busy for all. A token is one of the data set: padding does
not count. CPU seconds count all threads of the process, from the end of the first step to the end of the last.

All variants see the same rows: 16 in a step (or `--micro-batch`, if that is more), `--micro-batch` in a pass, `ours_in_halves` half of
these: the same step and the same mathematics, summed in two parts. Memory is resident memory of
the process (Linux, VmHWM), in two figures: `peak_memory`, all of it; and `training_memory`, the same less what the process held once the
libraries were imported and less the size of the weights' files. That is what training needs beside the model: activations, logits,
adapters, gradients, optimizer state, and what the allocator cannot give back. Weights are mapped from their file in all variants. This
project's training is started as its places start it, with the C library's settings of `heap.py`; the others as a person starts them.

The ratios and bars are printed at the end, whether met or not; the exit code is 0 either way. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from random_training import random_model, rows_of

from fine_tune_pipeline.programs.heap import EXACT_HEAP

VARIANTS = {
    "ours": "this project",
    "ours_in_halves": "this project, the same step in two passes of half of the rows",
    "plain_loop": "a loop of twenty lines: padded batches, labelled positions only, torch's cross-entropy",
    "stock": "TRL's defaults (gradient checkpointing, padded batches, all positions), in float32",
    "stock_no_checkpointing": "the same without gradient checkpointing",
}
EFFECTIVE_BATCH = 16
RANK = 16


@dataclass(frozen=True)
class Bar:
    """What the ratio of `OURS` to another variant should be: at least so much, or at most."""

    figure: str
    variant: str
    bound: float
    at_least: bool

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.at_least else ratio <= self.bound


OURS = ("ours", "ours_in_halves")

BARS = (
    Bar("tokens_per_cpu_second", "stock", 3.8, at_least=True),
    Bar("tokens_per_cpu_second", "plain_loop", 1.0, at_least=True),
    Bar("peak_memory_gib", "stock", 0.7, at_least=False),
    Bar("training_memory_gib", "stock", 0.7, at_least=False),
)


@dataclass(frozen=True)
class Measured:
    """Of the steps after the first, which warms up. `tokens` without padding; `training_memory_bytes` as the page's head defines it."""

    tokens: int
    cpu_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    training_memory_bytes: int
    first_loss: float
    last_loss: float


class Clock:
    """Counts from the end of the first step to the end of the last.

    Made before the model is loaded: `held` is what the process needs without one.
    """

    def __init__(self, folder: Path) -> None:
        import_everything()
        from fine_tune_pipeline.programs.models import held_memory_bytes

        self.held = held_memory_bytes() + sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))
        self.marks: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def step(self, loss: float) -> None:
        self.marks.append((time.process_time(), time.perf_counter()))
        self.losses.append(loss)

    def measured(self, rows: Sequence[Any]) -> Measured:
        from fine_tune_pipeline.programs.models import peak_memory_bytes

        (cpu, wall), (cpu_end, wall_end) = self.marks[0], self.marks[-1]
        tokens = sum(len(row.input_ids) for row in rows) * (len(self.marks) - 1)
        peak = peak_memory_bytes()
        return Measured(tokens, cpu_end - cpu, wall_end - wall, peak, peak - self.held, self.losses[0], self.losses[-1])


def import_everything() -> None:
    """What any variant imports, so that all start from the same memory."""
    import datasets
    import peft
    import trl.trainer.sft_trainer

    import fine_tune_pipeline.programs.training.trainer

    assert datasets, peft
    assert trl, fine_tune_pipeline


def callback(clock: Clock) -> Any:
    from transformers import TrainerCallback

    class Listen(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **event: object) -> None:
            if logs and "grad_norm" in logs:
                clock.step(logs["loss"])

    return Listen()


@dataclass(frozen=True)
class Setting:
    """What a variant trains: the model in `folder`, these rows in each of `steps`, `micro_batch` of them in a pass."""

    folder: Path
    rows: list[Any]
    steps: int
    micro_batch: int


def request(setting: Setting) -> Any:
    from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
    from fine_tune_pipeline.programs.requests import Hyperparameters, Placement, PromptFormat, Technique

    return PreflightRequest(
        output=str(setting.folder / "output"),
        model=str(setting.folder / "model"),
        train="",
        format=PromptFormat(),
        technique=Technique(type="lora", rank=RANK),
        hyperparameters=Hyperparameters(learning_rate=1e-3, epochs=1, effective_batch=len(setting.rows), max_length=4096),
        placement=Placement(micro_batch=setting.micro_batch),
    )


def ours(setting: Setting) -> Measured:
    clock = Clock(setting.folder)
    from fine_tune_pipeline.programs.models import load_tokenizer
    from fine_tune_pipeline.programs.training.trainer import build_trainer

    tokenizer = load_tokenizer(setting.folder / "model")
    build_trainer(request(setting), rows=setting.rows, tokenizer=tokenizer, max_steps=setting.steps, callbacks=[callback(clock)]).train()
    return clock.measured(setting.rows)


def stock(setting: Setting, *, checkpointing: bool = True) -> Measured:
    """TRL's defaults, but for the number format."""
    return by_trl(setting, dtype="float32", device="cpu", activation_checkpointing=checkpointing)


def by_trl(setting: Setting, *, dtype: Literal["float32", "bfloat16"], device: str, **options: Any) -> Measured:
    """LoRA by TRL's own trainer.

    Args:
        options: of SFTConfig.
    """
    clock = Clock(setting.folder)
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from fine_tune_pipeline.programs.models import load_model, load_tokenizer

    arguments = SFTConfig(
        output_dir=str(setting.folder / "output"),
        per_device_train_batch_size=setting.micro_batch,
        gradient_accumulation_steps=len(setting.rows) // setting.micro_batch,
        max_steps=setting.steps,
        learning_rate=1e-3,
        use_cpu=device == "cpu",
        bf16=dtype == "bfloat16",
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    SFTTrainer(
        model=load_model(setting.folder / "model", dtype=dtype, device=device),
        args=arguments,
        train_dataset=Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in setting.rows]),
        processing_class=load_tokenizer(setting.folder / "model"),
        peft_config=LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[callback(clock)],
    ).train()
    return clock.measured(setting.rows)


def plain_loop(setting: Setting) -> Measured:
    clock = Clock(setting.folder)
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn.functional import cross_entropy
    from transformers import PreTrainedModel

    from fine_tune_pipeline.programs.models import load_model
    from fine_tune_pipeline.programs.training.batches import Collate, as_records

    base = load_model(setting.folder / "model")
    assert isinstance(base, PreTrainedModel)
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)
    collate = Collate(pad_id=0, flat=False)
    by_length = as_records(sorted(setting.rows, key=lambda row: len(row.input_ids)))
    labelled = sum(row.labelled for row in setting.rows)
    for _ in range(setting.steps):
        total = 0.0
        for first in range(0, len(by_length), setting.micro_batch):
            batch = collate(by_length[first : first + setting.micro_batch])
            hidden = base.base_model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).last_hidden_state
            targets = batch["labels"][:, 1:]
            logits = hidden[:, :-1][targets != -100] @ base.get_output_embeddings().weight.t()
            loss = cross_entropy(logits, targets[targets != -100], reduction="sum") / labelled
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.step(total)
    return clock.measured(setting.rows)


RUNS: dict[str, Callable[[Setting], Measured]] = {
    "ours": ours,
    "ours_in_halves": lambda setting: ours(replace(setting, micro_batch=-(-setting.micro_batch // 2))),
    "plain_loop": plain_loop,
    "stock": stock,
    "stock_no_checkpointing": lambda setting: stock(setting, checkpointing=False),
}


def measure(options: argparse.Namespace) -> None:
    """Run in a process of its own: one variant, printed as JSON."""
    import torch

    torch.set_num_threads(options.threads)
    folder = Path(options.folder)
    rows = rows_of(options.train, model=folder / "model", count=max(EFFECTIVE_BATCH, options.micro_batch))
    print(json.dumps(asdict(RUNS[options.variant](Setting(folder, rows, options.steps, options.micro_batch)))))


def in_own_process(variant: str, folder: Path, options: argparse.Namespace) -> Measured:
    command = [sys.executable, __file__, "--variant", variant, "--folder", str(folder)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads)]
    command += ["--micro-batch", str(options.micro_batch)]
    command += ["--train", options.train] if options.train else []
    environment = {**EXACT_HEAP, **os.environ} if variant in OURS else None
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{variant} failed:\n{ended.stderr[-3000:]}")
    return Measured(**json.loads(ended.stdout.splitlines()[-1]))


def report(found: dict[str, list[Measured]]) -> dict[str, dict[str, float]]:
    """Medians over the rounds, and the ratio to `ours`: below 1 is slower than this project."""
    rate = {name: statistics.median(each.tokens / each.cpu_seconds for each in runs) for name, runs in found.items()}
    summary = {
        name: {
            "tokens_per_cpu_second": round(rate[name], 1),
            "tokens_per_second": round(statistics.median(each.tokens / each.wall_seconds for each in runs), 1),
            "to_ours": round(rate[name] / rate["ours"], 3),
            "peak_memory_gib": round(max(each.peak_memory_bytes for each in runs) / 2**30, 2),
            "training_memory_gib": round(max(each.training_memory_bytes for each in runs) / 2**30, 2),
            "first_loss": round(runs[0].first_loss, 4),
            "last_loss": round(runs[0].last_loss, 4),
        }
        for name, runs in found.items()
    }
    for name, numbers in summary.items():
        print(
            f"{name:24}{numbers['tokens_per_cpu_second']:8.1f} tokens per CPU second {numbers['to_ours']:6.2f} of ours"
            f"{numbers['peak_memory_gib']:7.2f} GiB, {numbers['training_memory_gib']:.2f} of them for training   {VARIANTS[name]}"
        )
    return summary


def judged(summary: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Each bar with the measured ratio of each of `OURS` to the other variant."""
    found = []
    for ours, bar in product(OURS, BARS):
        ratio = summary[ours][bar.figure] / summary[bar.variant][bar.figure]
        found.append({"ours": ours, **asdict(bar), "ratio": round(ratio, 3), "met": bar.met(ratio)})
        verdict = "met" if bar.met(ratio) else "missed"
        wanted = f"at {'least' if bar.at_least else 'most'} {bar.bound}"
        print(f"{verdict:8}{bar.figure} of {ours} is {ratio:.2f} of {bar.variant}'s; want {wanted}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a base model; default: random weights in the shape of Gemma 3 270M")
    parser.add_argument("--train", help="JSONL rows of id, prompt, completion; default: random tokens")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of a measurement; the first is not timed")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each variant, in turns")
    parser.add_argument("--micro-batch", type=int, default=16, help="rows of a pass, in all variants; a divisor of the step's rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        measure(options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "output").mkdir()
        if options.model:
            (folder / "model").symlink_to(Path(options.model).resolve())
        else:
            random_model(folder / "model")
        found: dict[str, list[Measured]] = {variant: [] for variant in VARIANTS}
        for turn in range(options.rounds):
            for variant in VARIANTS:
                print(f"round {turn + 1}: {variant}", file=sys.stderr)
                found[variant].append(in_own_process(variant, folder, options))
        summary = report(found)
        bars = judged(summary)
    print(json.dumps({"threads": options.threads, "rounds": options.rounds, "micro_batch": options.micro_batch, "bars": bars, **summary}))


if __name__ == "__main__":
    main()
