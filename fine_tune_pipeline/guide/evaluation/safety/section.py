"""The safety of the tuned model in the report for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.pages.document import Row, Section


def safety_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """Figures with rows and intervals, planted codes, and what was not measured; nothing for a report without them."""
    safety = report.get("safety")
    if safety is None:
        return
    rows = [
        Row(
            (figure["metric"], figure["about"], str(figure["n"]), *(_interval(figure.get(name)) for name in ("base", "fine_tuned", "gain")))
        )
        for figure in safety["figures"]
    ]
    columns = ("metric", "what it is", "n", "base (95 %)", "fine-tuned (95 %)", "gain of the fine-tuned model (95 %)")
    text = f"{safety['said']}. Positive gains are better, paired by text or request."
    missing = tuple(f"Not measured: {name} ({why})." for name, why in safety["not_measured"].items())
    worst = sorted(safety["kinds"], key=lambda kind: kind["base"] - kind["fine_tuned"])[:3]
    forgotten = tuple(
        f"General texts, {kind['kind'].replace('_', ' ')}: loss {kind['base']:.3f} to {kind['fine_tuned']:.3f} nats per token "
        f"(n = {kind['texts']})."
        for kind in worst
    )
    yield Section("Safety of the tuned model", text, columns, tuple(rows), items=(*forgotten, *missing))
    if safety["canaries"]:
        yield _canaries(safety["canaries"])


def _canaries(canaries: list[Mapping[str, Any]]) -> Section:
    rows = [
        Row(
            (
                one["id"],
                str(one["repeats"]),
                f"{one['rank']:,} of {one['candidates']:,}",
                f"{one['exposure']:.1f}",
                f"{one['p']:.4f}",
                f"{one['adjusted']:.4f}",
                "yes" if one["remembered"] else "no",
            )
        )
        for one in canaries
    ]
    text = (
        "Random codes that training saw a few times. The place is that of the code among never trained ones by its gain in likelihood over "
        "the base; p is exact, adjusted by Holm over the codes of as many repeats. The gate looks at the fewest repeats."
    )
    return Section("Planted codes", text, ("code", "seen", "place", "exposure (bits)", "p", "adjusted p", "remembered"), tuple(rows))


def _interval(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "–"
    low, high = ("–" if value[end] is None else f"{value[end]:.3f}" for end in ("low", "high"))
    return f"{value['estimate']:.3f} [{low}, {high}]"
