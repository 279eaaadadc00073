"""How fast personal data is found: the fast analyzer or the whole detector, and stock Presidio, on the same texts, in turns.

    python bench/pii_speed.py                    # ratios of CPU seconds; every round has texts of its own, so that nothing is remembered
    python bench/pii_speed.py --equal 60000      # equal findings on all shared texts and so many hostile ones (an hour)

Shared texts are read from `FINE_TUNE_PIPELINE_TEST_DATA` (`shared/data`). Every measurement is a process of its own with one thread.
"stock" calls `AnalyzerEngine.analyze` text by text; "batch" is `BatchAnalyzerEngine` with 64 texts at once. In the mode "product" ours is
all that a use case with the default settings runs: analyzer, NER, our own rules, merging; there "ceiling" is stock against the NER alone,
run as it is here. Elsewhere both sides have the same parts. "differ": texts where the analyzer's findings are not stock's. Last line: JSON.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

MODES = ("patterns", "patterns_without_hyperscan", "model", "model_default_entities", "product", "product_without_hyperscan")
BARS = {
    ("patterns", "mix_20_percent_pii"): 8.0,
    ("patterns", "pii_dense"): 3.5,
    ("model", "bank_questions"): 5.0,
    ("model", "earnings_calls"): 3.0,
    ("product", "pii_dense"): 5.0,
    ("product", "bank_questions"): 5.0,
    ("product", "earnings_calls"): 3.0,
}


def text_sets(rounds: int, size: int) -> dict[str, list[list[str]]]:
    """Name -> the texts of each round."""
    from fine_tune_pipeline_tests.programs.pii.analyzers import shared_texts

    by_name: dict[str, list[str]] = {}
    for name, text in shared_texts():
        by_name.setdefault(name, []).append(text)
    draw = random.Random(0)
    for texts in by_name.values():
        draw.shuffle(texts)
    dense, bank, calls = by_name["pii_dev.jsonl"], by_name["banking77/test.csv"], by_name["earnings21/dev.jsonl"]
    few = size // 5
    return {
        "pii_dense": [dense[turn * size : (turn + 1) * size] for turn in range(rounds)],
        "mix_20_percent_pii": [
            dense[-(turn + 1) * few : len(dense) - turn * few] + bank[turn * 4 * few : (turn + 1) * 4 * few] for turn in range(rounds)
        ],
        "bank_questions": [bank[turn * size : (turn + 1) * size] for turn in range(rounds)],
        "earnings_calls": [calls[turn * few : (turn + 1) * few] for turn in range(rounds)],
    }


def analyzers(mode: str) -> tuple[Any, Any]:
    """The fast one and the stock one."""
    from fine_tune_pipeline.programs.pii import pattern_filter, scrubbing
    from fine_tune_pipeline.programs.pii.fast_analyzer import FastAnalyzer
    from fine_tune_pipeline_tests.programs.pii.analyzers import pattern_engine

    if mode.endswith("without_hyperscan"):
        pattern_filter.hyperscan = None
    if mode.startswith("patterns"):
        stock = pattern_engine()
        return FastAnalyzer(stock), stock
    return scrubbing._engine(), scrubbing.stock_engine()


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def measure(mode: str, rounds: int, size: int) -> None:
    """Run in a process of its own: one mode, printed as JSON."""
    from presidio_analyzer import BatchAnalyzerEngine

    from fine_tune_pipeline.programs.pii.scrubbing import detector
    from fine_tune_pipeline.spec.dataset import PiiSpec
    from fine_tune_pipeline_tests.programs.pii.analyzers import findings

    fast, stock = analyzers(mode)
    options: dict[str, Any] = {"language": "en", "score_threshold": 0.4}
    if mode == "model_default_entities" or mode.startswith("product"):
        options["entities"] = [entity for entity in PiiSpec().entities if entity != "SECRET"]
    ours = detector(PiiSpec()) if mode.startswith("product") else lambda texts: fast.analyze_iterator(texts, **options)
    warm = "warm a@example.com 312-867-5309 Julia Fischer"
    ours([warm])
    stock.analyze(warm, **options)
    found = {}
    for name, turns in text_sets(rounds, size).items():
        times, differ = [], 0
        for texts in turns:
            quick, _ = seconds(lambda texts=texts: ours(texts))
            slow, theirs = seconds(lambda texts=texts: [stock.analyze(text, **options) for text in texts])
            batch, _ = seconds(lambda texts=texts: BatchAnalyzerEngine(stock).analyze_iterator(texts, batch_size=64, **options))
            ner = seconds(lambda texts=texts: ner_alone(fast, texts))[0] if mode.startswith("product") else quick
            times.append((quick, slow, batch, ner))
            differ += sum(
                findings(one) != findings(other) for one, other in zip(fast.analyze_iterator(texts, **options), theirs, strict=True)
            )
        ratios = [slow / quick for quick, slow, _, _ in times]
        found[name] = {
            "ratio": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
            "ratio_to_batch": round(statistics.median(batch / quick for quick, _, batch, _ in times), 2),
            "ceiling": round(statistics.median(slow / ner for _, slow, _, ner in times), 2),
            "texts_per_cpu_second": round(len(turns[-1]) / times[-1][0]),
            "differ": differ,
        }
    print(json.dumps(found))


def ner_alone(fast: Any, texts: Sequence[str]) -> None:
    """The model's entities in these texts as if no sentence began inside of one, and nothing else."""
    from fine_tune_pipeline.programs.pii.some_pipes import Reading, stepped

    nlp = fast.nlp_engine.get_nlp("en")
    stepped(nlp, [Reading(text, nlp).doc for text in texts], wanted=frozenset())


