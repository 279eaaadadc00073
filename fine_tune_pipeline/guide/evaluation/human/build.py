"""The human evaluation: what was handed out, what came back, and whether the objective may count on it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows, write_rows
from fine_tune_pipeline.artifacts.fingerprint import fingerprint, payload
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.quarantine import Quarantined, reasons, write_quarantine
from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.dataset.review.verdicts import Line
from fine_tune_pipeline.guide.evaluation.human import page
from fine_tune_pipeline.guide.evaluation.human.judgements import Asked, Judgement, read_judgements
from fine_tune_pipeline.guide.evaluation.human.outcome import Result, result
from fine_tune_pipeline.guide.evaluation.human.pairs import HandOut, Secret, hand_out
from fine_tune_pipeline.guide.evaluation.human.preferences import FILE as PREFERENCES
from fine_tune_pipeline.guide.evaluation.human.preferences import preferences
from fine_tune_pipeline.guide.evaluation.human.rival import Rival, rival
from fine_tune_pipeline.guide.evaluation.human.rubric import questions
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.technique.answer_rows import read_answers
from fine_tune_pipeline.spec.evaluation import HumanSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

KIND = "pairs"
CHECK = "human_verdict"
KEY, RESULT, JUDGEMENTS, PAIRS = "key.json", "result.json", "judgements.jsonl", "pairs.jsonl"


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same rows of the test set, and the pairs that people see of them."""

    rival: Rival
    fine_tuned: Sequence[str]
    handed_out: HandOut
    questions: Mapping[str, str]


@dataclass(frozen=True)
class Heard:
    """What people said: valid judgements, and lines that are none."""

    judgements: Sequence[Judgement]
    refused: Sequence[Quarantined]


def compare(spec: UseCaseSpec, store: Store, *, dataset: Artifact, predictions: Artifact) -> Comparison:
    """The pairs of these predictions: the same ones whenever it is called, as long as the same version is live."""
    human = spec.evaluation.human
    other = rival(spec, store, rows=read_examples(dataset.file("test.jsonl")), predictions=predictions)
    own = read_answers(predictions.file(f"{FINE_TUNED}.jsonl"), other.rows)
    pairs = hand_out(
        other.rows, other=other.answers, fine_tuned=own, other_name=other.name, count=human.pairs, repeated=human.repeated,
        seed=spec.training.seed, cluster_by=spec.objective.evidence.cluster_by,
    )  # fmt: skip
    return Comparison(other, own, pairs, questions(spec))


def decides(spec: UseCaseSpec, compared: Comparison) -> dict[str, Any]:
    """What decides which pairs people see and what they are asked, beside the predictions."""
    human = spec.evaluation.human
    return {
        "evaluation.human.pairs": human.pairs, "evaluation.human.repeated": human.repeated, "evaluation.human.versus": human.versus,
        "evaluation.human.questions": dict(compared.questions), "training.seed": spec.training.seed,
        "champion": compared.rival.predictions,
    }  # fmt: skip


def review_folder(root: Path, spec: UseCaseSpec, compared: Comparison, *, predictions: Artifact) -> ReviewFolder:
    """Where these pairs are handed out: a folder of their own for every set of answers and all that is asked of them."""
    content = payload(asset=KIND, version=2, what=decides(spec, compared), upstream={"predictions": predictions.fingerprint})
    return ReviewFolder.at(root, use_case=spec.name, kind=KIND, fingerprint=fingerprint(content))


def hear(lines: Sequence[Line], compared: Comparison, *, handout: str) -> Heard:
    """Read what people handed in to a hand-out of this name."""
    return Heard(*read_judgements(lines, Asked(tuple(compared.handed_out.key), tuple(compared.questions), handout)))


