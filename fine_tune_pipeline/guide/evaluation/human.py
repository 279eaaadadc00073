"""The human evaluation: what was handed out, what came back, and whether the objective may count on it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example, read_examples, write_rows
from fine_tune_pipeline.artifacts.fingerprint import fingerprint, payload
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.quarantine import Quarantined, reasons, write_quarantine
from fine_tune_pipeline.artifacts.reviews import HANDOUT, VERDICTS, ReviewFolder
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.evaluation.judgements import CHOICES, Result, read_judgements, result
from fine_tune_pipeline.guide.evaluation.pairs import HandOut, hand_out
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.preferences import FILE as PREFERENCES
from fine_tune_pipeline.guide.evaluation.preferences import preferences
from fine_tune_pipeline.guide.evaluation.report import BASES
from fine_tune_pipeline.guide.technique.systems import read_answers
from fine_tune_pipeline.spec.evaluation import HumanSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

KIND = "pairs"
CHECK = "human_verdict"


def make_pairs(spec: UseCaseSpec, *, dataset: Artifact, predictions: Artifact) -> HandOut:
    """The pairs of these predictions: the same ones whenever it is called."""
    rows = read_examples(dataset.file("test.jsonl"))
    base = next(name for name in BASES if f"{name}.jsonl" in predictions.manifest.files)
    return hand_out(
        rows,
        base=read_answers(predictions.file(f"{base}.jsonl"), rows),
        fine_tuned=read_answers(predictions.file(f"{FINE_TUNED}.jsonl"), rows),
        base_name=base,
        count=spec.evaluation.human.pairs,
        seed=spec.training.seed,
    )


def review_folder(root: Path, spec: UseCaseSpec, *, predictions: Artifact) -> ReviewFolder:
    """Where these pairs are handed out: a folder of their own for every set of answers and every number of pairs."""
    what = {"evaluation.human.pairs": spec.evaluation.human.pairs, "training.seed": spec.training.seed}
    content = payload(asset=KIND, version=1, what=what, upstream={"predictions": predictions.fingerprint})
    return ReviewFolder.at(root, use_case=spec.name, kind=KIND, fingerprint=fingerprint(content))


def offer(folder: ReviewFolder, handed_out: HandOut) -> Path:
    """Write the blind pairs for people, if there are any; verdicts that are there already stay."""
    return folder.hand_out([asdict(pair) for pair in handed_out.pairs])


def verdict_lines(folder: ReviewFolder) -> list[str]:
    """What people wrote, line by line; a byte that is not UTF-8 costs its character, not the file."""
    if not folder.verdict_file.exists():
        return []
    return folder.verdict_file.read_text(encoding="utf-8-sig", errors="replace").split("\n")


def build_human_evaluation(
    spec: UseCaseSpec, handed_out: HandOut, lines: Sequence[str], *, rows: Sequence[Example], offered: ReviewFolder, folder: Path
) -> Built:
    """Write pairs.jsonl, key.json, quarantine.jsonl, preferences.jsonl and result.json from what people handed in so far.

    Args:
        lines: none when nothing came.
        rows: the test set.
    """
    judgements, refused = read_judgements(lines, known=handed_out.key)
    found = result(judgements, handed_out, level=spec.objective.evidence.level, seed=spec.training.seed)
    write_rows(folder / "pairs.jsonl", (asdict(pair) for pair in handed_out.pairs))
    (folder / "key.json").write_text(handed_out.key_json(), encoding="utf-8")
    write_quarantine(folder, refused)
    write_rows(folder / PREFERENCES, preferences(judgements, handed_out, rows))
    document = {**asdict(found), "identical": handed_out.identical, "rows": handed_out.rows}
    (folder / "result.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    return Built(
        metadata=_metadata(found, handed_out, refused),
        markdown={"how to judge": _how_to(offered)},
        checks=[human_check(found, spec.evaluation.human, level=spec.objective.evidence.level)],
    )


def human_check(found: Result, human: HumanSpec, *, level: float) -> Check:
    """Blocks only when the spec requires people; waiting is not a pass, and without the demand only a warning."""
    passed, said = _verdict(found, human, level=level)
    return Check(name=CHECK, passed=passed, blocking=human.required, description=said)


def _verdict(found: Result, human: HumanSpec, *, level: float) -> tuple[bool, str]:
    if found.pairs == 0:
        return True, "both systems give the same answer to every test row, so there is nothing to compare"
    if found.waiting or found.win_rate is None or found.lower is None:
        demand = "deployment waits for them" if human.required else "not required, so nothing waits for them"
        return False, f"waiting for people ({found.answered} of {found.pairs}); {demand}"
    said = f"win rate {found.win_rate.estimate:.3f}, at least {found.lower:.3f} at level {level:g}; want {human.win_rate_at_least:g}"
    if found.lower >= human.win_rate_at_least:
        return True, said
    cannot_tell = found.win_rate.estimate >= human.win_rate_at_least
    return False, said + ("; too few pairs to tell: raise evaluation.human.pairs" if cannot_tell else "; people do not prefer it")


def _metadata(found: Result, handed_out: HandOut, refused: Sequence[Quarantined]) -> dict[str, Any]:
    state = f"waiting for people ({found.answered} of {found.pairs})" if found.waiting else "all pairs are judged"
    known: dict[str, Any] = {"state": state, "pairs": found.pairs, "answered": found.answered, "people": found.people}
    known |= {"identical_answers": f"{handed_out.identical} of {handed_out.rows} test rows", "quarantined": reasons(refused)}
    if found.win_rate is not None:
        known |= {"win_rate": found.win_rate.estimate, "win_rate_low": found.win_rate.lower, "win_rate_high": found.win_rate.upper}
    if found.unusable is not None:
        known["unusable"] = found.unusable
    return known | _trust(found)


def _trust(found: Result) -> dict[str, Any]:
    """How far the judgements can be trusted, where that was measured."""
    trust: dict[str, Any] = {}
    if found.first_side is not None:
        side = found.first_side
        follows = not side.lower <= 0.5 <= side.upper
        trust["chose_side_a"] = side.estimate
        trust["side_warning"] = "people follow the side, not the answer" if follows else "none"
    if found.consistent is not None:
        trust["same_when_swapped"] = found.consistent
    return trust


def _how_to(offered: ReviewFolder) -> str:
    """Instructions without a path: where the hand-out lies is shown beside them, and differs from machine to machine."""
    return (
        f"Read `{offered.folder.name}/{HANDOUT}`: each line has `id`, `prompt` and two answers, `A` and `B`. "
        f"Write one line per pair into `{VERDICTS}` beside it:\n\n"
        '```json\n{"id": "p001", "choice": "A", "by": "your name"}\n```\n\n'
        f"`choice` is one of {', '.join(CHOICES)} (unusable: neither answer can be used). Several people may judge the same pair. "
        "Then materialize this asset again."
    )
