"""Benchmark files as texts, read as sources are."""

from collections.abc import Sequence
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.quarantine import Quarantined
from fine_tune_pipeline.guide.dataset.likeness.contamination import Benchmark
from fine_tune_pipeline.guide.dataset.sources.collect import collect
from fine_tune_pipeline.guide.dataset.sources.opened import Opened, opened
from fine_tune_pipeline.spec.use_case import UseCaseSpec


class NoBenchmarkTexts(ValueError):
    """Not one row of a benchmark gave a text: it would be said to be clean of what was never looked for."""


def opened_benchmarks(spec: UseCaseSpec) -> list[Opened]:
    """Look at the benchmark files of a use case.

    Raises:
        MissingSource, UnreadableSource: names the field and the file.
    """
    return [
        opened(benchmark.source(), locate=spec.place, field=f"dataset.benchmarks[{number}]")
        for number, benchmark in enumerate(spec.dataset.benchmarks)
    ]


def what(benchmarks: Sequence[Opened]) -> dict[str, Any]:
    """What of them decides the dataset: their content and the template of their text, never a path."""
    slices = [{"sha256": one.sha256, "text": one.source.prompt, "name": one.name} for one in benchmarks]
    return {"dataset.benchmarks": slices} if slices else {}


def read_benchmark(benchmark: Opened) -> Benchmark:
    """The texts of a benchmark; a row that cannot be read is counted.

    Raises:
        NoBenchmarkTexts, NoExamples, BrokenTemplate, EmptySource: names the field.
    """
    examples: list[Example] = []
    unreadable: list[Quarantined] = []
    rows = collect(benchmark, held_out=True, seed=0, keep=examples.append, refuse=unreadable.append)
    named = [(example.id, example.prompt) for example in examples if example.prompt.strip()]
    if not named:
        raise NoBenchmarkTexts(f"{benchmark.place}: none of {rows.rows} rows gave a text: every text is empty; see `text`")
    return Benchmark(
        name=benchmark.name, texts=[text for _, text in named], rows=[id_ for id_, _ in named], unreadable=rows.rows - len(named)
    )
