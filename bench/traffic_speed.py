"""The traffic log: rows a second, and what it costs those who answer; side by side in one run, each way in a process of its own.

python bench/traffic_speed.py                     all, with a PostgreSQL server of its own if one is installed
python bench/traffic_speed.py --answer-ms 270     CPU milliseconds of one answer (Gemma 3 270M on two cores: 270 and more)
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the tests' PostgreSQL server

ANSWERS = 20
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
        writer = _writer(log, lambda text: text)
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
    clean = _scrubber()
    with tempfile.TemporaryDirectory() as folder:
        writer = _writer(_log(Path(folder), None), lambda text: text)
        scrubbing = _writer(_log(Path(folder) / "scrubbed", None), clean)
        ratios = {"log": [], "scrub": []}
        rows_cpu, scrub_cpu = 0.0, 0.0
        for _ in range(PAIRS):
            plain = _answering(arguments.answer_ms, None)
            logged = _answering(arguments.answer_ms, writer)
            scrubbed = _answering(arguments.answer_ms, scrubbing)
            ratios["log"].append(logged / plain - 1)
            ratios["scrub"].append(scrubbed / plain - 1)
            rows_cpu += logged - plain
            scrub_cpu += scrubbed - plain
        for each in (writer, scrubbing):
            each.close(60)
    middle = {name: sorted(found)[PAIRS // 2] for name, found in ratios.items()}
    return {
        "cost_share": middle["log"], "scrub_share": middle["scrub"],
        "row_us": rows_cpu / PAIRS / ANSWERS * 1e6, "scrub_ms": scrub_cpu / PAIRS / ANSWERS * 1e3,
    }  # fmt: skip


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


def _answering(answer_ms: float, writer: Any) -> float:
    """CPU seconds of this process for answers that each take `answer_ms` of it, and for the log beside them."""
    begun = time.process_time()
    for number in range(ANSWERS):
        until = time.thread_time() + answer_ms / 1000
        while time.thread_time() < until:
            sum(range(2000))
        if writer is not None:
            writer.put(_answered(f"{time.time_ns()} {number}"))
    while writer is not None and (writer._waiting.qsize() or writer._late):
        time.sleep(0.05)
    if writer is not None:
        time.sleep(0.5)
    return time.process_time() - begun


def _answered(request_id: str) -> Any:
    from fine_tune_pipeline.artifacts.examples import Asked
    from fine_tune_pipeline.artifacts.traffic import ServedRequest
    from fine_tune_pipeline.programs.serving.traffic_writer import Answered

    row = ServedRequest(
        id=request_id, ts=time.time(), use_case="bench", version="1", arm="champion", prompt_scrubbed=None, answer_scrubbed=None,
        prompt_tokens=40, new_tokens=4, latency_ms=300.0, status=200, valid=True, confidence=-0.1,
    )  # fmt: skip
    return Answered(row=replace(row), asked=Asked(f"{request_id} {PROMPT}"), answer="transaction_charged_twice", user="ann", closed=True)


def _writer(log: Any, clean: Any) -> Any:
    from fine_tune_pipeline.programs.serving.answer_count import FILE, AnswerCount
    from fine_tune_pipeline.programs.serving.traffic_writer import Scrubber, TrafficWriter

    folder = Path(tempfile.mkdtemp())
    writer = TrafficWriter(log, scrubber=lambda: Scrubber("bench", clean), salt=b"bench", count=AnswerCount(folder / FILE))
    writer.scrubbing.wait_until_ready()
    return writer


def _scrubber() -> Any:
    from fine_tune_pipeline.programs.pii.scrubbing import detector, scrub_text
    from fine_tune_pipeline.spec.dataset import PiiSpec

    found = detector(PiiSpec())
    scrub_text(PROMPT, detector=found)
    return lambda text: scrub_text(text, detector=found)


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
