"""The traffic log: rows a second, and what it costs those who answer; side by side in one run, each way in a process of its own.

python bench/traffic_speed.py                     all, with a PostgreSQL server of its own if one is installed
python bench/traffic_speed.py --answer-ms 270     CPU milliseconds of one answer (Gemma 3 270M on two cores: 270 and more)
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for the tests' PostgreSQL server

ANSWERS = 40
PAIRS = 3
GUARDED = 60

PROMPT = "I was charged twice for the same coffee on 3 May, my card ends in 4711, please call Ann Smith back under 020 7946 0018."


def main() -> None:
    arguments = _arguments()
    if arguments.way is not None:
        print(json.dumps(WAYS[arguments.way](arguments)), flush=True)
        return
    for store in ("sqlite", "postgres"):
        with _url(store) as url:
            if url is None:
                print("postgres  no server is installed: left out")
                continue
            found = _apart(arguments, "rows", "--url", url)
            print(
                f"{store:9} {found['rows_per_second']:>8,.0f} rows/s, {found['cpu_us']:.0f} CPU µs a row, {found['kept']:,} kept",
                flush=True,
            )
    found = _apart(arguments, "cost")
    print(
        f"cost      {found['cost_share']:.2%} of the throughput at {arguments.answer_ms:g} ms an answer ({found['row_us']:.0f} µs a row); "
        f"with the scrubber of step 3 {found['scrub_share']:.2%} ({found['scrub_ms']:.1f} CPU ms a row)",
        flush=True,
    )
    found = _apart(arguments, "guard")
    print(f"guard     {found['in_ms']:.1f} ms for {len(PROMPT)} characters on the way in, {found['out_ms']:.1f} ms on the way out")


def rows(arguments: argparse.Namespace) -> dict[str, float]:
    """The writer with texts that need no scrubbing, as fast as it takes them."""
    from fine_tune_pipeline.programs.serving import traffic_writer

    with tempfile.TemporaryDirectory() as folder:
        log = _log(Path(folder), arguments.url)
        writer = _writer(log, list)
        answered = [_answered(f"{number}") for number in range(arguments.rows)]
        begun, cpu = time.perf_counter(), time.process_time()
        for item in answered:
            while writer._waiting.qsize() >= traffic_writer.QUEUE_ROWS - 1:
                time.sleep(0.001)
            writer.put(item)
        writer.close(600)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        kept = len(log)
        return {"rows_per_second": kept / seconds, "cpu_us": cpu / arguments.rows * 1e6, "kept": kept}


def cost(arguments: argparse.Namespace) -> dict[str, float]:
    """Answers of a given weight with the log and without, in turns; and what a row costs with the real scrubber."""
    clean, texts = _scrubber(), _messages()
    with tempfile.TemporaryDirectory() as folder:
        writers = {"log": _writer(_log(Path(folder), None), list), "scrub": _writer(_log(Path(folder) / "scrubbed", None), clean)}
        found: dict[str, list[float]] = {name: [] for name in writers}
        for _ in range(PAIRS):
            for name, writer in writers.items():
                found[name].append(_answering(arguments.answer_ms, writer, texts))
        for writer in writers.values():
            writer.close(60)
    row, scrubbed = (sorted(found[name])[PAIRS // 2] for name in ("log", "scrub"))
    seconds = arguments.answer_ms / 1000
    return {"cost_share": row / seconds, "scrub_share": scrubbed / seconds, "row_us": row * 1e6, "scrub_ms": scrubbed * 1e3}


def guard(arguments: argparse.Namespace) -> dict[str, float]:
    """What `deployment.guard` adds to an answer's time."""
    from fine_tune_pipeline.artifacts.examples import Asked
    from fine_tune_pipeline.programs.serving.guard import Guard
    from fine_tune_pipeline.programs.serving.scrubbing_thread import Scrubber, ScrubbingThread
    from fine_tune_pipeline.spec.traffic import GuardSpec

    clean = _scrubber()
    guarding = Guard(GuardSpec(pii_in="mask", pii_out="mask"), scrubbing=ScrubbingThread(lambda: Scrubber("bench", clean)))

    async def timed() -> tuple[float, float]:
        ins, outs = [], []
        for number in range(GUARDED):
            text = f"{number} {PROMPT}"
            begun = time.perf_counter()
            await guarding.inward(Asked(text), "")
            ins.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            await guarding.outward(text, closed=False)
            outs.append(time.perf_counter() - begun)
        return sorted(ins)[GUARDED // 2] * 1e3, sorted(outs)[GUARDED // 2] * 1e3

    inward, outward = asyncio.run(timed())
    return {"in_ms": inward, "out_ms": outward}


def _answering(answer_ms: float, writer: Any, texts: list[str]) -> float:
    """CPU seconds for each row of all but this thread, which answers: it multiplies, as a model does, for `answer_ms` of CPU time each."""
    import torch

    torch.set_num_threads(1)
    state, weights = torch.ones(16, 640), torch.ones(640, 2048)
    begun = time.process_time() - time.thread_time()
    for number in range(ANSWERS):
        until = time.thread_time() + answer_ms / 1000
        while time.thread_time() < until:
            torch.mm(state, weights)
        writer.put(_answered(f"{time.time_ns()} {number}", random.choice(texts)))
    while writer._waiting.qsize() or writer._late:
        time.sleep(0.05)
    time.sleep(0.5)
    return (time.process_time() - time.thread_time() - begun) / ANSWERS


def _answered(request_id: str, text: str = PROMPT) -> Any:
    from fine_tune_pipeline.artifacts.examples import Asked
    from fine_tune_pipeline.artifacts.traffic import ServedRequest
    from fine_tune_pipeline.programs.serving.traffic_writer import Answered

    row = ServedRequest(
        id=request_id, ts=time.time(), use_case="bench", version="1", arm="champion", prompt_scrubbed=None, answer_scrubbed=None,
        prompt_tokens=40, new_tokens=4, latency_ms=300.0, status=200, valid=True, confidence=-0.1,
    )  # fmt: skip
    return Answered(row=replace(row), asked=Asked(f"{request_id} {text}"), answer="transaction_charged_twice", user="ann", closed=True)


def _writer(log: Any, clean: Any) -> Any:
    from fine_tune_pipeline.programs.serving.answer_count import FILE, AnswerCount
    from fine_tune_pipeline.programs.serving.traffic_writer import COMPANY_SECONDS, Scrubber, TrafficWriter

    folder = Path(tempfile.mkdtemp())
    writer = TrafficWriter(
        log, scrubber=lambda: Scrubber("bench", clean), salt=b"bench", count=AnswerCount(folder / FILE), company_seconds=COMPANY_SECONDS
    )
    writer.scrubbing.wait_until_ready()
    return writer


def _messages() -> list[str]:
    """Those that ship with the product."""
    lines = (ROOT / "fine_tune_pipeline/defs/support_triage/data/messages.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def _scrubber() -> Any:
    from fine_tune_pipeline.programs.pii.scrubbing import detector, one_thread, scrub_texts
    from fine_tune_pipeline.spec.dataset import PiiSpec

    found = detector(PiiSpec())
    scrub_texts([PROMPT], detector=found)
    one_thread()
    return lambda texts: scrub_texts(texts, detector=found)


def _log(folder: Path, url: str | None) -> Any:
    from fine_tune_pipeline.artifacts.traffic import TrafficLog
    from fine_tune_pipeline.spec.traffic import TrafficSpec

    folder.mkdir(exist_ok=True)
    if not url or url == "sqlite":
        return TrafficLog.at(folder, kept_open=True)
    return TrafficLog.of(TrafficSpec(url_variable="URL"), use_case="bench", folder=folder, kept_open=True, environment={"URL": url})


@contextmanager
def _url(store: str) -> Iterator[str | None]:
    from fine_tune_pipeline_tests.guide.dataset.postgres import BINARIES, postgres

    with (postgres() if BINARIES else nullcontext(None)) if store == "postgres" else nullcontext("sqlite") as url:
        yield url


def _apart(arguments: argparse.Namespace, way: str, *more: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--answer-ms", str(arguments.answer_ms), "--rows", str(arguments.rows), *more]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answer-ms", type=float, default=270.0)
    parser.add_argument("--rows", type=int, default=40_000, help="written as fast as the log takes them")
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser.parse_args()


WAYS = {"rows": rows, "cost": cost, "guard": guard}

if __name__ == "__main__":
    main()
