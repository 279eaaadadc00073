"""How fast and how exactly near duplicates are found: this project, and rensa where it is installed, on the same short texts.

    python bench/duplicates.py --texts <file.csv, column text> --count 100000

Without arguments the texts are the built-in use case's messages. More than there are, are made by exchanging, adding and dropping words:
copies of every distance. Each round is a process of its own, in turns, so that a busy machine is busy for all. CPU seconds count all
threads. A sample of rows is compared with every other row, shingle by shingle, which says which pairs there are. The last line is JSON.
"""

import argparse
import csv
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

Found = list[tuple[int, int]]

THRESHOLD = 0.7
CLEARLY_UNLIKE = 0.6
MESSAGES = Path(__file__).parents[1] / "fine_tune_pipeline" / "defs" / "support_triage" / "data" / "messages.jsonl"
VARIANTS = {
    "ours": "MinHash of arrays, then exact Jaccard",
    "rensa": "rensa's R-MinHash and LSH (128 permutations, 32 bands), shingles by Python, then the same exact Jaccard",
}


def base_texts(path: str | None) -> list[str]:
    if path is None:
        return [json.loads(line)["text"] for line in MESSAGES.read_text(encoding="utf-8").splitlines()]
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return [row["text"] for row in csv.DictReader(stream)]


def grown(texts: Sequence[str], count: int) -> list[str]:
    """The texts, and copies of them with 1, 2, 4 or as many changed words as they have."""
    draw = random.Random(0)
    words = [word for text in texts for word in text.split()]
    result = list(texts[:count])
    while len(result) < count:
        copy = draw.choice(texts).split() or ["?"]
        for _ in range(draw.choice((1, 2, 4, len(copy)))):
            place, kind = draw.randrange(len(copy)), draw.randrange(3)
            if kind == 0:
                copy[place] = draw.choice(words)
            elif kind == 1:
                copy.insert(place, draw.choice(words))
            elif len(copy) > 2:
                del copy[place]
        result.append(" ".join(copy))
    return result


def ours(texts: list[str]) -> Found:
    from fine_tune_pipeline.guide.dataset.likeness.duplicates import near_pairs

    pairs = near_pairs(texts, THRESHOLD)
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def rensa(texts: list[str]) -> Found:
    from rensa import RMinHash, RMinHashLSH

    from fine_tune_pipeline.guide.dataset.likeness.duplicates import plain_text, shingles
    from fine_tune_pipeline.guide.dataset.likeness.shingles import similarities

    hashed = RMinHash.from_token_sets([list(shingles(plain_text(text))) for text in texts], num_perm=128, seed=42)
    index = RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=32)
    index.insert_many(hashed)
    likely = [
        (place, other)
        for place, (one, others) in enumerate(zip(hashed, index.query_all(hashed), strict=True))
        for other in others
        if other > place and one.jaccard(hashed[other]) >= 0.5
    ]
    alike = similarities([plain_text(text) for text in texts], np.array(likely).reshape(-1, 2))
    return [pair for pair, similarity in zip(likely, alike, strict=True) if similarity >= THRESHOLD]


RUNS: dict[str, Callable[[list[str]], Found]] = {"ours": ours, "rensa": rensa}


def judged(texts: list[str], found: Found, sample: int) -> dict[str, float]:
    """Recall among the pairs of sampled rows, and how many of all found pairs are clearly unlike."""
    from fine_tune_pipeline.guide.dataset.likeness.duplicates import plain_text

    plain = [plain_text(text) for text in texts]
    sets = [{text[start : start + 5] for start in range(max(1, len(text) - 4))} for text in plain]
    index: dict[str, list[int]] = {}
    for place, pieces in enumerate(sets):
        for piece in pieces:
            index.setdefault(piece, []).append(place)
    sizes = np.array([len(pieces) for pieces in sets])
    arrays = {piece: np.array(places) for piece, places in index.items()}
    rows = random.Random(1).sample(range(len(texts)), min(sample, len(texts)))
    wanted = set()
    for row in rows:
        shared = np.bincount(np.concatenate([arrays[piece] for piece in sets[row]]), minlength=len(texts))
        alike = shared / (sizes + sizes[row] - shared)
        wanted |= {(min(row, other), max(row, other)) for other in np.flatnonzero(alike >= THRESHOLD).tolist() if other != row}
    unlike = sum(len(sets[a] & sets[b]) < CLEARLY_UNLIKE * len(sets[a] | sets[b]) for a, b in found)
    return {"pairs_looked_for": len(wanted), "recall": len(wanted.intersection(found)) / max(1, len(wanted)), "clearly_unlike": unlike}


def measure(options: argparse.Namespace) -> None:
    """Run in a process of its own: one variant, printed as JSON."""
    texts = grown(base_texts(options.texts), options.count)
    RUNS[options.variant](texts[:200])  # imports and tables
    start = time.process_time()
    found = RUNS[options.variant](texts)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    quality = judged(texts, found, options.sample) if options.sample else {}
    characters = sum(map(len, texts)) / len(texts)
    print(
        json.dumps(
            {"documents_per_cpu_second": len(texts) / seconds, "peak_bytes": peak, "pairs": len(found), "characters": characters, **quality}
        )
    )


def in_own_process(variant: str, options: argparse.Namespace, *, sample: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--variant", variant, "--count", str(options.count), "--sample", str(sample)]
    command += ["--texts", options.texts] if options.texts else []
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{variant} failed:\n{ended.stderr[-3000:]}")
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", help="CSV file with a column text; default: the built-in use case's messages")
    parser.add_argument("--count", type=int, default=20_000, help="how many texts; the rest is made of the given ones")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each variant, in turns")
    parser.add_argument("--sample", type=int, default=1000, help="rows that are compared with every other")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        measure(options)
        return
    variants = [variant for variant in VARIANTS if variant == "ours" or find_spec(variant)]
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for turn in range(options.rounds):
        for variant in variants:
            print(f"round {turn + 1}: {variant}", file=sys.stderr)
            found[variant].append(in_own_process(variant, options, sample=0 if turn else options.sample))
    summary = {}
    for variant, runs in found.items():
        rate = statistics.median(run["documents_per_cpu_second"] for run in runs)
        summary[variant] = {**runs[0], "documents_per_cpu_second": rate}
        first = runs[0]
        print(
            f"{variant:8}{rate:9,.0f} documents per CPU second  recall {first['recall']:.4f} of {first['pairs_looked_for']:,.0f}"
            f"  clearly unlike {first['clearly_unlike']:.0f} of {first['pairs']:,.0f}  {first['peak_bytes'] / 2**20:,.0f} MiB"
            f"   {VARIANTS[variant]}"
        )
    print(json.dumps({"count": options.count, "rounds": options.rounds, **summary}))


if __name__ == "__main__":
    main()
