"""What the judge says, as people read it: never without saying how far it can be believed."""

from fine_tune_pipeline.guide.evaluation.human.page import NOT_MEASURED, beyond, bounds
from fine_tune_pipeline.guide.evaluation.judge.calibration import JudgeResult
from fine_tune_pipeline.pages.document import Page, Row, Section, markdown


def said(found: JudgeResult, *, model: str, versus: str) -> str:
    """The result as Markdown."""
    calibration = found.calibration
    figures = [
        ("win rate, judge corrected by people", bounds(found.corrected), found.rows),
        ("win rate, judge alone (biased)", bounds(found.alone), found.rows),
        ("judge and people prefer the same", bounds(calibration.agreement), calibration.rated),
        ("the same beyond chance (Cohen's kappa)", beyond(calibration.kappa), calibration.rated),
        ("two people prefer the same", NOT_MEASURED if calibration.people is None else f"{calibration.people:.2f}", calibration.rated),
        ("the order decided", bounds(found.flips), found.rows),
    ]
    rows = tuple(Row((name, figure, str(count))) for name, figure, count in figures)
    return markdown(
        Page(
            title="A model's verdict",
            advice=f"{model} judged {found.rows} test rows, each in both orders; where the order decides it is a tie.",
            about=f"Compared with {versus}. {calibration.doubt or 'calibrated by people'}.",
            sections=[Section("Figures", "95 % intervals, over test rows on which the answers differ.", ("figure", "value", "rows"), rows)],
        )
    )