def equal(mode: str, count: int, seed: int) -> None:
    """Run in a process of its own: texts whose findings differ, all shared ones and so many hostile ones."""
    from fine_tune_pipeline_tests.programs.pii.analyzers import DATA, findings, shared_texts
    from fine_tune_pipeline_tests.programs.pii.hostile_texts import hostile_texts

    fast, stock = analyzers(mode)
    sets = {"hostile": list(hostile_texts(count, seed=seed))}
    for name, text in shared_texts() if DATA.exists() else ():
        sets.setdefault(name, []).append(text)
    found = {}
    for name, texts in sets.items():
        ours = fast.analyze_iterator(texts, language="en")
        differ = [text for text, one in zip(texts, ours, strict=True) if findings(one) != findings(stock.analyze(text, language="en"))]
        found[name] = {"texts": len(texts), "differ": len(differ), "first": differ[:3]}
        print(f"{mode} {name}: {len(differ)} of {len(texts)} differ", file=sys.stderr)
    print(json.dumps(found))


def in_own_process(*arguments: str) -> Any:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    ended = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, env=os.environ | threads, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(arguments)} failed")
    return json.loads(ended.stdout.splitlines()[-1])


def report(found: dict[str, dict[str, dict[str, float]]]) -> None:
    for mode, sets in found.items():
        for name, each in sets.items():
            bar = BARS.get((mode, name))
            ceiling = f", ceiling {each['ceiling']:.1f}" if mode.startswith("product") else ""
            wanted = "" if bar is None else f"   bar {bar:g}: {'met' if each['ratio'] >= bar else 'MISSED'}"
            print(
                f"{mode:28}{name:20}{each['ratio']:7.1f} x stock ({each['lowest']:.1f} to {each['highest']:.1f})"
                f"{each['ratio_to_batch']:6.1f} x batch"
                f"{ceiling}"
                f"{each['texts_per_cpu_second']:8.0f} texts per CPU second, {each['differ']:.0f} differ{wanted}"
            )


def chosen(options: argparse.Namespace) -> Sequence[str]:
    return [options.only] if options.only else MODES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with texts of its own")
    parser.add_argument("--size", type=int, default=300, help="texts of a round; a fifth of it for long ones")
    parser.add_argument("--equal", type=int, help="compare findings instead, on all shared texts and so many hostile ones")
    parser.add_argument("--seed", type=int, default=0, help="of the hostile texts")
    parser.add_argument("--only", choices=MODES)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode and options.equal is not None:
        equal(options.mode, options.equal, options.seed)
    elif options.mode:
        measure(options.mode, options.rounds, options.size)
    elif options.equal is not None:
        found = {
            mode: in_own_process("--mode", mode, "--equal", str(options.equal), "--seed", str(options.seed)) for mode in chosen(options)
        }
        print(json.dumps(found))
        sys.exit(any(each["differ"] for sets in found.values() for each in sets.values()))
    elif not Path(os.environ.get("FINE_TUNE_PIPELINE_TEST_DATA", "shared/data")).exists():
        print("personal data: no shared texts to measure on; set FINE_TUNE_PIPELINE_TEST_DATA")
    else:
        found = {
            mode: in_own_process("--mode", mode, "--rounds", str(options.rounds), "--size", str(options.size)) for mode in chosen(options)
        }
        report(found)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