def build_human_evaluation(spec: UseCaseSpec, compared: Comparison, heard: Heard, *, offered: ReviewFolder, folder: Path) -> Built:
    """Write pairs.jsonl, key.json, judgements.jsonl, quarantine.jsonl, preferences.jsonl and result.json from what was said so far."""
    human, level, pairs = spec.evaluation.human, spec.objective.evidence.level, compared.handed_out
    found = result(
        heard.judgements, pairs, level=level, seed=spec.training.seed, questions=tuple(compared.questions), named=human.reviewers
    )
    write_rows(folder / PAIRS, (asdict(pair) for pair in pairs.pairs))
    (folder / KEY).write_text(pairs.key_json(), encoding="utf-8")
    write_rows(folder / JUDGEMENTS, (asdict(judgement) for judgement in heard.judgements))
    write_quarantine(folder, heard.refused)
    write_rows(folder / PREFERENCES, preferences(heard.judgements, pairs, compared.rival.rows))
    document = {
        **asdict(found), "partial": found.partial, "waiting": found.waiting, "warnings": found.warnings, "versus": compared.rival.said,
        "identical": pairs.identical, "test_rows": pairs.rows,
    }  # fmt: skip
    (folder / RESULT).write_text(json.dumps(document, indent=2), encoding="utf-8")
    return Built(
        metadata=_metadata(found, compared, heard.refused),
        markdown={"result": page.said(found, compared.rival.said), "how to judge": page.how_to(offered, compared.questions, human)},
        checks=[human_check(found, human, level=level)],
    )


def read_heard(artifact: Artifact) -> tuple[list[Judgement], dict[str, Secret]]:
    """The judgements of an artifact, and its key."""
    key = {pair: Secret(**secret) for pair, secret in artifact.json(KEY).items()}
    return [Judgement(**row) for row in read_rows(artifact.file(JUDGEMENTS))], key


def human_check(found: Result, human: HumanSpec, *, level: float) -> Check:
    """Blocks only when the spec requires people; waiting is not a pass, and without the demand only a warning."""
    passed, said = _verdict(found, human, level=level)
    return Check(name=CHECK, passed=passed, blocking=human.required, description=said)


def _verdict(found: Result, human: HumanSpec, *, level: float) -> tuple[bool, str]:
    if found.pairs == 0:
        return True, "both systems give the same answer to every test row, so there is nothing to compare"
    if found.win_rate is None or found.lower is None or found.waiting:
        demand = "deployment waits for them" if human.required else "not required, so nothing waits for them"
        so_far = (
            "" if found.win_rate is None else f"; partial result: win rate {page.bounds(found.win_rate)} on {found.rows} test rows so far"
        )
        return False, f"{found.state}; {demand}{so_far}"
    said = (
        f"win rate {found.win_rate.estimate:.3f} on {found.rows} test rows, at least {found.lower:.3f} at level {level:g}; "
        f"want more than {human.win_rate_at_least:g}"
    )
    if found.lower > human.win_rate_at_least or human.win_rate_at_least == 0:
        return True, said
    cannot_tell = found.win_rate.estimate >= human.win_rate_at_least
    return False, said + ("; too few pairs to tell: raise evaluation.human.pairs" if cannot_tell else "; people do not prefer it")


def _metadata(found: Result, compared: Comparison, refused: Sequence[Quarantined]) -> dict[str, Any]:
    pairs = compared.handed_out
    known: dict[str, Any] = {
        "state": found.state, "partial": found.partial, "versus": compared.rival.said,
        "pairs": found.pairs, "answered": found.answered, "people": found.people,
        "identical_answers": f"{pairs.identical} of {pairs.rows} test rows", "quarantined": reasons(refused),
    }  # fmt: skip
    for name in ("win_rate", "ties", "unusable"):
        if (bounds := getattr(found, name)) is not None:
            known |= {name: bounds.estimate, f"{name}_low": bounds.lower, f"{name}_high": bounds.upper}
    tables = {"rubric": page.rubric_rows(found), "reviewers": page.reviewer_rows(found)}
    return known | _trust(found) | {name: rows for name, rows in tables.items() if rows}


def _trust(found: Result) -> dict[str, Any]:
    """How far the judgements can be trusted, where that was measured."""
    trust: dict[str, Any] = {"warnings": found.warnings}
    if found.side_a is not None:
        trust["chose_side_a"] = found.side_a.estimate
    if found.consistent is not None:
        trust["same_when_swapped"] = found.consistent.estimate
    if found.alpha is not None:
        trust |= {"alpha": found.alpha.value, "alpha_low": found.alpha.lower, "alpha_high": found.alpha.upper}
    return trust
