"""How long step 3 takes and how much memory it needs, by the number of short rows.

    python bench/dataset_scale.py --rows 10000 100000 1000000

Every step is a process of its own, watched from outside: its memory is that of the process and of all that it started, together, at its
highest. Linear is a time per row that does not grow; CPU seconds also say so on a busy machine. The last line is JSON.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil
import yaml

STEPS = ("raw_examples", "clean_examples", "scrubbed_examples", "reviewed_examples", "dataset")
LABELS = ("card_lost", "transfer_late", "fee_unclear", "login_failed", "refund_wanted", "limit_raised", "address_changed", "account_closed")
OPENINGS = ("hello", "good morning", "please help", "hi there", "quick question", "to whom it may concern", "hey", "urgent")
WORDS = """
the to my i a is it not and for in of on was have with you this that from can be but do me what why how when your please
card account payment transfer money bank app balance fee code password order refund charge branch machine statement salary rent invoice
shop abroad currency weekend morning yesterday monday phone laptop screen message letter reason twice never again still without before
after since because limit change close open cancel confirm return receive expect wait lose find show explain update check block
address signature contract deposit interest loan mortgage insurance claim policy premium broker pension savings cheque cash coin note
envelope parcel courier delivery locker receipt voucher coupon discount subscription renewal upgrade downgrade tariff meter reading
electricity water heating boiler plumber repair warranty spare wheel engine brake garage ticket seat flight hotel luggage passport visa
customs border embassy passenger driver taxi station platform delay timetable refundable partial duplicate wrong missing broken damaged
frozen locked expired pending declined accepted rejected disputed reversed scheduled recurring monthly yearly quarterly weekly daily
camera battery charger cable router modem signal network roaming browser window button menu setting language keyboard printer scanner
doctor clinic pharmacy prescription appointment nurse surgery dentist glasses hearing vaccine allergy symptom diagnosis therapy
school teacher lesson exam grade library scholarship tuition campus lecture semester certificate diploma uniform lunch playground
kitchen oven fridge freezer dishwasher washing drying sofa mattress curtain carpet lamp shelf drawer wardrobe balcony garden fence
"""
NAMES = ("Margaret Oduya", "Tomas Lindqvist", "Priya Raman", "Hannah Berger", "Luis Ferreira", "Yuki Tanaka")
WATCH_SECONDS = 0.5


def rows(count: int) -> Iterator[dict[str, str]]:
    """Short messages of words as frequent as in a language (Zipf): one in twenty is said again, one in ten holds a name and a number."""
    draw, known = random.Random(0), WORDS.split()
    often = list(accumulate(1 / (rank + 3) for rank in range(len(known))))
    said = ""
    for number in range(count):
        if not said or draw.random() > 0.05:
            words = draw.choices(known, cum_weights=often, k=draw.randint(6, 16))
            said = " ".join([draw.choice(OPENINGS), *words, f"{draw.randrange(10**6):06}"])
        personal = f" regards {draw.choice(NAMES)}, 4111 1111 1111 1111" if draw.random() < 0.1 else ""
        yield {"text": said + personal, "label": LABELS[sum(map(ord, said)) % len(LABELS)], "id": f"m{number}"}


def use_case(folder: Path, count: int) -> Path:
    """A use case with so many rows."""
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows(count))
    attributes: dict[str, Any] = {
        "name": "scale",
        "objective": {
            "goal": "Route each message to the team that answers it within a day",
            "task": {"type": "classification", "labels": list(LABELS)},
            "success": [{"metric": "accuracy", "at_least": 0.6}],
        },
        "dataset": {
            "sources": [{"type": "jsonl", "path": "rows.jsonl", "prompt": "{{ text }}", "completion": "{{ label }}"}],
            "review": {"policy": "auto_accept"},
        },
    }
    path = folder / "defs.yaml"
    path.write_text(yaml.safe_dump({"type": "fine_tune_pipeline.use_case.FineTuneUseCase", "attributes": attributes}), encoding="utf-8")
    return path


def measured(step: str, folder: Path, definitions: Path) -> dict[str, float]:
    """Seconds, CPU seconds of the process and of all that it started, and MiB, of one step."""
    variables = {
        **os.environ,
        "DAGSTER_HOME": str(folder / "home"),
        "FINE_TUNE_PIPELINE_HOME": str(folder / "state"),
        "FINE_TUNE_PIPELINE_USE_CASES": str(definitions),
    }
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "fine_tune_pipeline.definitions"]
    started, before, peak = time.perf_counter(), _cpu_seconds(), 0
    with (folder / f"{step}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([*command, "--select", f'key:"scale/{step}"'], env=variables, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(WATCH_SECONDS)
    if process.returncode:
        sys.exit(f"{step} failed:\n{(folder / f'{step}.log').read_text(encoding='utf-8')[-3000:]}")
    seconds, cpu = time.perf_counter() - started, _cpu_seconds() - before
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "mib": round(peak / 2**20)}


def _cpu_seconds() -> float:
    """Of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> int:
    """Bytes of a process and all below it; pages that they share count once."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def main() -> None:
    """Measure every size, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000])
    found: dict[int, dict[str, dict[str, float]]] = {}
    for count in sorted(parser.parse_args().rows):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "home").mkdir()
            definitions = use_case(folder, count)
            found[count] = {}
            for step in STEPS:
                found[count][step] = now = measured(step, folder, definitions)
                per_row = 1e6 * now["cpu_seconds"] / count
                times = f"{now['seconds']:>8.1f} s  {now['cpu_seconds']:>8.1f} CPU s  {per_row:>6.0f} CPU µs a row"
                print(f"{count:>9,} rows  {step:<18} {times}  {now['mib']:>6,.0f} MiB", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
