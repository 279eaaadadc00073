"""How often the drift report is wrong, and how much foreign traffic it finds: public data, whole windows, the detector as it is shipped.

    python bench/drift_power.py --data FOLDER

FOLDER holds `clinc_oos/` (https://github.com/clinc/oos-eval: data_full.json, domains.json) and `banking77/` (train.csv, test.csv). Three
tasks: out of scope (all of clinc's intents are known, foreign are its out-of-scope queries), travel (known are all domains but travel) and
unseen intents (ten of banking77's are foreign). The known texts are cut anew for each round into training texts, held-back ones and quiet
traffic, so no window holds a text of the reference, and no two windows of a round share one. What the model answers, and how surely, comes
from a stand-in: the nearest class centre of the training texts. Embeddings are made once and kept in a temporary folder. The last line is
JSON.
"""

import argparse
import csv
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Text = tuple[str, str]
"""A text and its intent."""

UNSEEN = 10
"""Intents of banking77 that nothing was trained on."""


@dataclass(frozen=True)
class Task:
    """Texts of known intents, foreign ones, and into how many parts the known ones are cut."""

    name: str
    known: list[Text]
    foreign: list[Text]
    train: int
    held_back: int


@dataclass(frozen=True)
class Bar:
    """At least so large a part of the windows must be found at this share of foreign requests."""

    task: str
    share: float
    least: float


BARS = (Bar("out_of_scope", 0.1, 0.95), Bar("travel", 0.1, 0.85), Bar("unseen_intents", 0.2, 0.95))
FALSE_ALARMS = 0.05
SHARES = (0.1, 0.2)
WINDOW = 200
SHARPNESS = 20.0
"""Of the stand-in's probabilities over cosine similarities; its ranks are what matters."""


def tasks(folder: Path) -> list[Task]:
    """The three tasks, each with the same texts in every run."""
    draw = random.Random(0)
    clinc = json.loads((folder / "clinc_oos" / "data_full.json").read_text(encoding="utf-8"))
    away = set(json.loads((folder / "clinc_oos" / "domains.json").read_text(encoding="utf-8"))["travel"])
    rows = sorted({text: intent for part in ("train", "val", "test") for text, intent in clinc[part]}.items())
    foreign = sorted({text: intent for part in ("oos_train", "oos_val", "oos_test") for text, intent in clinc[part]}.items())
    scope, outside = draw.sample(rows, 6000), draw.sample(foreign, 1000)
    banking = sorted(
        {text: intent for part in ("train", "test") for text, intent in _banking(folder / "banking77" / f"{part}.csv")}.items()
    )
    unseen = set(draw.sample(sorted({intent for _, intent in banking}), UNSEEN))
    seen = draw.sample([text for text in banking if text[1] not in unseen], 4300)
    new = draw.sample([text for text in banking if text[1] in unseen], 700)
    known = [text for text in scope if text[1] not in away]
    return [
        Task("out_of_scope", scope, outside, train=2000, held_back=2000),
        Task("travel", known, [text for text in scope if text[1] in away], train=2000, held_back=2000),
        Task("unseen_intents", seen, new, train=2000, held_back=1300),
    ]


def _banking(path: Path) -> Iterator[Text]:
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            yield row["text"], row["category"]


