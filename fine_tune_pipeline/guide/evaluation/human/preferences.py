"""What people preferred, as a source of examples: `prompt`, `chosen` and `rejected`, as `layout: preference` reads them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.evaluation.human.judgements import Judgement, points_of
from fine_tune_pipeline.guide.evaluation.human.pairs import HandOut
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED

FILE = "preferences.jsonl"


def preferences(judgements: Sequence[Judgement], handed_out: HandOut, rows: Sequence[Example]) -> list[dict[str, Any]]:
    """A row for each test row of which most people prefer one answer; a tie, and pairs of which neither can be used, say nothing.

    Args:
        rows: the test set.
    """
    key, examples = handed_out.key, {row.id: row for row in rows}
    by_example: dict[str, list[float]] = defaultdict(list)
    for judgement in judgements:
        by_example[key[judgement.pair].example].append(points_of(judgement, key))
    answers = _answers(handed_out)
    found = []
    for id_, said in by_example.items():
        share = sum(said) / len(said)
        if share != 0.5:
            own, other = answers[id_]
            chosen, rejected = (own, other) if share > 0.5 else (other, own)
            found.append({"id": id_, **_asked(examples[id_]), "chosen": chosen, "rejected": rejected, "judgements": len(said)})
    return found


def _answers(handed_out: HandOut) -> Mapping[str, tuple[str, str]]:
    """Test row -> the answer of the fine-tuned model, and the other one."""
    found = {}
    for pair in handed_out.pairs:
        secret = handed_out.key[pair.id]
        found[secret.example] = (pair.A, pair.B) if secret.A == FINE_TUNED else (pair.B, pair.A)
    return found


def _asked(row: Example) -> dict[str, Any]:
    if not (row.history or row.tools or row.role != "user"):
        return {"prompt": row.prompt}
    return {"prompt": [*row.history, {"role": row.role, "content": row.prompt}], **({"tools": row.tools} if row.tools else {})}
