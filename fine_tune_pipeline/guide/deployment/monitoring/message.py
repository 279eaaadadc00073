"""What the webhook is told of a report."""

from typing import Any

from fine_tune_pipeline.guide.deployment.monitoring.page import alarms_told
from fine_tune_pipeline.guide.deployment.monitoring.report import DriftReport


def message(report: DriftReport, *, use_case: str, fingerprint: str) -> dict[str, Any] | None:
    """The JSON body; None when nothing is wrong, or nothing has happened since the last report. It holds no text of a request.

    Args:
        fingerprint: of the report's artifact.
    """
    drift = report.verdict == "drift"
    if not (drift or report.broken) or not report.new_windows:
        return None
    broken = [f"{measure.name} {measure.value:.3g} {measure.unit}, limit {measure.limit:g}" for measure in report.broken]
    said = [f"drift: {alarms_told(report)}"] if drift else []
    said += [f"above its limit: {told}" for told in broken]
    return {
        # What chat systems show of a message.
        "text": f"{use_case}: {'; '.join(said)}",
        "use_case": use_case,
        "verdict": report.verdict,
        "champion": report.champion,
        "report": fingerprint,
        "requests": report.requests,
        "windows": [one.number for one in report.judged[-report.new_windows :]],
        "signals": [
            {"name": signal.name, "p": signal.p, "adjusted": signal.adjusted, "effect": signal.effect, "alarm": signal.alarm}
            for signal in report.signals
        ],
        "feedback": None if report.feedback is None else report.feedback.model_dump(exclude={"values"}),
        "above_limits": broken,
    }
