"""The drift report for people: Markdown and pictures for the web UI, and one HTML page that needs nothing beside it."""

import math
from collections.abc import Mapping

from fine_tune_pipeline.guide.deployment.monitoring.report import DriftReport, Judged
from fine_tune_pipeline.guide.deployment.monitoring.windows import time_text
from fine_tune_pipeline.pages.coordinates import markdown_image
from fine_tune_pipeline.pages.document import Page, Row, Section, html
from fine_tune_pipeline.pages.document import markdown as page_markdown
from fine_tune_pipeline.pages.timelines import Level, Series, levels, timeline

SHOWN_WINDOWS = 60
SHOWN_CHARACTERS = 200

ADVICE = {
    "retrain": "production holds what the model was not made for: have such requests reviewed, and train it again",
    "look": "the mix of requests or answers has moved: look at the examples; if the model knows their kind, it need not be trained again",
    "roll back": "answers have become unusable more often: if that began with a version, go back to the one before",
}
"""What to do, by what a signal's alarm calls for."""


def markdown(report: DriftReport) -> str:
    """The report as Markdown, without its pictures."""
    return page_markdown(_page(report, drawn={}))


def html_page(report: DriftReport) -> str:
    """The report as a page of its own."""
    return html(_page(report, drawn=drawings(report)))


def pictures(report: DriftReport) -> dict[str, str]:
    """The pictures as Markdown, by what they show."""
    return {name: markdown_image(svg, title=TITLES[name]) for name, svg in drawings(report).items()}


TITLES = {
    "signals_plot": "How strong the evidence of each signal is",
    "windows_plot": "Share of far requests, window by window",
    "feedback_plot": "Evidence that answers have become worse, label by label",
}


def drawings(report: DriftReport) -> dict[str, str]:
    """SVG by what it shows, of what there is something to show."""
    drawn = {"signals_plot": _signals_plot(report), "windows_plot": _windows_plot(report), "feedback_plot": _feedback_plot(report)}
    return {name: svg for name, svg in drawn.items() if svg}


def alarms_told(report: DriftReport) -> str:
    """Each signal that raised an alarm, or, where none did, all of them: p after Holm, and the effect."""
    told = [signal for signal in report.signals if signal.alarm] or ([] if report.feedback_alarm else report.signals)
    said = [f"{signal.name}: p {signal.adjusted:.3g} (Holm), {signal.effect_means}" for signal in told]
    return "; ".join([*said, *([_feedback_told(report)] if report.feedback_alarm else [])]) + f"; alpha {report.alpha:g}"


def _page(report: DriftReport, *, drawn: Mapping[str, str]) -> Page:
    calls = list(dict.fromkeys([signal.calls_for for signal in report.signals if signal.alarm] + ["retrain"] * report.feedback_alarm))
    advice = "; ".join(ADVICE[call] for call in calls)
    champion = report.champion or "no champion"
    about = (
        f"{report.requests} answered requests to {champion} in the last closed window; {report.waiting} wait for the next, which closes at "
        f"{report.window}. Held against dataset {report.dataset}, predictions {report.predictions}, "
        f"encoder {(report.encoder_sha256 or 'none')[:12]}."
    )
    sections = [_signals(report, drawn), *_examples(report), _feedback(report, drawn), _operations(report), _windows(report, drawn)]
    return Page(title=report.verdict[:1].upper() + report.verdict[1:], advice=advice, about=about, sections=sections)


def _signals(report: DriftReport, drawn: Mapping[str, str]) -> Section:
    if not report.signals:
        return Section("Signals", f"At least {report.minimum_requests} answered requests in a window are needed for a verdict.")
    rows = tuple(
        Row(
            (
                signal.name,
                f"{signal.p:.3g}",
                f"{signal.adjusted:.3g}",
                signal.effect_means,
                "alarm" if signal.alarm else "quiet",
                f"{signal.production:,}",
                f"{signal.reference:,}",
                signal.calls_for,
                signal.asks,
            ),
            "not met" if signal.alarm else "",
        )
        for signal in report.signals
    )
    columns = ("signal", "p", "p after Holm", "effect", "verdict", "requests", "reference", "an alarm calls for", "asks")
    text = f"The chance that any of them raises a false alarm is at most {report.alpha:g} a window, however they depend."
    return Section("Signals", text, columns, rows, charts=_chart(drawn, "signals_plot"))


