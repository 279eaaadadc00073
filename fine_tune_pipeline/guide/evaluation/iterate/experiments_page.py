"""All experiments of a use case on one page: for the browser, for the web UI, and for a terminal."""

from collections.abc import Sequence

from fine_tune_pipeline.guide.evaluation.iterate.compared import Experiment, History
from fine_tune_pipeline.pages.charts import Bar, bar_chart
from fine_tune_pipeline.pages.document import Page, Row, Section, html
from fine_tune_pipeline.pages.document import markdown as page_markdown

COLUMNS = (
    "",
    "made",
    "what changed",
    "metric (95 %)",
    "objective",
    "gain on the one before (95 %)",
    "decision",
    "training minutes",
    "1,000 answers",
)
SHOWN_CHANGES = 6


def html_page(use_case: str, found: History) -> str:
    """A page that needs nothing beside it."""
    return html(_page(use_case, found))


def markdown(use_case: str, found: History) -> str:
    """The page as Markdown."""
    return page_markdown(_page(use_case, found))


def table_rows(found: History) -> list[dict[str, str]]:
    """The same as a table of the web UI, the newest first."""
    return [
        {name or "number": cell for name, cell in zip(COLUMNS, _cells(number, one), strict=True)}
        for number, one in reversed(list(enumerate(found.experiments, 1)))
    ]


def _page(use_case: str, found: History) -> Page:
    shown = found.experiments
    table = tuple(Row(_cells(number, one), one.objective) for number, one in enumerate(shown, 1))
    text = (
        "Oldest first; › is the one in use. A gain is paired by test row, against the experiment before, and said only where both judged "
        "the same rows by the same metric. An interval that holds 0 shows no difference."
    )
    notes = (
        "Who picks the best of many on the same rows picks luck too: looks at the test rows are counted and share the level.",
        "What changed is what the fingerprints hash: settings, files and rules; not where or how fast it ran.",
        *(f"Cannot be read, and is left out: {one}" for one in found.unread),
    )
    return Page(
        title=f"{use_case}: {len(shown)} experiment{'s' * (len(shown) != 1)}",
        advice=_last(shown[-1]) if shown else "",
        about="",
        sections=(Section("Experiments", text, COLUMNS, table, charts=_charts(shown)), Section("How to read this", items=notes)),
    )


def _charts(found: Sequence[Experiment]) -> tuple[str, ...]:
    """A chart for each metric, since two have no common scale."""
    charts = []
    for metric in dict.fromkeys(one.metric for one in found):
        bars = [
            Bar(f"{number}  {one.fingerprint[:8]}", one.estimate, _or(one.low, one), _or(one.high, one), own=one.current)
            for number, one in enumerate(found, 1)
            if one.metric == metric
        ]
        title = f"{metric} of the fine-tuned model with 95 % intervals"
        charts.append(bar_chart(bars, title=title, top=max(1.0, *(bar.high for bar in bars))))
    return tuple(charts)


def _or(value: float | None, one: Experiment) -> float:
    return one.estimate if value is None else value


def _last(one: Experiment) -> str:
    if one.gain is None:
        return f"The last one: {one.metric} {_figure(one.estimate, one.low, one.high)}, n = {one.n}; {one.not_compared}."
    said = "is better" if one.gain.low > 0 else "is worse" if one.gain.high < 0 else "shows no difference"
    return (
        f"The last one {said}: {one.metric} changed by {_figure(one.gain.estimate, one.gain.low, one.gain.high)} on {one.gain.n} rows "
        f"({'; '.join(one.changed) or 'nothing that is hashed changed'})."
    )


def _cells(number: int, one: Experiment) -> tuple[str, ...]:
    changed = [*one.changed[:SHOWN_CHANGES], *([f"{len(one.changed) - SHOWN_CHANGES} more"] if len(one.changed) > SHOWN_CHANGES else [])]
    gain = one.not_compared if one.gain is None else f"{_figure(one.gain.estimate, one.gain.low, one.gain.high)}, n = {one.gain.n}"
    return (
        f"{number}{' ›' if one.current else ''} {one.fingerprint[:8]}",
        one.made_at[:16].replace("T", " "),
        "; ".join(changed) or "–",
        f"{one.metric} {_figure(one.estimate, one.low, one.high)}, n = {one.n}",
        one.objective,
        gain,
        one.decision,
        f"{one.training_minutes:g}",
        _cost(one),
    )


def _cost(one: Experiment) -> str:
    """What 1,000 answers take: seconds, measured once, and money where a price is known."""
    seconds, money = one.costs.get("seconds per 1,000"), one.costs.get("cost_per_1000")
    said = [f"{seconds:g} s"] if seconds is not None else []
    return ", ".join([*said, *([f"{money:.3g} {one.costs.get('currency')}"] if money is not None else [])]) or "–"


def _figure(estimate: float, low: float | None, high: float | None) -> str:
    ends = ("–" if end is None else f"{end:.3f}" for end in (low, high))
    return f"{estimate:.3f} [{', '.join(ends)}]"