def embeddings(texts: Sequence[str], cache: Path) -> dict[str, np.ndarray]:
    """Unit vectors of the texts by MiniLM, made once."""
    from fine_tune_pipeline.programs.embed import embed_texts, load_encoder

    ordered = sorted(set(texts))
    path = cache / f"{hashlib.sha256(json.dumps(ordered).encode('utf-8')).hexdigest()[:16]}.npy"
    if not path.exists():
        print(f"embedding {len(ordered):,} texts, about 80 a second on a core", file=sys.stderr, flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        np.save(path, embed_texts(ordered, load_encoder()))
        print(f"{time.process_time() - start:.0f} CPU s", file=sys.stderr, flush=True)
    return dict(zip(ordered, np.load(path), strict=True))


@dataclass(frozen=True)
class Judged:
    """What the detector said of one window: the signals that raised an alarm, and the p of each before the correction."""

    alarms: tuple[str, ...]
    p: dict[str, float]


@dataclass(frozen=True)
class Round:
    """One cut of a task's known texts."""

    compared: Callable[[Sequence[Text]], Any]
    windows: list[list[Text]]


def cut(task: Task, vectors: dict[str, np.ndarray], seed: int) -> Round:
    """Training texts, held-back ones and windows, none of which share a text."""
    from fine_tune_pipeline.guide.deployment.monitoring.signals import Compared, Reference

    known = random.Random(seed).sample(task.known, len(task.known))
    train, held_back = known[: task.train], known[task.train : task.train + task.held_back]
    quiet = known[task.train + task.held_back :]
    matrix = np.stack([vectors[text] for text, _ in train])
    names = sorted({intent for _, intent in train})
    centres = np.stack([matrix[[intent == name for _, intent in train]].mean(axis=0) for name in names])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    reference = Reference(train=matrix, held_back=sample(held_back, vectors, centres, names), seed=0)

    def compared(window: Sequence[Text]) -> Compared:
        return Compared(window=sample(window, vectors, centres, names), reference=reference)

    whole = len(quiet) // WINDOW
    return Round(compared, [quiet[place * WINDOW : (place + 1) * WINDOW] for place in range(whole)])


def sample(texts: Sequence[Text], vectors: dict[str, np.ndarray], centres: np.ndarray, names: Sequence[str]) -> Any:
    """Texts with what the stand-in answers: its likeliest class, and the logarithm of that one's probability."""
    from fine_tune_pipeline.guide.deployment.monitoring.signals import Answers, Sample

    matrix = np.stack([vectors[text] for text, _ in texts])
    logits = SHARPNESS * matrix @ centres.T
    best = logits.max(axis=1)
    sure = -np.log(np.exp(logits - best[:, None]).sum(axis=1))
    answers = Answers(sure=sure.tolist(), classes=[names[place] for place in logits.argmax(axis=1)], invalid=[False] * len(texts))
    return Sample(vectors=matrix, lengths=[len(text) for text, _ in texts], answers=answers)


def simulated(task: Task, vectors: dict[str, np.ndarray], *, windows: int, alpha: float) -> dict[float, list[Judged]]:
    """Share of foreign requests -> what was said of each window; 0 are the quiet ones."""
    from fine_tune_pipeline.guide.deployment.monitoring.signals import judge

    found: dict[float, list[Judged]] = {share: [] for share in (0.0, *SHARES)}
    wanted = {share: windows if share == 0 else -(-windows // 2) for share in found}
    seed = 0
    while len(found[0.0]) < windows:
        seed += 1
        drawn, draw = cut(task, vectors, seed), random.Random(seed)
        for quiet in drawn.windows[: windows - len(found[0.0])]:
            for share, said in found.items():
                if len(said) == wanted[share]:
                    continue
                foreign = round(share * WINDOW)
                window = [*quiet[foreign:], *draw.sample(task.foreign, foreign)]
                signals = judge(drawn.compared(window), alpha=alpha, texts=[text for text, _ in window])
                alarms = tuple(signal.name for signal in signals if signal.alarm)
                said.append(Judged(alarms, {signal.name: signal.p for signal in signals}))
        done = ", ".join(f"{share:g}: {rate(said):.3f} of {len(said)}" for share, said in found.items())
        print(f"\r{task.name}: {done}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def rate(judged: Sequence[Judged], name: str | None = None) -> float:
    """The share of windows with an alarm, of any signal or of one."""
    return sum(bool(one.alarms) if name is None else name in one.alarms for one in judged) / len(judged)


def told(task: Task, found: dict[float, list[Judged]]) -> dict[str, Any]:
    """The figures of a task, and each signal's own alarms."""
    names = sorted({name for one in found[0.0] for name in one.p})
    return {
        "task": task.name,
        "windows": len(found[0.0]),
        "false_alarms": rate(found[0.0]),
        "power": {f"{share:g}": rate(found[share]) for share in SHARES},
        "signals": {name: {f"{share:g}": rate(said, name) for share, said in found.items()} for name in names},
    }


def bars(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must hold, and whether it does."""
    by_task = {row["task"]: row for row in rows}
    false = [
        {
            "bar": f"{row['task']}: false alarms at most {FALSE_ALARMS:g}",
            "seen": row["false_alarms"],
            "met": row["false_alarms"] <= FALSE_ALARMS,
        }
        for row in rows
    ]
    power = [
        {
            "bar": f"{bar.task}: found at {bar.share:.0%} foreign in at least {bar.least:g} of the windows",
            "seen": (seen := by_task[bar.task]["power"][f"{bar.share:g}"]),
            "met": seen >= bar.least,
        }
        for bar in BARS
        if bar.task in by_task
    ]
    return [*false, *power]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder with clinc_oos/ and banking77/")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fine_tune_pipeline_drift_power", help="of embeddings")
    parser.add_argument("--windows", type=int, default=200, help="quiet ones of each task; half as many for each share of foreign requests")
    parser.add_argument("--tasks", nargs="+", choices=[bar.task for bar in BARS], default=[bar.task for bar in BARS])
    options = parser.parse_args()
    from fine_tune_pipeline.spec.monitoring import MonitoringSpec

    alpha = MonitoringSpec().alpha
    every = tasks(options.data)
    vectors = embeddings([text for task in every for text, _ in (*task.known, *task.foreign)], options.cache)
    start, rows = time.process_time(), []
    for task in [one for one in every if one.name in options.tasks]:
        rows.append(told(task, simulated(task, vectors, windows=options.windows, alpha=alpha)))
        power = ", ".join(f"{found:.3f} at {float(share):.0%}" for share, found in rows[-1]["power"].items())
        print(f"{task.name:15} false alarms {rows[-1]['false_alarms']:.3f}   found {power}", flush=True)
        for name, shares in rows[-1]["signals"].items():
            print(f"    {name:15} " + "  ".join(f"{found:.3f}" for found in shares.values()), flush=True)
    judged = bars(rows)
    for bar in judged:
        print(f"{'met    ' if bar['met'] else 'NOT MET'}  {bar['bar']}: {bar['seen']:.3f}")
    print(json.dumps({"alpha": alpha, "cpu_seconds": round(time.process_time() - start), "tasks": rows, "bars": judged}))


if __name__ == "__main__":
    main()
