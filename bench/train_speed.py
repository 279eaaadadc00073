"""How fast LoRA trains here: this project, TRL as it comes, and a plain loop, on the same rows and the same model.

    python bench/train_speed.py --model <folder of Gemma 3 270M> --train <rows.jsonl>

Without arguments the model has the shape of Gemma 3 270M and random weights, and the rows have random tokens: as fast as the real one.
Every measurement is a process of its own, in turns, so that a busy machine is busy for all. A token is one of the data set: padding does
not count. CPU seconds count both cores. The last line is JSON.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIANTS = {
    "ours": "this project",
    "plain_loop": "a loop of twenty lines: padded batches, labelled positions only, torch's cross-entropy",
    "stock": "TRL's defaults (gradient checkpointing, padded batches, all positions), in float32",
    "stock_no_checkpointing": "the same without gradient checkpointing",
}
EFFECTIVE_BATCH = 16
MICRO_BATCH = 8
RANK = 16


@dataclass(frozen=True)
class Measured:
    """Of the steps after the first, which warms up. `tokens` without padding."""

    tokens: int
    cpu_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    first_loss: float
    last_loss: float


class Clock:
    """Counts from the end of the first step to the end of the last."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def step(self, loss: float) -> None:
        self.marks.append((time.process_time(), time.perf_counter()))
        self.losses.append(loss)

    def measured(self, rows: Sequence[Any]) -> Measured:
        from fine_tune_pipeline.programs.models import peak_memory_bytes

        (cpu, wall), (cpu_end, wall_end) = self.marks[0], self.marks[-1]
        tokens = sum(len(row.input_ids) for row in rows) * (len(self.marks) - 1)
        return Measured(tokens, cpu_end - cpu, wall_end - wall, peak_memory_bytes(), self.losses[0], self.losses[-1])


def callback(clock: Clock) -> Any:
    from transformers import TrainerCallback

    class Listen(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **event: object) -> None:
            if logs and "grad_norm" in logs:
                clock.step(logs["loss"])

    return Listen()


def request(folder: Path) -> Any:
    from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
    from fine_tune_pipeline.programs.requests import Hyperparameters, Placement, PromptFormat, Technique

    return PreflightRequest(
        output=str(folder / "output"),
        model=str(folder / "model"),
        train="",
        format=PromptFormat(),
        technique=Technique(type="lora", rank=RANK),
        hyperparameters=Hyperparameters(learning_rate=1e-3, epochs=1, effective_batch=EFFECTIVE_BATCH, max_length=4096),
        placement=Placement(micro_batch=MICRO_BATCH),
    )


def ours(folder: Path, rows: list[Any], steps: int) -> Measured:
    from fine_tune_pipeline.programs.models import load_tokenizer
    from fine_tune_pipeline.programs.trainer import build_trainer

    clock = Clock()
    build_trainer(
        request(folder), rows=rows, tokenizer=load_tokenizer(folder / "model"), max_steps=steps, callbacks=[callback(clock)]
    ).train()
    return clock.measured(rows)


def stock(folder: Path, rows: list[Any], steps: int, *, checkpointing: bool = True) -> Measured:
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from fine_tune_pipeline.programs.models import load_model, load_tokenizer

    clock = Clock()
    arguments = SFTConfig(
        output_dir=str(folder / "output"),
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=EFFECTIVE_BATCH // MICRO_BATCH,
        max_steps=steps,
        learning_rate=1e-3,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=checkpointing,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    SFTTrainer(
        model=load_model(folder / "model"),
        args=arguments,
        train_dataset=Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows]),
        processing_class=load_tokenizer(folder / "model"),
        peft_config=LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[callback(clock)],
    ).train()
    return clock.measured(rows)


def plain_loop(folder: Path, rows: list[Any], steps: int) -> Measured:
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn.functional import cross_entropy
    from transformers import PreTrainedModel

    from fine_tune_pipeline.programs.batches import Collate, as_records
    from fine_tune_pipeline.programs.models import load_model

    base = load_model(folder / "model")
    assert isinstance(base, PreTrainedModel)
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)
    collate, clock = Collate(pad_id=0, flat=False), Clock()
    by_length = as_records(sorted(rows, key=lambda row: len(row.input_ids)))
    labelled = sum(row.labelled for row in rows)
    for _ in range(steps):
        total = 0.0
        for first in range(0, len(by_length), MICRO_BATCH):
            batch = collate(by_length[first : first + MICRO_BATCH])
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
    return clock.measured(rows)


RUNS: dict[str, Callable[[Path, list[Any], int], Measured]] = {
    "ours": ours,
    "plain_loop": plain_loop,
    "stock": stock,
    "stock_no_checkpointing": lambda folder, rows, steps: stock(folder, rows, steps, checkpointing=False),
}


def random_model(folder: Path) -> None:
    """Gemma 3 270M's shape with random weights, and a tokenizer that is never asked for more than its special tokens."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<bos>": 2}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
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
    tokenizer.save_pretrained(folder)


def random_rows() -> list[Any]:
    """One step of messages as people type them: 12 to 90 tokens of prompt, 11 to 15 of answer."""
    from fine_tune_pipeline.programs.batches import Row

    draw = random.Random(0)
    rows = []
    for place in range(EFFECTIVE_BATCH):
        prompt = [draw.randrange(3, 400) for _ in range(min(90, 12 + int(draw.expovariate(1 / 15))))]
        answer = [draw.randrange(3, 400) for _ in range(draw.randrange(11, 16))]
        rows.append(Row(str(place), prompt + answer, [-100] * len(prompt) + answer))
    return rows


def rows_of(path: str | None, *, model: Path) -> list[Any]:
    """The first step's rows of a file."""
    from fine_tune_pipeline.programs.batches import tokenised_rows
    from fine_tune_pipeline.programs.models import load_tokenizer
    from fine_tune_pipeline.programs.requests import PromptFormat

    if path is None:
        return random_rows()
    return tokenised_rows(path, tokenizer=load_tokenizer(model), format=PromptFormat(), loss_on="completion")[:EFFECTIVE_BATCH]


def measure(options: argparse.Namespace) -> None:
    """Run in a process of its own: one variant, printed as JSON."""
    import torch

    torch.set_num_threads(options.threads)
    folder = Path(options.folder)
    measured = RUNS[options.variant](folder, rows_of(options.train, model=folder / "model"), options.steps)
    print(json.dumps(asdict(measured)))


def in_own_process(variant: str, folder: Path, options: argparse.Namespace) -> Measured:
    command = [sys.executable, __file__, "--variant", variant, "--folder", str(folder)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads)]
    command += ["--train", options.train] if options.train else []
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
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
            "first_loss": round(runs[0].first_loss, 4),
            "last_loss": round(runs[0].last_loss, 4),
        }
        for name, runs in found.items()
    }
    for name, numbers in summary.items():
        print(
            f"{name:24}{numbers['tokens_per_cpu_second']:8.1f} tokens per CPU second {numbers['to_ours']:6.2f} of ours"
            f"{numbers['peak_memory_gib']:7.2f} GiB   {VARIANTS[name]}"
        )
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a base model; default: random weights in the shape of Gemma 3 270M")
    parser.add_argument("--train", help="JSONL rows of id, prompt, completion; default: random tokens")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of a measurement; the first is not timed")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each variant, in turns")
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
    print(json.dumps({"threads": options.threads, "rounds": options.rounds, **summary}))


if __name__ == "__main__":
    main()
