"""How fast the endpoint answers: beside offline batches of transformers' `generate`, and beside a server that takes one request at a time.

    python bench/serve_speed.py [--model <folder of Gemma 3 270M>] [--adapter <folder>] [--requests 64] [--rounds 2]

All three answer the same held-out messages of the built-in use case with the same base model and adapter, in turn, round by round, so that
what else the machine does meets all alike. Without `--model` and `--adapter` they are made as by `predict_speed.py`.

The endpoint is a process as the `endpoint` asset starts it: keys, queue, versions, traffic log with its scrubber. The naive server is what
one writes first: a route, a lock, `generate`. Both are asked over HTTP by 1 and by 32 clients. CPU seconds are those of the server's
process, all threads; those of the clients are in neither. Offline, the same prompts are sorted by length and answered 32 at a time.

Bars, printed met or not, exit code 0 either way: throughput at 32 clients at least 0.95 of offline; requests per CPU second at 32 clients
at least 2.5 times the naive server's; the 95th percentile of seconds at 1 client at most 1.1 times the naive server's; an idle endpoint
takes a new version in less than 1 s, and one under load fails no request while it does; memory at rest at most 1.1 times that of the naive
process, which holds the same base and adapter and nothing else. The last line is JSON.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from predict_speed import converted, examples, generated, untrained_adapter

CLIENTS = (1, 32)
OFFLINE_ROWS = 32
BARS: dict[str, tuple[str, float]] = {
    "offline": ("at least", 0.95),
    "naive_cpu": ("at least", 2.5),
    "naive_p95": ("at most", 1.1),
    "swap_seconds": ("at most", 1.0),
    "swap_failures": ("at most", 0.0),
    "memory": ("at most", 1.1),
}
KEYS = {"FINE_TUNE_PIPELINE_API_KEY": "user-key-of-the-bench", "FINE_TUNE_PIPELINE_ADMIN_KEY": "admin-key-of-the-bench"}
USE_CASE = "bench"
READY_SECONDS = 300.0


def reference(options: argparse.Namespace) -> None:
    """The naive server, in a process of its own; `/offline` answers many prompts in batches."""
    import threading

    import torch
    import uvicorn
    from fastapi import FastAPI

    from fine_tune_pipeline.programs.models import load_model, load_tokenizer
    from fine_tune_pipeline.programs.prompts import encode
    from fine_tune_pipeline.programs.requests import PromptFormat

    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(options.model, adapter=options.adapter), load_tokenizer(options.model)
    job = argparse.Namespace(format=PromptFormat(), stop=(), max_new_tokens=options.new_tokens)
    app, one_at_a_time = FastAPI(), threading.Lock()

    def tokens(prompt: str) -> list[int]:
        return encode(prompt, None, tokenizer=tokenizer, format=job.format).prompt_ids

    @app.post("/v1/chat/completions")
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        with one_at_a_time:
            text = generated(model, tokenizer, tokens(body["messages"][0]["content"]), job)
        return {"choices": [{"message": {"content": text}}]}

    @app.post("/offline")
    def offline(prompts: list[str]) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        batched(model, tokenizer, sorted(map(tokens, prompts), key=len, reverse=True), job)
        return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


def batched(model: Any, tokenizer: Any, prompts: list[list[int]], job: Any) -> None:
    """`generate` on batches, padded on the left; a row that has met a stop string ends for itself."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    from fine_tune_pipeline.programs.prompts import stopped

    for first in range(0, len(prompts), OFFLINE_ROWS):
        part = prompts[first : first + OFFLINE_ROWS]
        width = len(part[0])

        class Stop(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, *, width: int = width, **more: Any) -> Any:
                texts = tokenizer.batch_decode(input_ids[:, width:])
                return torch.tensor([stopped(text, format=job.format, stop=job.stop) for text in texts])

        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in part])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in part])
        model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=job.max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([Stop()]),
        )  # fmt: skip


class Place:
    """A server in a process of its own."""

    def __init__(self, command: list[str], *, url: str, log: Path) -> None:
        self.url = url
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(command, env={**os.environ, **KEYS}, stdout=stream, stderr=subprocess.STDOUT)

    def wait(self, path: str) -> None:
        """Until it answers at all."""
        import httpx

        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                httpx.get(self.url + path, timeout=5)
            except httpx.HTTPError:
                time.sleep(0.2)
            else:
                return
        sys.exit(f"{self.url} does not answer:\n{self._log.read_text('utf-8')[-3000:]}")

    def cpu_seconds(self) -> float:
        import psutil

        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def memory_bytes(self) -> int:
        import psutil

        return psutil.Process(self._process.pid).memory_info().rss

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def endpoint(options: argparse.Namespace, folder: Path) -> Place:
    """This project's server, as it is started for a use case."""
    from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest

    port = free_port()
    request = ServeRequest(
        output=str(folder), state=str(folder), use_case=USE_CASE, model=options.model, format=PromptFormat(),
        max_new_tokens=options.new_tokens, port=port, threads=options.threads,
    )  # fmt: skip
    request.write(folder / "request.json")
    command = [sys.executable, "-m", "fine_tune_pipeline.programs.serve", "--request", str(folder / "request.json")]
    return Place(command, url=f"http://127.0.0.1:{port}", log=folder / "server.log")


