"""A model's verdict on pairs, calibrated and corrected by people; it decides something only where both allow it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import write_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.quarantine import Quarantined, reasons, write_quarantine
from fine_tune_pipeline.artifacts.replies import Replies
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.dataset.more.chat_model import Chat
from fine_tune_pipeline.guide.dataset.review.sample import shown_prompt
from fine_tune_pipeline.guide.evaluation.human.build import Comparison, read_heard
from fine_tune_pipeline.guide.evaluation.judge.asking import items, judge
from fine_tune_pipeline.guide.evaluation.judge.calibration import JudgeResult, between_people, judge_result, people_by_row
from fine_tune_pipeline.guide.evaluation.judge.page import said
from fine_tune_pipeline.spec.judge import JudgeSpec, refuse_own_model
from fine_tune_pipeline.spec.use_case import UseCaseSpec

CHECK = "judge_verdict"
FILE, RESULT = "judged.jsonl", "judge.json"

PLACE = {"url", "key_variable", "timeout_seconds", "tries", "parallel"}
"""Fields that say where and how patiently the judge is asked, not what."""


def judge_of(spec: UseCaseSpec) -> JudgeSpec:
    """The section, of a use case that has one."""
    assert spec.evaluation.judge is not None
    return spec.evaluation.judge


def chat_of(spec: UseCaseSpec, store: Store, *, base_model: Artifact) -> Chat:
    """The judge, with all that it answered before.

    Raises:
        JudgedByItself: it is the base that was chosen, by a name that only the catalogue knows.
    """
    judge = judge_of(spec)
    chosen = base_model.json("base_model.json")
    bases = [str(name) for name in (chosen["id"], *_named(chosen.get("source"))) if name]
    refuse_own_model(judge, use_case=spec.name, bases=bases, port=spec.deployment.port)
    return Chat(judge, Replies(store.root / spec.name / "replies"), field="evaluation.judge")


def build_judge_evaluation(spec: UseCaseSpec, compared: Comparison, chat: Chat, *, human: Artifact, folder: Path) -> Built:
    """Write judged.jsonl, quarantine.jsonl and judge.json.

    Raises:
        NoModelKey, ModelRefused, ModelUnreachable, NothingReadable: what the judge answered before is kept for the next run.
    """
    judgements, key = read_heard(human)
    people = people_by_row(judgements, key)
    rows = [(row.id, shown_prompt(row)) for row in compared.rival.rows]
    seed, level = spec.training.seed, spec.objective.evidence.level
    asked = items(
        rows, fine_tuned=compared.fine_tuned, other=compared.rival.answers, rated=set(people), most=judge_of(spec).items, seed=seed
    )
    judged, refused = judge(chat, asked, goal=spec.objective.goal, questions=compared.questions)
    found = judge_result(judged, people, between=between_people(judgements, key), level=level, seed=seed)
    write_rows(folder / FILE, ({**asdict(one), "points": one.points, "people": people.get(one.row)} for one in judged))
    write_quarantine(folder, refused)
    document = {**asdict(found), "model": chat.spec.model, "versus": compared.rival.said, "doubt": found.calibration.doubt}
    (folder / RESULT).write_text(json.dumps(document, indent=2), encoding="utf-8")
    return Built(
        metadata=_metadata(found, refused, model=chat.spec.model, asked=len(asked)),
        markdown={"result": said(found, model=chat.spec.model, versus=compared.rival.said)},
        checks=[judge_check(found, spec, level=level)],
    )


def judge_check(found: JudgeResult, spec: UseCaseSpec, *, level: float) -> Check:
    """Blocks only when the spec requires the judge and people have shown that it can be believed."""
    wanted, doubt = spec.evaluation.human.win_rate_at_least, found.calibration.doubt
    if found.rows == 0:
        return Check(
            name=CHECK, passed=True, blocking=False, description="both systems give the same answers, so there is nothing to judge"
        )
    if doubt is not None or found.corrected is None or found.lower is None:
        return Check(name=CHECK, passed=False, blocking=False, description=f"{doubt}; its numbers are shown, and decide nothing")
    description = (
        f"win rate by the judge, corrected by people on {found.calibration.rated} of {found.rows} rows: {found.corrected.estimate:.3f}, "
        f"at least {found.lower:.3f} at level {level:g}; want more than {wanted:g}"
    )
    return Check(name=CHECK, passed=found.lower > wanted, blocking=judge_of(spec).required, description=description)


def _metadata(found: JudgeResult, refused: Sequence[Quarantined], *, model: str, asked: int) -> dict[str, Any]:
    calibration = found.calibration
    bounded = {
        "win_rate_corrected": found.corrected, "win_rate_judge_alone": found.alone, "agreement_with_people": calibration.agreement,
        "order_decided": found.flips,
    }  # fmt: skip
    numbers: dict[str, Any] = {}
    for name, bounds in bounded.items():
        if bounds is not None:
            numbers |= {name: bounds.estimate, f"{name}_low": bounds.lower, f"{name}_high": bounds.upper}
    if (kappa := calibration.kappa) is not None:
        numbers |= {"kappa": kappa.value, "kappa_low": kappa.lower, "kappa_high": kappa.upper}
    facts = {"model": model, "rows": found.rows, "rows_rated_by_people": calibration.rated, "state": calibration.doubt or "calibrated"}
    partial = {"partial": f"{len(refused)} of {asked} rows were not judged"} if refused else {}
    return facts | partial | {"quarantined": reasons(refused)} | numbers


def _named(source: Any) -> list[str]:
    """Names in where the base came from."""
    if isinstance(source, Mapping):
        own = [str(source[name]) for name in ("id", "repo", "model") if source.get(name)]
        return [*own, *(name for value in source.values() for name in _named(value))]
    return []
