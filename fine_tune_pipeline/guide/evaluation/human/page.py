"""The human evaluation as people read it: every figure with how many rows it rests on and its interval."""

from collections.abc import Mapping
from typing import Any

from fine_tune_pipeline.artifacts.reviews import HANDED_IN, HANDOUT, VERDICTS, ReviewFolder
from fine_tune_pipeline.guide.evaluation.bounds import Bounds
from fine_tune_pipeline.guide.evaluation.human.outcome import Result
from fine_tune_pipeline.guide.evaluation.human.rubric import ANSWERS, CHOICES
from fine_tune_pipeline.guide.evaluation.human.ways import FORM
from fine_tune_pipeline.pages.document import Page, Row, Section, markdown, table
from fine_tune_pipeline.people.agreement import BeyondChance
from fine_tune_pipeline.spec.evaluation import HumanSpec

NOT_MEASURED = "not measured"


def said(found: Result, versus: str) -> str:
    """The result as Markdown."""
    advice = "Nobody has judged a pair yet." if found.win_rate is None else f"Win rate of the fine-tuned model: {bounds(found.win_rate)}."
    if found.partial:
        advice = f"PARTIAL: {found.state}. {advice}"
    figures = [
        ("win rate, ties as one half", bounds(found.win_rate)),
        ("ties", bounds(found.ties)),
        ("neither can be used", bounds(found.unusable)),
        ("chose A, if both were alike", bounds(found.side_a)),
        ("same when swapped", bounds(found.consistent)),
        ("agreement (alpha)", beyond(found.alpha)),
    ]
    rows = tuple(Row((name, figure)) for name, figure in figures)
    sections = [
        Section("Figures", f"On {found.rows} test rows on which the answers differ; 95 % intervals.", ("figure", "value"), rows),
        table("Rubric", rubric_rows(found)),
        table("Reviewers", reviewer_rows(found)),
        Section("To be known", items=tuple(found.warnings) or ("nothing",)),
    ]
    return markdown(Page(title="People's verdict", advice=advice, about=f"Compared with {versus}; {found.state}.", sections=sections))


def rubric_rows(found: Result) -> list[dict[str, Any]]:
    """A row for each question that somebody answered."""
    return [
        {
            "question": one.question, "test rows": one.rows, "fine-tuned": bounds(one.fine_tuned), "other": bounds(one.other),
            "difference": bounds(one.gain), "alpha": beyond(one.alpha),
        }
        for one in found.rubric
    ]  # fmt: skip


def reviewer_rows(found: Result) -> list[dict[str, Any]]:
    """A row for each person who judged."""
    return [
        {
            "reviewer": one.name, "judged": f"{one.judged} of {found.pairs}", "win rate": bounds(one.win_rate),
            "chose A, if both were alike": bounds(one.side_a), "lets pass": bounds(one.passes),
            "more than others": bounds(one.lenient), "warning": "; ".join(one.warnings) or "none",
        }
        for one in found.reviewers
    ]  # fmt: skip


def bounds(found: Bounds | None) -> str:
    """An estimate with its interval."""
    return NOT_MEASURED if found is None else f"{found.estimate:.2f} ({found.lower:.2f} to {found.upper:.2f})"


def beyond(found: BeyondChance | None) -> str:
    """Agreement with its interval."""
    return NOT_MEASURED if found is None else f"{found.value:.2f} ({found.lower:.2f} to {found.upper:.2f})"


def how_to(offered: ReviewFolder, questions: Mapping[str, str], human: HumanSpec) -> str:
    """Instructions without a path: where the hand-out lies is shown beside them, and differs from machine to machine."""
    rubric = "".join(f', "{name}": "both"' for name in questions)
    asked = "".join(f"\n- `{name}`: {said} One of {', '.join(ANSWERS)}." for name, said in questions.items())
    form = f"Open `{offered.folder.name}/{FORM}` in a browser, or read" if "html" in human.formats else "Read"
    queues = " Or answer in MLflow, under Reviews of the experiment of this hand-out." if "mlflow" in human.formats else ""
    return (
        f"{form} `{offered.folder.name}/{HANDOUT}`: each line has `id`, `prompt` and two answers, `A` and `B`. "
        f"Put what the form gives into `{HANDED_IN}` beside it, or write one line per pair into `{VERDICTS}`:\n\n"
        f'```json\n{{"id": "p001", "choice": "A"{rubric}, "by": "your name"}}\n```\n\n'
        f"- `choice` is one of {', '.join(CHOICES)} (unusable: neither answer can be used).{asked}\n\n"
        f"Several people may judge the same pair.{queues} Then materialize this asset again."
    )