def naive(options: argparse.Namespace, folder: Path) -> Place:
    port = free_port()
    command = [sys.executable, __file__, "--reference", "--port", str(port), "--model", options.model, "--adapter", options.adapter]
    command += ["--threads", str(options.threads), "--new-tokens", str(options.new_tokens)]
    return Place(command, url=f"http://127.0.0.1:{port}", log=folder / "naive.log")


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def sync(place: Place, options: argparse.Namespace, *, version: int) -> float:
    """Make a version champion; seconds. Both versions have the weights of the bench's adapter, in folders of their own."""
    import httpx

    from fine_tune_pipeline.programs.models import weights_sha256

    adapters = [options.adapter, options.other_adapter][:version]
    base = weights_sha256(options.model)
    versions = [
        {
            "version": number, "adapter": adapter, "adapter_sha256": weights_sha256(adapter), "base_sha256": base,
            "max_new_tokens": options.new_tokens,
        }
        for number, adapter in enumerate(adapters, start=1)
    ]  # fmt: skip
    start = time.perf_counter()
    headers = {"Authorization": f"Bearer {KEYS['FINE_TUNE_PIPELINE_ADMIN_KEY']}"}
    body = {"versions": versions, "aliases": {"champion": version}}
    httpx.post(f"{place.url}/admin/sync", json=body, headers=headers, timeout=READY_SECONDS).raise_for_status()
    return time.perf_counter() - start


def load(place: Place, prompts: list[str], *, clients: int) -> dict[str, Any]:
    """All prompts, each client asking its next when it has an answer: texts, failures, requests per second and per CPU second, p95."""
    import httpx

    texts: list[str] = [""] * len(prompts)
    models: list[str] = [""] * len(prompts)
    seconds: list[float] = []
    waiting = list(enumerate(prompts))[::-1]

    async def client(http: httpx.AsyncClient) -> int:
        failed = 0
        while waiting:
            number, prompt = waiting.pop()
            start = time.perf_counter()
            answer = await http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": prompt}]})
            seconds.append(time.perf_counter() - start)
            if answer.status_code == 200:
                texts[number] = answer.json()["choices"][0]["message"]["content"]
                models[number] = answer.json().get("model", "")
            failed += answer.status_code != 200
        return failed

    async def run() -> int:
        headers = {"Authorization": f"Bearer {KEYS['FINE_TUNE_PIPELINE_API_KEY']}"}
        async with httpx.AsyncClient(base_url=place.url, headers=headers, timeout=READY_SECONDS) as http:
            return sum(await asyncio.gather(*(client(http) for _ in range(clients))))

    wall, cpu = time.perf_counter(), place.cpu_seconds()
    failures = asyncio.run(run())
    wall, cpu = time.perf_counter() - wall, place.cpu_seconds() - cpu
    return {
        "texts": texts,
        "models": models,
        "failures": failures,
        "per_second": len(prompts) / wall,
        "per_cpu_second": len(prompts) / cpu,
        "p50": statistics.median(seconds),
        "p95": percentile(seconds, 0.95),
    }


def percentile(values: list[float], share: float) -> float:
    """The smallest value that is not below this share of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def settle(place: Place, *, model: str = USE_CASE) -> None:
    """Wait until the traffic log has its scrubber: feedback is kept after the rows before it."""
    import httpx

    headers = {"Authorization": f"Bearer {KEYS['FINE_TUNE_PIPELINE_API_KEY']}"}
    with httpx.Client(base_url=place.url, headers=headers, timeout=READY_SECONDS) as http:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        answer = http.post("/v1/chat/completions", json=body).raise_for_status()
        http.post("/v1/feedback", json={"request_id": answer.json()["id"], "thumb": "up"}).raise_for_status()


def offline(place: Place, prompts: list[str]) -> dict[str, float]:
    import httpx

    found = httpx.post(f"{place.url}/offline", json=prompts, timeout=3600).raise_for_status().json()
    return {"per_second": len(prompts) / found["seconds"], "per_cpu_second": len(prompts) / found["cpu_seconds"]}


def swap_under_load(place: Place, options: argparse.Namespace, prompts: list[str]) -> dict[str, Any]:
    """A new version is offered while 32 clients ask."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        swapped = pool.submit(sync, place, options, version=2)
        found = load(place, prompts, clients=CLIENTS[-1])
        return {"seconds_under_load": swapped.result(), "failures": found["failures"], "models": sorted(set(found["models"]))}