def _examples(report: DriftReport) -> list[Section]:
    """The requests that speak loudest; of quiet signals too, since they show what the test looks at."""
    found = [signal for signal in report.signals if signal.examples]
    return [
        Section(f"Loudest requests: {signal.name}", items=tuple(_one_line(text) for text in signal.examples), folded=not signal.alarm)
        for signal in sorted(found, key=lambda signal: not signal.alarm)
    ]


def _feedback(report: DriftReport, drawn: Mapping[str, str]) -> Section:
    if report.feedback is None:
        return Section("Feedback", "No labels on the champion's answers yet, or nothing that says how many should be good.")
    return Section("Feedback", _feedback_told(report), charts=_chart(drawn, "feedback_plot"))


def _feedback_told(report: DriftReport) -> str:
    found = report.feedback
    assert found is not None
    said = (
        f"{found.good} of {found.labels} labelled answers are good, expected are at least {found.expected:.1%}; p {found.p:.3g} at any look"
    )
    return f"{said}, alarm at {found.alpha:g}; of the last {found.labels - found.since} labels {found.recent:.1%} are good"


def _operations(report: DriftReport) -> Section:
    rows = tuple(
        Row(
            (
                measure.name,
                "not known" if measure.value is None else f"{measure.value:.4g} {measure.unit}",
                "none" if measure.limit is None else f"{measure.limit:g} {measure.unit}",
                "" if measure.value is None or not measure.limit else f"{measure.value / measure.limit:.0%}",
                "too high" if measure.broken else "",
            ),
            "not met" if measure.broken else "",
        )
        for measure in report.measures
    )
    versions = ", ".join(f"{count} by version {version}" for version, count in report.versions.items()) or "none"
    text = f"Of all requests of the last closed window: {versions}. A broken limit warns, and never retrains."
    return Section("Operations", text, ("figure", "value", "limit", "of the limit", "verdict"), rows)


def _windows(report: DriftReport, drawn: Mapping[str, str]) -> Section:
    rows = tuple(
        Row(
            (
                str(one.number),
                f"{time_text(one.first)} to {time_text(one.last)}",
                one.champion or "none",
                str(one.requests),
                one.verdict,
                ", ".join(one.alarms) or "none",
                "yes" if one.retrain else "no",
            ),
            "not met" if one.verdict == "drift" else "",
        )
        for one in reversed(report.judged[-SHOWN_WINDOWS:])
    )
    columns = ("window", "from, to", "champion", "requests", "verdict", "alarms", "calls for retraining")
    return Section("Windows", "The newest first.", columns, rows, charts=_chart(drawn, "windows_plot"))


def _signals_plot(report: DriftReport) -> str:
    bars = [
        Level(signal.name, max(0.0, -math.log10(max(signal.adjusted, 1e-12))), f"p {signal.adjusted:.2g}", signal.alarm)
        for signal in report.signals
    ]
    return levels(bars, limit=-math.log10(report.alpha), title=TITLES["signals_plot"], limit_name=f"alarm: p {report.alpha:g}")


def _windows_plot(report: DriftReport) -> str:
    shown: list[Judged] = list(report.judged[-SHOWN_WINDOWS:])
    series = [
        Series("requests", [one.far for one in shown], [one.verdict == "drift" for one in shown]),
        Series("held-back texts", [one.held_back_far for one in shown]),
    ]
    first, last = (time_text(one.last) for one in (shown[0], shown[-1])) if shown else ("", "")
    return timeline(series, title=TITLES["windows_plot"], first=first, last=last)


def _feedback_plot(report: DriftReport) -> str:
    if report.feedback is None:
        return ""
    values = [math.log10(1 + value) for value in report.feedback.values]
    last = f"label {report.feedback.labels}"
    return timeline([Series("log10(1 + detector)", values)], title=TITLES["feedback_plot"], first="the first label", last=last)


def _chart(drawn: Mapping[str, str], name: str) -> tuple[str, ...]:
    return (drawn[name],) if name in drawn else ()


def _one_line(text: str) -> str:
    return " ".join(text.split())[:SHOWN_CHARACTERS]