def judged(rounds: list[dict[str, Any]], swap: dict[str, Any], memory: dict[str, int]) -> dict[str, Any]:
    """Each ratio is the median over the rounds of what was measured in one round; then whether its bar is met."""
    many, one = f"at_{CLIENTS[-1]}", f"at_{CLIENTS[0]}"
    ratios = {
        "offline": statistics.median(found["ours"][many]["per_second"] / found["offline"]["per_second"] for found in rounds),
        "naive_cpu": statistics.median(found["ours"][many]["per_cpu_second"] / found["naive"][many]["per_cpu_second"] for found in rounds),
        "naive_p95": statistics.median(found["ours"][one]["p95"] / found["naive"][one]["p95"] for found in rounds),
        "swap_seconds": swap["seconds_at_rest"],
        "swap_failures": float(swap["failures"]),
        "memory": memory["ours"] / memory["naive"],
    }
    bars = []
    for name, (how, bar) in BARS.items():
        met = ratios[name] >= bar if how == "at least" else ratios[name] <= bar
        bars.append({"name": name, "value": round(ratios[name], 3), "want": f"{how} {bar:g}", "met": met})
        print(f"{'met' if met else 'missed':8}{name:16}{ratios[name]:8.3f}  want {how} {bar:g}")
    return {"bars": bars, "swap": swap, "memory_gib": {name: round(value / 2**30, 3) for name, value in memory.items()}}


def told(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The rounds without their texts, and how many answers were the same."""
    pairs = [zip(*(found[who]["at_32"]["texts"] for who in ("ours", "naive")), strict=True) for found in rounds]
    same = [one == other for texts in pairs for one, other in texts]
    plain = [
        {
            "offline": found["offline"],
            **{who: {at: {k: v for k, v in one.items() if k not in ("texts", "models")} for at, one in found[who].items()}
               for who in ("ours", "naive")},
        }
        for found in rounds
    ]  # fmt: skip
    return {"rounds": plain, "same_answers": f"{sum(same)} of {len(same)}"}


def measured(ours: Place, theirs: Place, prompts: list[str], *, rounds: int, single: int) -> list[dict[str, Any]]:
    """The three ways in turn; who begins changes from round to round."""
    found = []
    for number in range(rounds):
        one: dict[str, Any] = {}
        places = [("ours", ours), ("naive", theirs)]
        for who, place in places if number % 2 else places[::-1]:
            one[who] = {f"at_{clients}": load(place, prompts if clients > 1 else prompts[:single], clients=clients) for clients in CLIENTS}
        one["offline"] = offline(theirs, prompts)
        found.append(one)
        for who, place in (("ours", "at_32"), ("naive", "at_32"), ("ours", "at_1"), ("naive", "at_1")):
            at = one[who][place]
            print(
                f"{number + 1}: {who} {place}: {at['per_second']:.2f}/s, {at['per_cpu_second']:.2f} per CPU second, p95 {at['p95']:.3f} s"
            )
        print(f"{number + 1}: offline: {one['offline']['per_second']:.2f}/s, {one['offline']['per_cpu_second']:.2f} per CPU second")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a base model; default: Gemma 3 270M of the package index")
    parser.add_argument("--adapter", help="PEFT folder; default: an untrained one, whose answers are as long as they may be")
    parser.add_argument("--requests", type=int, default=64, help="with 32 clients, each round; there are 200 different ones")
    parser.add_argument("--single", type=int, default=16, help="requests with 1 client, each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        reference(options)
        return
    options.model = options.model or str(converted(Path(os.environ.get("FINE_TUNE_PIPELINE_HOME", ".fine_tune_pipeline"))))
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps({"threads": options.threads, "requests": options.requests, **compared(options, Path(name))}))


def compared(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    options.adapter = options.adapter or str(untrained_adapter(folder / "adapter", base=Path(options.model)))
    options.other_adapter = str(changed(Path(options.adapter), folder / "other"))
    texts = [row.prompt for row in examples("test.jsonl")]
    prompts = [texts[number % len(texts)] for number in range(options.requests)]
    (folder / "state").mkdir()
    ours, theirs = endpoint(options, folder / "state"), naive(options, folder)
    try:
        ours.wait("/health")
        theirs.wait("/docs")
        sync(ours, options, version=1)
        for place in (ours, theirs):
            load(place, prompts[:2], clients=1)
        settle(ours)
        memory = {"ours": ours.memory_bytes(), "naive": theirs.memory_bytes()}
        rounds = measured(ours, theirs, prompts, rounds=options.rounds, single=options.single)
        under_load = swap_under_load(ours, options, prompts)
        sync(ours, options, version=1)
        swap = {**under_load, "seconds_at_rest": sync(ours, options, version=2)}
        return {**judged(rounds, swap, memory), **told(rounds)}
    finally:
        ours.stop()
        theirs.stop()


def changed(adapter: Path, folder: Path) -> Path:
    """The same adapter with one weight changed a little, so that its hash is another."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, folder)
    stored = folder / "adapter_model.safetensors"
    weights = load_file(stored)
    name = min(weights)
    save_file({**weights, name: weights[name] * 1.0001}, stored)
    return folder


if __name__ == "__main__":
    main()
